"""A run's report: read back from its folder, complete, and equal to what is returned."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from controlnet_core.data.dataset import Progress
from controlnet_core.evaluation.validation import Evaluation, Levels
from controlnet_core.model.controlnet import ControlNet
from controlnet_core.training.metrics import Measured, MetricsLine
from controlnet_core.training.report import write_run_report
from controlnet_core.training.run_folder import RunFolder

SCORES = {0: 0.2, 10: 0.25, 20: 0.8, 30: 0.85}


@dataclass
class Known:
    """A validation whose numbers are known."""

    cost = 1.0

    hints: Tensor = field(default_factory=lambda: torch.zeros(8, 3, 16, 16))
    captions: tuple[str, ...] = tuple("abcdefgh")
    ceiling_label: str = "the best"

    def levels(self, progress: Progress | None = None) -> Levels:
        return Levels(without_control=0.2, ceiling=0.9)

    def evaluate(self, net: ControlNet, progress: Progress | None = None) -> Evaluation:
        """A report draws nothing."""
        raise AssertionError(net)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """A run of 30 steps that was evaluated four times."""
    folder = RunFolder(tmp_path / "run")
    for step in range(31):
        line = MetricsLine(step, 1, 1 / step, 1.0, 0.5) if step else MetricsLine(step, 1)
        if step in SCORES:
            measures = {"colour": 0.5, "background": 1.0, "shape": 0.25}
            line = replace(line, evaluation=Measured(SCORES[step], [], measures, 1.0, {"every": 10, "hints": 8}))
            folder.write_samples(step, torch.full((6, 3, 16, 16), step / 30))
        folder.metrics.append(line)
    return folder


def test_the_report_holds_the_numbers_that_matter(folder: RunFolder) -> None:
    report = write_run_report(folder, "A run", Known())
    assert report["following"] == {"caption": 0.85, "without_control": 0.2, "ceiling": 0.9}
    assert (report["title"], report["steps"], report["seconds"]) == ("A run", 30, 15.0)
    rise = {"begins": 20, "least_abruptness": 0.5, "most_abruptness": 1.0, "pace": "unresolved"}
    assert report["convergence"] == rise
    assert [(one["step"], one["following"]) for one in report["evaluations"]] == list(SCORES.items())
    assert json.loads((folder.path / "report.json").read_text()) == report
    with Image.open(folder.path / "report.png") as picture:
        assert {(round(255 * step / 30),) * 3 for step in SCORES} <= {
            colour for _, colour in picture.convert("RGB").getcolors(1 << 20) or []
        }


def test_a_run_that_was_not_measured_has_numbers_and_a_picture_of_its_loss(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.metrics.append(MetricsLine(1, 1, 0.5, 1.0, 2.0))
    report = write_run_report(folder, "A run", None)
    assert report["following"] == {"caption": None, "without_control": None, "ceiling": None}
    assert (report["steps"], report["seconds"], report["convergence"], report["evaluations"]) == (1, 2.0, None, [])
    assert json.loads((tmp_path / "report.json").read_text()) == report
    assert (tmp_path / "report.png").exists()
