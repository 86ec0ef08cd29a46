"""A CONTROL_NET that is not ours, with a curve of block weights and a side of guidance."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import comfy.controlnet
import torch
from torch import Tensor

from ....controlnet_core.config import BlockLevels
from ....controlnet_core.control.application import Application, Window
from ....controlnet_core.control.curves import block_weights
from ..host.messages import warn
from ..host.types import HostControlNet, HostModel
from .host_residuals import HostResiduals, added
from .notes import run_notes
from .residual_hook import previous_residuals, side_of

NO_RESOLUTIONS = "this net's model has no blocks of different resolution, so the curve is not used"


class WeightedControl(comfy.controlnet.ControlBase):
    """A net of ComfyUI or another extension, evaluated alone; a copy of its residuals is weighted, then added.

    Arguments:
        inner: The net, a copy that nobody else uses.
        application: How it is applied; its curve and side act here, strength and window in the inner net.
        node_id: The node that shows warnings; None is the one that samples.
    """

    def __init__(self, inner: HostControlNet, application: Application, node_id: str | None) -> None:
        super().__init__()
        self.inner = inner
        self.application = application
        self.node_id = node_id
        self.extra_hooks = inner.extra_hooks
        self.latent_format = inner.latent_format
        self.concat_mask = inner.concat_mask
        self._warned = self._warned_of_curve = False

    @property
    def control_model(self) -> object:
        """The module that runs."""
        return getattr(self.inner, "control_model", None)

    def set_cond_hint(self, *arguments: object, **named: object) -> WeightedControl:
        """Give the net its hint, strength and window."""
        self.inner.set_cond_hint(*arguments, **named)
        return self

    def set_extra_arg(self, argument: str, value: object = None) -> None:
        """Give the net a further argument, such as a union net's type."""
        self.inner.set_extra_arg(argument, value)

    def copy(self) -> WeightedControl:
        """A copy to be configured on its own."""
        return WeightedControl(self.inner.copy(), self.application, self.node_id)

    def deepclone_multigpu(self, load_device: torch.device, autoregister: bool = False) -> WeightedControl:
        """A copy with weights of its own, for another device."""
        cloned = WeightedControl(self.inner.deepclone_multigpu(load_device), self.application, self.node_id)
        if autoregister:
            self.multigpu_clones[load_device] = cloned
        return cloned

    def get_models(self) -> list[Any]:
        """The patchers to load before sampling."""
        return [*super().get_models(), *self.inner.get_models()]

    def inference_memory_requirements(self, dtype: torch.dtype) -> float:
        """Bytes that the nets need besides their patchers'."""
        own: float = self.inner.inference_memory_requirements(dtype)
        before: float = super().inference_memory_requirements(dtype)
        return own + before

    def pre_run(self, model: HostModel, percent_to_timestep_function: Callable[[float], float]) -> None:
        """Begin a sampling."""
        super().pre_run(model, percent_to_timestep_function)
        self.inner.pre_run(model, percent_to_timestep_function)
        self._warned = self._warned_of_curve = False

    def cleanup(self) -> None:
        """End a sampling."""
        self.inner.cleanup()
        super().cleanup()

    def get_control(
        self, x_noisy: Tensor, t: Tensor, cond: dict[str, Any], batched_number: int, transformer_options: dict[str, Any]
    ) -> HostResiduals | None:
        """What this net and those before it add at one step; arguments as `CoreControlNet.get_control`."""
        step = (x_noisy, t, cond, batched_number, transformer_options)
        if not self._warned:
            self._warned = True
            window = Window(*map(float, self.inner.timestep_range))
            for note in run_notes(self.inner, window, x_noisy, batched_number, transformer_options):
                warn(f"{type(self.inner).__name__}: {note}", self.node_id)
        previous = previous_residuals(self, *step)
        sides = [side_of(index) for index in transformer_options["cond_or_uncond"]]
        acting = [self.application.acting_side in ("both", side) for side in sides]
        control = self.inner.get_control(*step) if any(acting) else None
        if control is None:
            return previous
        if self.application.curve == "flat" and all(acting):
            return added(previous, control)
        rows = torch.tensor(acting, device=x_noisy.device).repeat_interleave(len(x_noisy) // len(acting))
        return added(previous, self._weighted(control, x_noisy.shape[-2], rows))

    def _weighted(self, control: HostResiduals, latent_height: int, rows: Tensor) -> HostResiduals:
        """A weighted copy of a net's residuals, zero in the rows of a side that is off."""
        tensors = [residual for items in control.values() for residual in items if residual is not None]
        if any(residual.ndim != 4 for residual in tensors):
            if not self._warned_of_curve and self.application.curve != "flat":
                self._warned_of_curve = True
                warn(NO_RESOLUTIONS, self.node_id)
            factors = {place: [1.0] * len(items) for place, items in control.items()}
        else:
            factors = self._factors(control, latent_height)

        def weighted(residual: Tensor | None, factor: float) -> Tensor | None:
            if residual is None:
                return None
            expanded = residual.expand(len(rows), *residual.shape[1:]) if len(residual) == 1 else residual
            return expanded * rows.to(residual.dtype).reshape(-1, *(1,) * (residual.ndim - 1)) * factor

        return {place: list(map(weighted, items, factors[place])) for place, items in control.items()}

    def _factors(self, control: HostResiduals, latent_height: int) -> dict[str, list[float]]:
        """The weight of each residual. T2I-Adapters give theirs in "input", deepest first."""
        place = "output" if control.get("output") else "input"
        order = 1 if place == "output" else -1
        skips = control[place][::order]
        middles = control.get("middle", [])
        levels = _levels([*skips, middles[0] if middles else None], latent_height)
        blocks = BlockLevels(tuple(levels[:-1]), levels[-1])
        *weights, middle = block_weights(self.application.curve, blocks, latent_height)
        others = {name: [1.0] * len(items) for name, items in control.items()}
        return {**others, "middle": [middle] * len(middles), place: weights[::order]}


def _levels(tensors: Sequence[Tensor | None], latent_height: int) -> list[int]:
    """How often each residual's resolution was halved; a missing residual has the level of the one before it."""
    levels = [0]
    for tensor in tensors:
        levels.append(levels[-1] if tensor is None else round(math.log2(latent_height / tensor.shape[-2])))
    return levels[1:]
