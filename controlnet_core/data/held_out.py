"""Held-out pairs: kept from training, so that a net is measured on pictures that it never saw."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from .dataset import Content, Pair, PairDataset

ONE_IN, MOST, FEWEST = 10, 64, 2
"""One pair in ONE_IN is held out, at most MOST of them; fewer than FEWEST cannot be compared."""


@dataclass(frozen=True, eq=False)
class Subset:
    """Some of the pairs of a dataset.

    Arguments:
        dataset: All pairs.
        indices: Which of them, in this order.
    """

    dataset: PairDataset
    indices: Sequence[int]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Pair:
        """Return pair `index`, counted from 0; raises IndexError if it is negative or beyond the last."""
        return self.dataset[self._original(index)]

    def images(self, indices: Sequence[int]) -> Tensor:
        """Return the pictures of many pairs, (N, 3, H, W) in [0, 1]."""
        return self.dataset.images([self._original(index) for index in indices])

    def hints(self, indices: Sequence[int]) -> Tensor:
        """Return the hints of many pairs, (N, C, H, W) in [0, 1]."""
        return self.dataset.hints([self._original(index) for index in indices])

    def contents(self, indices: Sequence[int]) -> list[Content]:
        """Name the parts of many pairs."""
        return self.dataset.contents([self._original(index) for index in indices])

    @property
    def fingerprint(self) -> str:
        """Name the content: equal fingerprints are equal pairs."""
        content = repr(("some pairs", self.dataset.fingerprint, list(self.indices)))
        return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()

    def _original(self, index: int) -> int:
        """The index of pair `index` in the whole dataset."""
        if not 0 <= index < len(self.indices):
            raise IndexError(f"pair {index} of {len(self.indices)}")
        return self.indices[index]


def held_out_count(pairs: int) -> int:
    """How many of `pairs` pairs are held out: one in ten, 64 at most; none if that is only one."""
    count = min(pairs // ONE_IN, MOST)
    return count if count >= FEWEST else 0


def split_held_out(dataset: PairDataset) -> tuple[PairDataset, Subset | None]:
    """Split a dataset into pairs to train on and pairs to measure with, evenly spaced from the first to the last.

    The choice depends on the number of pairs alone, so that the cache stays valid when settings change.

    Returns:
        The pairs to train on, and those held out; for a dataset that is too small, all of it and None.
    """
    count = held_out_count(len(dataset))
    if not count:
        return dataset, None
    held_out = [(2 * number + 1) * len(dataset) // (2 * count) for number in range(count)]
    kept = sorted(set(range(len(dataset))) - set(held_out))
    return Subset(dataset, kept), Subset(dataset, held_out)
