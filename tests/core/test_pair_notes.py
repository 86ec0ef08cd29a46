"""Pairs from which a net can learn nothing are told before it is trained on them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from controlnet_core.data.dataset import PairDataset
from controlnet_core.data.in_memory import InMemoryDataset
from controlnet_core.data.notes import PairsWarning, pair_notes
from controlnet_core.toy.shapes_dataset import HINTS, ShapesDataset
from controlnet_core.training.run import train
from controlnet_core.training.settings import TrainSettings
from tests.support.bases import small_base

PAIRS = ShapesDataset(40, 32, seed=0)
IMAGES, OUTLINES = PAIRS.images(range(40)), PAIRS.hints(range(40))
ODD = {
    "31 of 32 hints are all black": torch.cat([OUTLINES[:1], torch.zeros_like(OUTLINES[1:])]),
    "32 of 32 hints are all white": torch.ones_like(OUTLINES),
    "all 32 hints are the same picture": OUTLINES[:1].expand(40, -1, -1, -1),
    "32 of 32 hints are the pictures themselves": IMAGES,
}


def in_memory(hints: torch.Tensor) -> PairDataset:
    return InMemoryDataset(IMAGES, hints, "a shape")


@pytest.mark.parametrize("words", ODD)
def test_odd_pairs_are_told(words: str) -> None:
    (note,) = pair_notes(in_memory(ODD[words]))
    assert note.startswith(f"of the pairs to train on, {words}")


@pytest.mark.parametrize("hint", HINTS)
def test_good_pairs_are_not(hint: str) -> None:
    assert pair_notes(ShapesDataset(3, 32, seed=0, hint=hint)) == []
    assert pair_notes(ShapesDataset(100, 32, seed=0, hint=hint)) == []


def test_training_warns_and_goes_on(tmp_path: Path) -> None:
    dataset = in_memory(ODD["32 of 32 hints are the pictures themselves"])
    settings = TrainSettings(steps=1, batch_size=1, device="cpu", out=tmp_path)
    with pytest.warns(PairsWarning, match="the net can only learn to copy"):
        assert len(list(train(settings, small_base(), dataset))) == 1
