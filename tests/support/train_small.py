"""Trains on a small random base in a process of its own, which a test may kill: `python train_small.py OUT`."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from controlnet_core.toy.shapes_dataset import ShapesDataset
from controlnet_core.training.resume import run_path
from controlnet_core.training.run import train
from controlnet_core.training.settings import TrainSettings
from tests.support.bases import small_base

STEPS = 20
CHECKPOINT_EVERY = 2
PAIRS = ShapesDataset(10, 32, seed=0)


def settings(out: Path) -> TrainSettings:
    """The settings of the run."""
    return TrainSettings(
        steps=STEPS, batch_size=2, learning_rate=3e-4, checkpoint_every=CHECKPOINT_EVERY, device="cpu", out=out
    )


def run_folder(out: Path) -> Path:
    """Where the run lies."""
    return run_path(settings(out), small_base(), PAIRS)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for report in train(settings(Path(sys.argv[1])), small_base(), PAIRS):
        print(report.step, flush=True)
