"""The result of a run, read back from its folder: the numbers that matter, and the report picture."""

from __future__ import annotations

from collections.abc import Sequence
from math import nan
from typing import Any, Protocol

import torch
from torch import Tensor

from ..evaluation.convergence import jump_step
from ..evaluation.following import Validation
from .report import EvaluationPoint, ReportData, write_report
from .run_folder import RunFolder

REPORT = "report.json"


class ShownValidation(Validation, Protocol):
    """A validation whose hints a report can show."""

    @property
    def hints(self) -> Tensor:
        """The held-out hints, shape (N, 3, H, W) in [0, 1]."""
        ...

    @property
    def captions(self) -> Sequence[str]:
        """Their captions."""
        ...


def write_run_report(folder: RunFolder, title: str, validation: ShownValidation | None) -> dict[str, Any]:
    """Write `report.json` and the picture `report.png` into a run's folder.

    Arguments:
        folder: The run's folder; its metrics and samples are read.
        title: The headline of the picture.
        validation: What measured the run; its hints are shown, and its ceiling and score without control are
            computed if they are not known yet.

    Returns:
        The content of `report.json`: `title`, `steps`, `seconds` (of all steps, without evaluations), `following` with
        `caption` (the last score), `without_control` and `ceiling`, `jump_step`, and `evaluations`, each with `step`,
        `following`, `colour`, `background` and `shape`. What was not measured is None.

    Raises:
        HintError: If a sample picture is missing or broken.
        RunFolderError: If the folder cannot be written.
    """
    metrics = folder.metrics()
    names = ("step", "following", "colour", "background", "shape")
    evaluations = [{name: line[name] for name in names} for line in metrics if "following" in line]
    levels = (None, None) if validation is None else (validation.without_control, validation.ceiling)
    scores = [(one["step"], one["following"]) for one in evaluations]
    content = {
        "title": title,
        "steps": metrics[-1]["step"] if metrics else 0,
        "seconds": sum(line.get("seconds", 0.0) for line in metrics),
        "following": {
            "caption": scores[-1][1] if scores else None,
            "without_control": levels[0],
            "ceiling": levels[1],
        },
        "jump_step": None if validation is None else jump_step(scores, validation.without_control, validation.ceiling),
        "evaluations": evaluations,
    }
    losses = [(line["step"], line["loss"]) for line in metrics if "loss" in line]
    write_report(_report_data(content, losses, folder, validation if evaluations else None), folder.path)
    folder.write_json(REPORT, content)
    return content


def _report_data(
    content: dict[str, Any], losses: Sequence[tuple[int, float]], folder: RunFolder, validation: ShownValidation | None
) -> ReportData:
    """What the picture shows: without a validation, the loss alone."""
    points = [
        EvaluationPoint(one["step"], one["following"], one["colour"], one["shape"], folder.pictures(one["step"]))
        for one in content["evaluations"]
    ]
    shown = len(points[-1].pictures) if points else 0
    return ReportData(
        title=content["title"],
        losses=losses,
        evaluations=points,
        hints=torch.zeros(0, 3, 1, 1) if validation is None else validation.hints[:shown].cpu(),
        captions=() if validation is None else validation.captions[:shown],
        jump_step=content["jump_step"],
        ceiling=nan if validation is None else validation.ceiling,
        without_control=nan if validation is None else validation.without_control,
        notes=_notes(content, folder.read_json("settings.json") or {}),
    )


def _notes(content: dict[str, Any], settings: dict[str, Any]) -> list[str]:
    """What the run did, in words."""
    minutes, seconds = divmod(round(content["seconds"]), 60)
    time = f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
    batch = f" of {settings['batch_size']} pairs" if "batch_size" in settings else ""
    notes = [f"{content['steps']:,} steps{batch} in {time}, evaluations not counted"]
    following = content["following"]
    if following["caption"] is None:
        return notes
    return [
        *notes,
        f"following {following['caption']:.2f}, without control {following['without_control']:.2f}, "
        f"true images encoded and decoded {following['ceiling']:.2f}",
    ]
