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
        decay: The share of the average that one update keeps, in the long run.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.weights = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Move the average towards the module's current weights."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        parameters = dict(module.named_parameters())
        names = list(self.weights)
        torch._foreach_lerp_([self.weights[name] for name in names], [parameters[name] for name in names], 1 - decay)

    def restore(self, weights: Mapping[str, Tensor], updates: int) -> None:
        """Restore an average that was saved after `updates` updates."""
        self.updates = updates
        for name, weight in self.weights.items():
            weight.copy_(weights[name])

    @contextmanager
    def applied_to(self, module: nn.Module) -> Iterator[None]:
        """Lend the averaged weights to the module, and give it back its own."""
        parameters = dict(module.named_parameters())
        own = {name: parameter.data for name, parameter in parameters.items()}
        try:
            for name, parameter in parameters.items():
                parameter.data = self.weights[name]
            yield
        finally:
            for name, parameter in parameters.items():
                parameter.data = own[name]
