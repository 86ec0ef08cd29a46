"""The folder of a run: settings, metrics, checkpoints and results. Nothing in it is ever half-written."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ..control.hint_image import load_image
from ..errors import RunFolderError
from ..pictures import to_image, write_png

KEPT_CHECKPOINTS = 2
Tensors = Mapping[str, Tensor]


class CheckpointWarning(UserWarning):
    """A checkpoint cannot be read; the one before it is used."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Everything a run needs to go on as if it had never stopped.

    Attributes:
        step: Optimizer steps done.
        net: The net's weights.
        average: The moving average of its weights.
        optimizer: The optimizer's state.
    """

    step: int
    net: Tensors
    average: Tensors
    optimizer: Tensors


class RunFolder:
    """One run's folder.

    Arguments:
        path: Where it is; it is made if need be.

    Attributes:
        net_path: The trained net, which is there once the run is finished.

    Raises:
        RunFolderError: If it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.net_path = path / "controlnet.safetensors"
        self.metrics_path = path / "metrics.jsonl"
        self.checkpoints_path = path / "checkpoints"
        self.samples_path = path / "samples"
        self._written(lambda: self.checkpoints_path.mkdir(parents=True, exist_ok=True))

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a JSON file into the folder, whole or not at all."""
        self.write_text(name, json.dumps(content, indent=2) + "\n")

    def write_text(self, name: str, text: str) -> None:
        """Write a text file into the folder, whole or not at all."""
        self._written(lambda: replace_file(self.path / name, text.encode()))

    def read_json(self, name: str) -> dict[str, Any] | None:
        """Read a JSON file of the folder; None if there is none."""
        path = self.path / name
        if not path.exists():
            return None
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return content

    def log(self, line: Mapping[str, Any]) -> None:
        """Append one line to the metrics."""

        def append() -> None:
            with self.metrics_path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")

        self._written(append)

    def write_pictures(self, step: int, pictures: Tensor) -> None:
        """Keep the first pictures (K, 3, H, W) of an evaluation, side by side in one PNG."""

        def write() -> None:
            self.samples_path.mkdir(exist_ok=True)
            write_png(to_image(torch.cat(list(pictures), dim=-1)), self.samples_path / f"{step:08d}.png")

        self._written(write)

    def pictures(self, step: int) -> Tensor:
        """The pictures that were kept of an evaluation, shape (K, 3, H, W) in [0, 1]."""
        strip = load_image(self.samples_path / f"{step:08d}.png")[0]
        return torch.stack(strip.split(strip.shape[-2], dim=-1))

    def metrics(self) -> list[dict[str, Any]]:
        """All lines of the metrics; a last line that was cut off by a kill is left out."""
        if not self.metrics_path.exists():
            return []
        lines = []
        for line in self.metrics_path.read_text(encoding="utf-8").splitlines():
            try:
                lines.append(json.loads(line))
            except json.JSONDecodeError:
                break
        return lines

    def rewind(self, step: int) -> list[dict[str, Any]]:
        """Forget the metrics behind `step`, whose work is lost and will be done again; gives those kept."""
        kept = [line for line in self.metrics() if line["step"] <= step]
        text = "".join(json.dumps(line) + "\n" for line in kept)
        self._written(lambda: replace_file(self.metrics_path, text.encode()))
        return kept

    def save_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint under a temporary name, rename it, and drop all but the newest two."""
        final = self.checkpoints_path / f"{checkpoint.step:08d}"
        partial = self.checkpoints_path / f".{final.name}.partial"

        def write() -> None:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            write_synced(partial / "net.safetensors", save(dict(checkpoint.net)))
            write_synced(partial / "average.safetensors", save(dict(checkpoint.average)))
            write_synced(partial / "optimizer.safetensors", save(dict(checkpoint.optimizer)))
            if final.exists():
                shutil.rmtree(final)
            os.replace(partial, final)
            for old in self._checkpoints()[KEPT_CHECKPOINTS:]:
                shutil.rmtree(old)

        try:
            self._written(write)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def newest_checkpoint(self) -> Checkpoint | None:
        """Read the newest checkpoint that is whole; None if there is none."""
        for place in self._checkpoints():
            try:
                return Checkpoint(
                    step=int(place.name),
                    net=load((place / "net.safetensors").read_bytes()),
                    average=load((place / "average.safetensors").read_bytes()),
                    optimizer=load((place / "optimizer.safetensors").read_bytes()),
                )
            except (OSError, ValueError, SafetensorError) as error:
                warnings.warn(f"checkpoint {place} cannot be read ({error})", CheckpointWarning, stacklevel=2)
        return None

    def _checkpoints(self) -> list[Path]:
        """The checkpoints, newest first."""
        return sorted((p for p in self.checkpoints_path.iterdir() if p.name.isdigit()), reverse=True)

    def _written(self, write: Callable[[], None]) -> None:
        """Turn what the system says of a failed write into an error that names the folder."""
        try:
            write()
        except (OSError, SafetensorError) as error:
            raise RunFolderError(
                found=f"{self.path}: {error}",
                expected="a folder that can be written, on a disk with room",
                do="free space, or choose another folder; the last checkpoint is intact",
            ) from error


def replace_file(path: Path, content: bytes) -> None:
    """Write a file whole: under a temporary name in the same folder, then renamed."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        write_synced(partial, content)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_synced(path: Path, content: bytes) -> None:
    """Write a file and see it onto the disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
