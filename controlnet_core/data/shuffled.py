"""The control experiment: the same pictures, with the hints of other pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..errors import DatasetError
from ..keyed import digest, keyed_generator
from .dataset import Content, Pair, PairDataset


class ShuffledHints:
    """The same pictures and captions with the hints of other pairs, so that nothing can be learned.

    Arguments:
        dataset: The true pairs, at least 2.
        seed: Chooses a permutation of the hints, which leaves none in its place.

    Raises:
        DatasetError: If there are fewer than 2 pairs.
    """

    def __init__(self, dataset: PairDataset, seed: int) -> None:
        if len(dataset) < 2:
            raise DatasetError(f"{len(dataset)} pair", "at least 2 pairs to exchange hints", "use a larger dataset")
        self.dataset = dataset
        self.fingerprint = digest("shuffled hints", dataset.fingerprint, str(seed))
        # One cycle through all pairs in random order: each gets the hint of the next, so none keeps its own.
        cycle = torch.randperm(len(dataset), generator=keyed_generator("shuffled hints", seed))
        self._source = torch.empty_like(cycle).scatter_(0, cycle, cycle.roll(-1))

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Pair:
        """Return pair `index` with its wrong hint."""
        pair = self.dataset[index]
        return replace(pair, hint=self.dataset[self.hint_index(index)].hint)

    def images(self, indices: Sequence[int]) -> Tensor:
        """Return the pictures of many pairs, (N, 3, H, W) in [0, 1]."""
        return self.dataset.images(indices)

    def hints(self, indices: Sequence[int]) -> Tensor:
        """Return the wrong hints of many pairs, (N, C, H, W) in [0, 1]."""
        return self.dataset.hints([self.hint_index(index) for index in indices])

    def contents(self, indices: Sequence[int]) -> list[Content]:
        """Name the parts of many pairs, the wrong hints among them."""
        hints = self.dataset.contents([self.hint_index(index) for index in indices])
        own = self.dataset.contents(indices)
        return [replace(content, hint=other.hint) for content, other in zip(own, hints, strict=True)]

    def hint_index(self, index: int) -> int:
        """The pair whose hint pair `index` has."""
        return int(self._source[index])
