"""The interface of every dataset: pairs of a picture and its hint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

Progress = Callable[[int, int], None]
"""`progress(done, total)`, called during the work; an exception that it raises ends the work."""


@dataclass(frozen=True, eq=False)
class Pair:
    """One picture with its hint.

    Attributes:
        image: (3, H, W) float32 in [0, 1], the picture.
        hint: (C, H, W) float32 in [0, 1], the image that steers.
        caption: A description of the picture.
        name: What messages call it, such as the picture's file; empty if it has no name.
    """

    image: Tensor
    hint: Tensor
    caption: str
    name: str = ""


@dataclass(frozen=True)
class Content:
    """What names the parts of a pair: two of one name are the same, in any dataset and on every machine.

    Attributes:
        picture: Names the pixels of the picture, whatever its hint.
        caption: The caption itself.
        hint: Names the pixels of the hint; None if it is at hand without reading a file, so that no copy need be kept.
    """

    picture: str
    caption: str
    hint: str | None = None


class PairDataset(Protocol):
    """Pairs by index; the same index always gives the same pair."""

    def __len__(self) -> int:
        """Count the pairs."""

    def __getitem__(self, index: int) -> Pair:
        """Return pair `index`, counted from 0; raises IndexError beyond the last."""

    def images(self, indices: Sequence[int]) -> Tensor:
        """Return the pictures of many pairs, (N, 3, H, W) in [0, 1], without their hints."""

    def hints(self, indices: Sequence[int]) -> Tensor:
        """Return the hints of many pairs, (N, C, H, W) in [0, 1], without their pictures."""

    def contents(self, indices: Sequence[int]) -> list[Content]:
        """Name the parts of many pairs, without reading them; either all hints of a dataset have a name or none."""

    @property
    def fingerprint(self) -> str:
        """Name the content: equal fingerprints are equal pairs, on every machine."""
