"""Residuals in ComfyUI's form: a dict of lists, which its UNet empties and adds to in place."""

from __future__ import annotations

from itertools import zip_longest

from torch import Tensor

from ....controlnet_core.errors import ResidualShapeError
from ....controlnet_core.model.residuals import Residuals

HostResiduals = dict[str, list[Tensor | None]]
PLACES = ("input", "middle", "output")


def host_residuals(residuals: Residuals, skips: int) -> HostResiduals:
    """Residuals for the skips and the middle block; those that were not computed are None.

    ComfyUI takes the last of a list first, for the deepest skip, so there must be one for each of the `skips`.
    """
    missing: list[Tensor | None] = [None] * (skips - len(residuals.skips))
    return {"input": [], "middle": [residuals.middle], "output": [*residuals.skips, *missing]}


def added(previous: HostResiduals | None, current: HostResiduals) -> HostResiduals:
    """The sum of two nets' residuals, in new lists and new tensors."""
    if previous is None:
        return current
    return {
        place: [_sum(first, second) for first, second in zip_longest(previous.get(place, ()), current.get(place, ()))]
        for place in PLACES
    }


def _sum(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    """The sum of two residuals, or the only one there is."""
    if first is None or second is None:
        return second if first is None else first
    if first.shape[1:] != second.shape[1:]:
        raise ResidualShapeError(
            found=f"residuals of shapes {tuple(first.shape)} and {tuple(second.shape)} for one block",
            expected="the same shape",
            do="stack nets of one model family",
        )
    return first + second.to(first)
