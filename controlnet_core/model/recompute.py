"""Activation checkpointing: blocks keep only their inputs, and compute the rest again in the backward pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class Recomputable(nn.Module):
    """A module that can keep only its inputs for the backward pass (Chen et al. 2016).

    It draws no random numbers, so it computes the same numbers again.

    Attributes:
        recomputed: Whether it does.
    """

    recomputed = False

    def __call__(self, *inputs: Tensor | None) -> Any:  # noqa: ANN401 - as torch's own
        """Call the module."""
        if not self.recomputed or not torch.is_grad_enabled():
            return super().__call__(*inputs)
        return checkpoint(super().__call__, *inputs, use_reentrant=False, preserve_rng_state=False)


@contextmanager
def recomputing(*modules: nn.Module) -> Iterator[None]:
    """Let all parts of the modules that can be computed again be so, in the forward passes that begin here."""
    parts = [part for module in modules for part in module.modules() if isinstance(part, Recomputable)]
    try:
        for part in parts:
            part.recomputed = True
        yield
    finally:
        for part in parts:
            part.recomputed = False
