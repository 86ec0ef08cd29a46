"""Difference ControlNets: files that hold only what to add to the weights of a base's encoder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import FamilyMismatchError
from .keymap import Shape
from .layouts import ldm
from .layouts.foreign import DIFFERENCE
from .layouts.ldm_base import UNET_PREFIX
from .source import CopiedTensors, WeightSource

MARK = "difference"
"""The tensor that tells such a file."""
OWN = ("zero_convs.", "input_hint_block.", "middle_block_out.")
"""What a ControlNet has that its base has not."""


@dataclass(frozen=True)
class Summed:
    """A difference ControlNet as the plain one that it makes with a base.

    Attributes:
        source: The differences.
        base: The base's weights, named as in a checkpoint of the LDM layout.
        added: The base's names of the weights to add, by those of the differences.
        shapes: The shape of each tensor.
        dtypes: The dtype of each.
    """

    source: WeightSource
    base: WeightSource
    added: Mapping[str, str]
    shapes: dict[str, Shape]
    dtypes: dict[str, str]

    @property
    def place(self) -> str:
        """Where the differences are, for messages."""
        return self.source.place

    @property
    def metadata(self) -> dict[str, str]:
        """The metadata stored with the differences."""
        return self.source.metadata

    @contextmanager
    def tensors(
        self, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Iterator[Mapping[str, Tensor]]:
        """Give copies of the sums, each made in float32 when it is asked for; arguments as `WeightSource.tensors`."""
        with self.source.tensors() as differences, self.base.tensors() as weights:

            def original(name: str) -> Tensor:
                difference = differences[name]
                if name not in self.added:
                    return difference
                return (difference.float() + weights[self.added[name]].float()).to(difference.dtype)

            yield CopiedTensors(tuple(self.shapes), original, device, dtype)


def is_difference(source: WeightSource) -> bool:
    """Whether a source is a difference ControlNet."""
    return DIFFERENCE.prefix_in(tuple(source.shapes)) is not None


def summed(source: WeightSource, base: WeightSource) -> Summed:
    """Add a difference ControlNet to the base that it was made for.

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
    shapes = {name: source.shapes[name] for name in names}
    return Summed(source, base, added, shapes, {name: source.dtypes[name] for name in names})
