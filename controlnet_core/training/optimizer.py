"""What updates a net's weights: AdamW with a state of 32 or of 8 bits, on weights in float32 or in bfloat16.

Weights in bfloat16 have three digits, and most updates are smaller than their last one. So an update is computed in
float32 and rounded up or down by chance, the nearer the likelier: on average nothing is lost. The chance is keyed, as
all randomness here is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import SettingError
from ..keyed import keyed_seed
from .memory import OptimizerName
from .parallel_net import sharded_like

EIGHT_BIT = "bitsandbytes"
EIGHT_BIT_DEVICES = ("cuda", "cpu", "xpu")
LEAST_IN_8_BITS, BLOCK = 4096, 256
"""Smaller tensors keep a state of 32 bits; in others each block of numbers has a scale."""
AT_ONCE = 2**24
"""Numbers of weights in bfloat16 that are in float32 at once."""


class NetOptimizer:
    """The optimizer of a net.

    Arguments:
        net: The net, its weights all in float32 or all in bfloat16.
        kind: "adamw", or "adamw_8bit", whose state has 8 bits.
        weight_decay: The weight decay.
        seed: Seeds the rounding of weights in bfloat16.

    Raises:
        SettingError: If bitsandbytes is missing, or has no kernels for the device.
    """

    def __init__(self, net: nn.Module, kind: OptimizerName, weight_decay: float, seed: int) -> None:
        self.parameters = list(net.parameters())
        self.seed = seed
        self._in_bfloat16 = self.parameters[0].dtype == torch.bfloat16
        make = _adamw if kind == "adamw" else _adamw_8bit
        self._adamw = make(self.parameters, weight_decay)
        self._fixed = _tables_of_8bit(self._adamw, self.parameters[0].device) if kind == "adamw_8bit" else {}

    @property
    def _group(self) -> dict[str, Any]:
        """The only group of parameters."""
        (group,) = self._adamw.param_groups
        return group

    def update(self, step: int, learning_rate: float) -> None:
        """Update the weights by their gradients, and forget these.

        Arguments:
            step: The step, counted from 0.
            learning_rate: Its learning rate.
        """
        self._group["lr"] = learning_rate
        if self._in_bfloat16:
            for first, portion in _portions(self.parameters):
                self._update_rounded(step, first, portion)
        else:
            self._adamw.step()
        self._adamw.zero_grad()  # before the next forward pass, so that gradients and activations never coexist

    @torch.no_grad()
    def _update_rounded(self, step: int, first: int, portion: list[nn.Parameter]) -> None:
        """Update some of the weights in float32, and round them by chance.

        The parameters themselves keep their dtype: where copies are trained, DDP would lose sight of them.
        """
        exact = [_in_float32(parameter) for parameter in portion]
        self._hand_over(portion, exact)
        self._group["params"] = exact
        self._adamw.step()
        self._group["params"] = self.parameters
        self._hand_over(exact, portion)
        for number, (parameter, weight) in enumerate(zip(portion, exact, strict=True), start=first):
            generator = torch.Generator(parameter.device)
            generator.manual_seed(keyed_seed("rounding", self.seed, step, number))
            parameter.copy_(rounded_by_chance(weight, generator))

    def _hand_over(self, owners: Sequence[Tensor], heirs: Sequence[Tensor]) -> None:
        """Let parameters have the state of others."""
        states = self._adamw.state
        for owner, heir in zip(owners, heirs, strict=True):
            if owner in states:
                states[heir] = states.pop(owner)

    def state(self) -> dict[str, Tensor]:
        """Everything needed to go on from here: tensors, named by the parameter's number and their own name."""
        return {
            f"{number}.{name}": torch.as_tensor(value)
            for number, parameter in enumerate(self.parameters)
            for name, value in self._adamw.state.get(parameter, {}).items()
            if name not in self._fixed
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a state."""
        self._adamw.state.clear()
        for key, value in state.items():
            number, name = key.split(".")
            parameter = self.parameters[int(number)]
            self._adamw.state[parameter][name] = self._restored(name, value, parameter)
        for values in self._adamw.state.values():
            values.update(self._fixed if "absmax1" in values else {})

    def forget(self) -> None:
        """Give the memory of state and gradients back."""
        self._adamw.zero_grad()
        self._adamw.state.clear()

    def _restored(self, name: str, value: Tensor, parameter: Tensor) -> Tensor | int:
        """A part of the state as the optimizer keeps it: only fused kernels count their steps on the device."""
        if name == "step" and not self._adamw.defaults.get("fused"):
            return int(value) if self._fixed else value
        return sharded_like(value.to(parameter.device), parameter)


def state_bytes(parameters: Sequence[Tensor], kind: OptimizerName) -> int:
    """What the state for these parameters takes."""
    sizes = [parameter.numel() for parameter in parameters]
    if kind == "adamw":
        return sum(8 * size for size in sizes)
    return sum(2 * size + 8 * math.ceil(size / BLOCK) if size >= LEAST_IN_8_BITS else 8 * size for size in sizes)


def update_bytes(parameters: Sequence[nn.Parameter]) -> int:
    """What an update takes besides: weights and gradients in float32, and the chance, where weights are rounded."""
    if parameters[0].dtype != torch.bfloat16:
        return 0
    portions = [sum(parameter.numel() for parameter in portion) for _, portion in _portions(parameters)]
    return 8 * max(portions) + 4 * max(parameter.numel() for parameter in parameters)


def rounded_by_chance(exact: Tensor, generator: torch.Generator) -> Tensor:
    """Round float32 numbers to bfloat16, up or down by chance, so that the mean of many roundings is exact.

    Arguments:
        exact: Finite numbers.
        generator: Draws the chance, on the same device.
    """
    cut = 1 << 16  # bfloat16 is the upper half of float32
    chance = torch.randint(cut, exact.shape, dtype=torch.int32, device=exact.device, generator=generator)
    bits = chance.add_(exact.contiguous().view(torch.int32)).bitwise_and_(-cut)
    return bits.view(torch.float32).to(torch.bfloat16)


def _in_float32(parameter: nn.Parameter) -> Tensor:
    """A parameter's weights and gradient in float32; it gives its own gradient up."""
    exact, gradient = parameter.detach().float(), parameter.grad
    exact.grad = None if gradient is None else gradient.float()
    parameter.grad = None
    return exact


def _portions(parameters: Sequence[nn.Parameter]) -> Iterator[tuple[int, list[nn.Parameter]]]:
    """Split parameters into lists of no more than so many numbers, or of one, each with the number of its first."""
    first, portion, numbers = 0, list[nn.Parameter](), 0
    for number, parameter in enumerate(parameters):
        if portion and numbers + parameter.numel() > AT_ONCE:
            yield first, portion
            first, portion, numbers = number, [], 0
        portion.append(parameter)
        numbers += parameter.numel()
    yield first, portion


def _adamw(parameters: list[nn.Parameter], weight_decay: float) -> torch.optim.Optimizer:
    """Torch's own."""
    fused = parameters[0].device.type in ("cpu", "cuda")
    return torch.optim.AdamW(parameters, weight_decay=weight_decay, fused=fused)


def _adamw_8bit(parameters: list[nn.Parameter], weight_decay: float) -> torch.optim.Optimizer:
    """That of bitsandbytes (Dettmers et al. 2022); tensors of less than 4,096 numbers keep a state of 32 bits."""
    device = parameters[0].device
    wanted, instead = 'optimizer = "adamw_8bit"', 'set optimizer = "adamw"'
    if device.type not in EIGHT_BIT_DEVICES:
        expected = f"one of the devices {', '.join(EIGHT_BIT_DEVICES)}, which bitsandbytes has kernels for"
        raise SettingError(f"{wanted} on the device {device}", expected, f"{instead}, or another device")
    try:
        library = import_module(f"{EIGHT_BIT}.optim")
    except (ImportError, OSError, RuntimeError) as error:  # not installed, or built for another system
        raise SettingError(
            found=f"{wanted}, and {EIGHT_BIT} cannot be imported ({error})",
            expected=f"the package {EIGHT_BIT}",
            do=f"pip install {EIGHT_BIT}, or {instead}",
        ) from error
    made: torch.optim.Optimizer = library.AdamW8bit(parameters, weight_decay=weight_decay)
    return made


def _tables_of_8bit(optimizer: Any, device: torch.device) -> dict[str, Tensor]:  # noqa: ANN401 - of bitsandbytes
    """The values that 8 bits stand for, which are constants and no part of a checkpoint."""
    signed, unsigned = (optimizer.name2qmap[name].to(device) for name in ("dynamic", "udynamic"))
    return {"qmap1": signed, "qmap2": unsigned}
