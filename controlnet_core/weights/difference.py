"""Difference ControlNets: files that hold only what to add to the weights of a base's encoder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor

from ..errors import FamilyMismatchError
from .layouts import ldm
from .layouts.foreign import DIFFERENCE
from .layouts.ldm_base import UNET_PREFIX
from .source import ComputedWeights, WeightSource

MARK = "difference"
"""The tensor that tells such a file."""
OWN = ("zero_convs.", "input_hint_block.", "middle_block_out.")
"""What a ControlNet has that its base has not."""


def is_difference(source: WeightSource) -> bool:
    """Whether a source is a difference ControlNet."""
    return DIFFERENCE.prefix_in(tuple(source.shapes)) is not None


def summed(source: WeightSource, base: WeightSource) -> ComputedWeights:
    """Add a difference ControlNet to the base that it was made for; sums are made in float32.

    Arguments:
        source: The differences, in the LDM layout.
        base: The base's weights, named as in a checkpoint of the LDM layout.

    Raises:
        FamilyMismatchError: If the base lacks one of the weights to add to, or has it in another shape.
    """
    names = [name for name in source.shapes if name.split(".")[-1] != MARK]
    prefix = ldm.CONTROLNET.prefix_in(tuple(names)) or ""
    inner = {name: name.removeprefix(prefix) for name in names if name.startswith(prefix)}
    added = {name: UNET_PREFIX + key for name, key in inner.items() if not key.startswith(OWN)}
    for name, theirs in added.items():
        if base.shapes.get(theirs) != source.shapes[name]:
            raise FamilyMismatchError(
                found=f"a difference ControlNet, {source.place}, with {name} of shape {source.shapes[name]}",
                expected=f"that of {base.place}, {base.shapes.get(theirs, 'which has no such weight')}",
                do="give the base that it was made for",
            )

    @contextmanager
    def opened() -> Iterator[Callable[[str], Tensor]]:
        with source.tensors() as differences, base.tensors() as weights:

            def total(name: str) -> Tensor:
                difference = differences[name]
                if name not in added:
                    return difference
                return (difference.float() + weights[added[name]].float()).to(difference.dtype)

            yield total

    shapes, dtypes = {name: source.shapes[name] for name in names}, {name: source.dtypes[name] for name in names}
    return ComputedWeights(source, shapes, dtypes, opened)
