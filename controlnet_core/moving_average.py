"""The exponential moving average of a net's weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class MovingAverage:
    """Keeps a running average of a module's parameters, with a warm-up: early steps are forgotten faster.

    Arguments:
        module: The module to follow; buffers are not averaged.
        decay: The share of the average that one step keeps, in the long run.
        every: Steps between two updates, each of which then stands for so many; the first steps have one each, so that
            a short run has an average.
        device: Where the average is kept, in float32 or better; None keeps it beside the module.
    """

    def __init__(
        self, module: nn.Module, decay: float, every: int = 1, device: torch.device | str | None = None
    ) -> None:
        self.decay = decay
        self.every = every
        self.updates = 0
        self.weights = {
            name: parameter.detach().to(
                device or parameter.device, torch.promote_types(parameter.dtype, torch.float32), copy=True
            )
            for name, parameter in module.named_parameters()
        }

    @property
    def device(self) -> torch.device:
        """Where the average is."""
        return next(iter(self.weights.values())).device

    def follow(self, module: nn.Module, step: int) -> None:
        """Update the average if that is due after so many steps."""
        if step <= self.every or step % self.every == 0:
            self.update(module)

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Move the average towards the module's current weights."""
        self.updates += 1
        decay = min(self.decay**self.every, (1 + self.updates) / (10 + self.updates))
        averages, parameters = list(self.weights.values()), dict(module.named_parameters())
        current = [parameters[name].detach() for name in self.weights]
        if all(a.dtype == p.dtype and a.device == p.device for a, p in zip(averages, current, strict=True)):
            torch._foreach_lerp_(averages, current, 1 - decay)
            return
        for average, parameter in zip(averages, current, strict=True):  # copied one by one, which takes less memory
            average.lerp_(parameter.to(average), 1 - decay)

    def restore(self, weights: Mapping[str, Tensor], updates: int) -> None:
        """Restore an average that was saved after `updates` updates."""
        self.updates = updates
        for name, weight in self.weights.items():
            weight.copy_(weights[name])

    @contextmanager
    def applied_to(self, module: nn.Module) -> Iterator[None]:
        """Lend the averaged weights to the module, in its own dtype, and give it back its own.

        If the average is on another device, the module's own weights wait there.
        """
        parameters = dict(module.named_parameters())
        own, devices = {}, {name: parameter.device for name, parameter in parameters.items()}
        try:
            for name, parameter in parameters.items():
                average = self.weights[name]
                own[name] = parameter.data.to(average.device)
                parameter.data = average.to(parameter)
            yield
        finally:
            for name, data in own.items():
                parameters[name].data = data.to(devices[name])
