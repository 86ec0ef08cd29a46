"""The folder of a run: settings, metrics, checkpoints, samples and results. Nothing in it is ever half-written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import UNREADABLE, RunFolderError
from ..pictures.read import load_image
from ..pictures.sheet import to_image, write_png
from ..whole_file import write_whole, writing
from .checkpoint import Checkpoints
from .metrics import Metrics

NET, PICTURE = "controlnet.safetensors", "report.png"


class RunFolder:
    """One run's folder.

    Arguments:
        path: Where it is; it is created if necessary.

    Attributes:
        net_path: The trained net, which exists once the run is finished.
        metrics: What was measured at each step.
        checkpoints: What the run resumes from.

    Raises:
        WriteError: If it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.net_path = path / NET
        self.metrics = Metrics(path / "metrics.jsonl")
        self.checkpoints = Checkpoints(path / "checkpoints")
        self.samples_path = path / "samples"
        with writing(path):
            path.mkdir(parents=True, exist_ok=True)

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a JSON file into the folder, whole or not at all."""
        self.write_text(name, json.dumps(content, indent=2) + "\n")

    def write_text(self, name: str, text: str) -> None:
        """Write a text file into the folder, whole or not at all."""
        write_whole(self.path / name, text.encode())

    def read_json(self, name: str) -> dict[str, Any] | None:
        """Read a JSON file of the folder; None if there is none.

        Raises:
            RunFolderError: If it is not a JSON object.
        """
        return read_json(self.path / name)

    def write_samples(self, step: int, pictures: Tensor) -> None:
        """Keep the first pictures (K, 3, H, W) of an evaluation, side by side in one PNG."""
        write_png(to_image(torch.cat(list(pictures), dim=-1)), self.sample_path(step))

    def samples(self, step: int) -> Tensor:
        """The pictures that were kept of an evaluation, shape (K, 3, H, W) in [0, 1]."""
        strip = load_image(self.sample_path(step))[0]
        return torch.stack(strip.split(strip.shape[-2], dim=-1))

    def sample_path(self, step: int) -> Path:
        """The file of the pictures of an evaluation."""
        return self.samples_path / f"{step:08d}.png"


def read_json(path: Path) -> dict[str, Any] | None:
    """Read a JSON object; None if there is no such file.

    Raises:
        RunFolderError: If it cannot be read or is not a JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, *UNREADABLE) as error:
        raise _unreadable(path, str(error)) from error
    if isinstance(content, dict):
        return content
    raise _unreadable(path, "it holds no JSON object")


def _unreadable(path: Path, reason: str) -> RunFolderError:
    return RunFolderError(
        found=f"that {path} cannot be read ({reason})",
        expected="the JSON that this package wrote there",
        do="restore the file, or delete it",
    )
