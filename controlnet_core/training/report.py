"""The result of a run, read back from its folder: the numbers that matter, and the report picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any, Protocol

from torch import Tensor

from ..data.dataset import Progress
from ..evaluation.convergence import convergence
from ..evaluation.validation import Levels, Validation
from .metrics import Measured, MetricsLine
from .report_picture import EvaluationPoint, ReportData, write_report
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

    @property
    def ceiling_label(self) -> str:
        """What the ceiling is, in words."""
        ...


def write_run_report(
    folder: RunFolder, title: str, validation: ShownValidation | None, progress: Progress | None = None
) -> dict[str, Any]:
    """Write `report.json` and the picture `report.png` into a run's folder.

    Evaluations that were measured with other settings than the last one are left out: they cannot be compared.

    Arguments:
        folder: The run's folder; its metrics and samples are read.
        title: The headline of the picture.
        validation: What measured the run; its hints are shown, and its levels are measured.
        progress: Told how many hints are drawn for the score without control.

    Returns:
        The content of `report.json`: `title`, `steps`, `seconds` (of all steps, without evaluations), `following` with
        `caption` (the last score), `without_control` and `ceiling`, `convergence` (where following `begins`, its
        `pace` and the bounds of its abruptness; None if it does not), and `evaluations`, each with `step`, `following`
        and the other measures, by name. What was not measured at all is None.

    Raises:
        HintError: If a sample picture is missing or broken.
        WriteError: If the folder cannot be written.
    """
    lines = folder.metrics.read()
    evaluations = _comparable(lines)
    levels = None if validation is None else validation.levels(progress)
    scores = [(step, measured.following) for step, measured in evaluations]
    rise = None if levels is None else convergence(scores, levels.without_control, levels.ceiling)
    content = {
        "title": title,
        "steps": lines[-1].step if lines else 0,
        "seconds": sum(line.seconds for line in lines),
        "following": {
            "caption": scores[-1][1] if scores else None,
            "without_control": None if levels is None else levels.without_control,
            "ceiling": None if levels is None else levels.ceiling,
        },
        "convergence": None if rise is None else {**asdict(rise), "pace": rise.pace},
        "evaluations": [
            {"step": step, "following": measured.following, **measured.measures} for step, measured in evaluations
        ],
    }
    losses = [(line.step, line.loss) for line in lines if line.loss is not None]
    notes = _notes(content, folder.read_json("settings.json") or {}, validation)
    data = ReportData(title, losses, convergence=rise, notes=notes)
    if validation is not None and levels is not None and evaluations:
        data = _with_evaluations(data, evaluations, folder, validation, levels)
    write_report(data, folder.path)
    folder.write_json(REPORT, content)
    return content


def _comparable(lines: Sequence[MetricsLine]) -> list[tuple[int, Measured]]:
    """The evaluations, with their steps, that have the settings of the last one; `every` may differ."""
    evaluations = [(line.step, line.evaluation) for line in lines if line.evaluation is not None]
    settings = [{**measured.settings, "every": None} for _, measured in evaluations]
    return [evaluation for evaluation, used in zip(evaluations, settings, strict=True) if used == settings[-1]]


def _with_evaluations(
    data: ReportData,
    evaluations: Sequence[tuple[int, Measured]],
    folder: RunFolder,
    validation: ShownValidation,
    levels: Levels,
) -> ReportData:
    """Add what was measured and drawn."""
    points = [
        EvaluationPoint(step, measured.following, folder.samples(step), measured.measures)
        for step, measured in evaluations
    ]
    shown = len(points[-1].pictures)
    return replace(
        data,
        evaluations=points,
        hints=validation.hints[:shown].cpu(),
        captions=validation.captions[:shown],
        ceiling=levels.ceiling,
        ceiling_label=validation.ceiling_label,
        without_control=levels.without_control,
    )


def _notes(content: dict[str, Any], settings: dict[str, Any], validation: ShownValidation | None) -> list[str]:
    """What the run did, as lines below the headline."""
    minutes, seconds = divmod(round(content["seconds"]), 60)
    time = f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
    batch = f" of {settings['batch_size']} pairs" if "batch_size" in settings else ""
    notes = [f"{content['steps']:,} steps{batch} in {time}, evaluations not counted"]
    following = content["following"]
    if validation is None or following["caption"] is None:
        return notes
    return [
        *notes,
        f"following {following['caption']:.2f}, without control {following['without_control']:.2f}, "
        f"{validation.ceiling_label} {following['ceiling']:.2f}",
    ]
