"""Checkpoints: everything a run needs to resume as if it had never stopped. Each is written whole or not at all."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ..whole_file import whole_folder

KEPT = 2
"""How many of the newest checkpoints are kept, so that a damaged one costs little."""
STATE = "state.json"

Tensors = Mapping[str, Tensor]


class CheckpointWarning(UserWarning):
    """A checkpoint cannot be read; the one before it is used."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The state of a run after a step.

    Attributes:
        step: Optimizer steps done.
        average_updates: Updates of the moving average.
        net: The net's weights.
        average: The moving average of its weights.
        optimizer: The optimizer's state, which counts its own updates.
    """

    step: int
    average_updates: int
    net: Tensors
    average: Tensors
    optimizer: Tensors


class Checkpoints:
    """The checkpoints of a run.

    Arguments:
        path: The folder that holds them, each in a folder named by its step.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def steps(self) -> list[int]:
        """The steps that have a checkpoint, the newest first."""
        if not self.path.is_dir():
            return []
        return sorted((int(entry.name) for entry in self.path.iterdir() if entry.name.isdigit()), reverse=True)

    def write(self, checkpoint: Checkpoint, kept: int) -> None:
        """Write a checkpoint, and remove all but the newest.

        Arguments:
            checkpoint: What to write.
            kept: The step whose checkpoint is kept whatever its age, because another run may start from it.

        Raises:
            WriteError: If it cannot be written; the others are intact.
        """
        with whole_folder(self._place(checkpoint.step)) as folder:
            (folder / "net.safetensors").write_bytes(save(dict(checkpoint.net)))
            (folder / "average.safetensors").write_bytes(save(dict(checkpoint.average)))
            (folder / "optimizer.safetensors").write_bytes(save(dict(checkpoint.optimizer)))
            state = {"step": checkpoint.step, "average_updates": checkpoint.average_updates}
            (folder / STATE).write_text(json.dumps(state), encoding="utf-8")
        for step in self.steps()[KEPT:]:
            if step != kept:
                shutil.rmtree(self._place(step))

    def read(self, step: int) -> Checkpoint | None:
        """Read the checkpoint of a step; None, and a warning, if it is damaged."""
        place = self._place(step)
        try:
            state = json.loads((place / STATE).read_text(encoding="utf-8"))
            return Checkpoint(
                step=step,
                average_updates=state["average_updates"],
                net=load((place / "net.safetensors").read_bytes()),
                average=load((place / "average.safetensors").read_bytes()),
                optimizer=load((place / "optimizer.safetensors").read_bytes()),
            )
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            warnings.warn(f"the checkpoint {place} cannot be read ({error})", CheckpointWarning, stacklevel=2)
            return None

    def _place(self, step: int) -> Path:
        return self.path / f"{step:08d}"
