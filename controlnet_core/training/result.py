"""The result of a run, read back from its folder: the numbers that matter, and the report picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

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
    """Write `report.json` into a run's folder and, if following was measured, the picture `report.png`.

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
    if validation is not None and evaluations:
        losses = [(line["step"], line["loss"]) for line in metrics if "loss" in line]
        write_report(_report_data(content, losses, folder, validation), folder.path)
    folder.write_json(REPORT, content)
    return content


def _report_data(
    content: dict[str, Any], losses: Sequence[tuple[int, float]], folder: RunFolder, validation: ShownValidation
) -> ReportData:
    """What the picture shows."""
    points = [
        EvaluationPoint(one["step"], one["following"], one["colour"], one["shape"], folder.pictures(one["step"]))
        for one in content["evaluations"]
    ]
    shown = len(points[-1].pictures)
    return ReportData(
        title=content["title"],
        losses=losses,
        evaluations=points,
        hints=validation.hints[:shown].cpu(),
        captions=validation.captions[:shown],
        jump_step=content["jump_step"],
        ceiling=validation.ceiling,
        without_control=validation.without_control,
        notes=_notes(content, folder.read_json("settings.json") or {}),
    )


def _notes(content: dict[str, Any], settings: dict[str, Any]) -> list[str]:
    """What the run did, in words."""
    minutes, seconds = divmod(round(content["seconds"]), 60)
    time = f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
    batch = f" of {settings['batch_size']} pairs" if "batch_size" in settings else ""
    following = content["following"]
    return [
        f"{content['steps']:,} steps{batch} in {time}, evaluations not counted",
        f"following {following['caption']:.2f}, without control {following['without_control']:.2f}, "
        f"true images encoded and decoded {following['ceiling']:.2f}",
    ]
