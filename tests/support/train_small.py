"""Trains on a small random base in a process of its own, which a test may kill: `python train_small.py OUT WAY`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from controlnet_core.toy.shapes_dataset import ShapesDataset
from controlnet_core.training.resume import run_path
from controlnet_core.training.run import train
from controlnet_core.training.settings import TrainSettings
from tests.support.bases import small_base

STEPS = 20
CHECKPOINT_EVERY = 2
PAIRS = ShapesDataset(10, 32, seed=0)
WAYS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {"plain": {}, "small": {"memory": 8, "weights_dtype": "bfloat16", "average_every": 3}}
)
"""What a run may do besides: "small" does everything that saves memory."""


def settings(out: Path, way: str = "plain") -> TrainSettings:
    """The settings of the run."""
    plain = TrainSettings(
        steps=STEPS, batch_size=2, learning_rate=3e-4, checkpoint_every=CHECKPOINT_EVERY, device="cpu", out=out
    )
    return plain.model_copy(update=WAYS[way])


def run_folder(out: Path, way: str = "plain") -> Path:
    """Where the run lies."""
    return run_path(settings(out, way), small_base(), PAIRS)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for report in train(settings(Path(sys.argv[1]), sys.argv[2]), small_base(), PAIRS):
        print(report.step, flush=True)
