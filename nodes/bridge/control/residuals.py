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
        place: [_sum(one, other) for one, other in zip_longest(previous.get(place, ()), current.get(place, ()))]
        for place in PLACES
    }


def _sum(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    """The sum of what is there."""
    if one is None or other is None:
        return other if one is None else one
    if one.shape[1:] != other.shape[1:]:
        raise ResidualShapeError(
            found=f"residuals of shapes {tuple(one.shape)} and {tuple(other.shape)} for one block",
            expected="the same shape",
            do="stack nets of one model family",
        )
    return one + other.to(one)
