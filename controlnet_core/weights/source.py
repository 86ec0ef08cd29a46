"""What weights are read from: a safetensors file, the models of a host, or whatever else holds named tensors."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .keymap import Shape, Shapes


class WeightSource(Protocol):
    """Named tensors whose shapes and dtypes are known before any is read."""

    @property
    def place(self) -> str:
        """Where they are, for messages: the path of a file."""

    @property
    def shapes(self) -> Shapes:
        """The name and shape of each tensor."""

    @property
    def dtypes(self) -> Mapping[str, str]:
        """The dtype of each tensor, such as "float16"."""

    @property
    def metadata(self) -> dict[str, str]:
        """The metadata stored with them, as texts by name."""

    def tensors(
        self, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> AbstractContextManager[Mapping[str, Tensor]]:
        """Open the source and give copies of its tensors, each made when it is asked for.

        Arguments:
            device: Where to put them; the CPU by default.
            dtype: What to turn floating point tensors into; None keeps the source's.
        """


class CopiedTensors(Mapping[str, Tensor]):
    """Tensors of an open source, copied out one by one.

    Arguments:
        names: Their names.
        original: Gives the tensor of a name.
        device: Where to put the copies; the CPU by default.
        dtype: What to turn floating point tensors into; None keeps theirs.
    """

    def __init__(
        self,
        names: tuple[str, ...],
        original: Callable[[str], Tensor],
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        self.names = names
        self.original = original
        self.device = device
        self.dtype = dtype

    def __getitem__(self, name: str) -> Tensor:
        tensor = self.original(name)
        dtype = self.dtype if self.dtype is not None and tensor.is_floating_point() else tensor.dtype
        return tensor.to(device=self.device or "cpu", dtype=dtype, copy=True)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class ComputedWeights:
    """A source whose tensors are computed from those of another, each when it is asked for.

    Attributes:
        source: The other, whose place and metadata are its own.
        shapes: The shape of each tensor.
        dtypes: The dtype of each.
        opened: Opens what the tensors are computed from; gives the tensor of a name.
    """

    source: WeightSource
    shapes: dict[str, Shape]
    dtypes: dict[str, str]
    opened: Callable[[], AbstractContextManager[Callable[[str], Tensor]]]

    @property
    def place(self) -> str:
        """Where the source is, for messages."""
        return self.source.place

    @property
    def metadata(self) -> dict[str, str]:
        """The metadata of the source."""
        return self.source.metadata

    @contextmanager
    def tensors(
        self, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Iterator[Mapping[str, Tensor]]:
        """Give copies of the tensors; arguments as `WeightSource.tensors`."""
        with self.opened() as original:
            yield CopiedTensors(tuple(self.shapes), original, device, dtype)


def numbers_by_dtype(source: WeightSource, prefix: str = "") -> Counter[str]:
    """How many numbers a source holds of each dtype, in the tensors whose names start with `prefix`."""
    counts: Counter[str] = Counter()
    for name, shape in source.shapes.items():
        if name.startswith(prefix):
            counts[source.dtypes[name]] += math.prod(shape)
    return counts
