"""What every dataset gives: pairs of a picture and its hint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

Progress = Callable[[int, int], None]
"""`progress(done, total)`, called as work goes on; what it raises ends it."""


@dataclass(frozen=True, eq=False)
class Pair:
    """What a ControlNet learns from.

    Attributes:
        image: (3, H, W) float32 in [0, 1], the picture.
        hint: (C, H, W) float32 in [0, 1], what is known about the picture.
        caption: The picture in words.
    """

    image: Tensor
    hint: Tensor
    caption: str


class PairDataset(Protocol):
    """Pairs by index; the same index always gives the same pair."""

    def __len__(self) -> int:
        """Count the pairs."""

    def __getitem__(self, index: int) -> Pair:
        """Return pair `index`, which runs from 0; raises IndexError beyond the last."""

    def hints(self, indices: Sequence[int]) -> Tensor:
        """Return the hints of many pairs, (N, C, H, W) in [0, 1], without their pictures."""

    @property
    def fingerprint(self) -> str:
        """Name the content: equal fingerprints are equal pairs, on every machine."""
