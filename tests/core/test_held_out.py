"""Held-out pairs: none is lost, none is on both sides, and settings do not move them."""

from __future__ import annotations

import pytest
import torch

from controlnet_core.data.held_out import MOST, ONE_IN, Subset, held_out_count, split_held_out
from controlnet_core.toy.shapes_dataset import ShapesDataset

COUNTS = [2 * ONE_IN, 57, 100, MOST * ONE_IN, 2001]


def pairs(count: int) -> ShapesDataset:
    return ShapesDataset(count, 32, seed=0)


@pytest.mark.parametrize("count", COUNTS)
def test_every_pair_is_on_one_side(count: int) -> None:
    training, held_out = split_held_out(pairs(count))
    assert isinstance(training, Subset) and held_out is not None
    assert sorted([*training.indices, *held_out.indices]) == list(range(count))
    assert len(held_out) == held_out_count(count) == min(count // ONE_IN, MOST)
    gaps = torch.tensor([-1, *held_out.indices, count]).diff()
    assert gaps.max() <= 2 * gaps[1:-1].min(), "they are not evenly spaced"


@pytest.mark.parametrize("count", [1, 2, ONE_IN, 2 * ONE_IN - 1])
def test_small_datasets_are_left_whole(count: int) -> None:
    whole = pairs(count)
    assert split_held_out(whole) == (whole, None)


def test_some_pairs_are_those_of_the_dataset() -> None:
    whole = pairs(9)
    some = Subset(whole, (7, 0, 3))
    assert len(some) == 3
    for place, index in enumerate((7, 0, 3)):
        assert torch.equal(some[place].image, whole[index].image) and some[place].caption == whole[index].caption
    assert torch.equal(some.hints([2, 0]), whole.hints([3, 7]))
    for wrong in (-1, 3):
        with pytest.raises(IndexError, match="of 3"):
            some[wrong]
        with pytest.raises(IndexError, match="of 3"):
            some.hints([0, wrong])


def test_fingerprints_tell_the_pairs_apart() -> None:
    whole = pairs(9)
    names = {Subset(whole, indices).fingerprint for indices in ((0, 1), (1, 0), (0, 1, 2))}
    names |= {whole.fingerprint, Subset(ShapesDataset(9, 32, seed=1), (0, 1)).fingerprint}
    assert len(names) == 5
    assert Subset(whole, [0, 1]).fingerprint == Subset(pairs(9), (0, 1)).fingerprint
