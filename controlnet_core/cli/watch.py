"""A training run as the command line shows it: progress, Ctrl-C, and the result at the end."""

from __future__ import annotations

from collections import deque
from statistics import fmean
from typing import TYPE_CHECKING, Any

from .output import Interrupted, note, print_result
from .progress import Bar, Interruption

if TYPE_CHECKING:
    from pathlib import Path

    from ..base import Base
    from ..data.pairs import PairDataset
    from ..training.loop import StepReport
    from ..training.result import ShownValidation
    from ..training.settings import TrainSettings

AVERAGED_LOSSES = 50
"""A single loss says little: its timesteps decide most of it."""
PROMISE = "finishing this step and writing a checkpoint; Ctrl-C again stops at once"
GO_ON = "the same command goes on from there"


class TrainingBar:
    """The bar of a training run, with loss and following score.

    Arguments:
        bar: The bar to show them in.
        steps: Steps of the run.
    """

    def __init__(self, bar: Bar, steps: int) -> None:
        self.bar = bar
        self.steps = steps
        self._losses: deque[float] = deque(maxlen=AVERAGED_LOSSES)
        self._numbers: dict[str, str] = {}

    def show(self, report: StepReport) -> None:
        """Show one step, and an evaluation in a line of its own."""
        if report.loss is not None:
            self._losses.append(report.loss)
            self._numbers["loss"] = f"{fmean(self._losses):.4f}"
        if report.evaluation is not None:
            self._numbers["following"] = f"{report.evaluation.following:.2f}"
            note(f"step {report.step}: following {report.evaluation.following:.3f}")
        self.bar.show(report.step, self.steps, **self._numbers)


def train_watched(
    settings: TrainSettings, base: Base, dataset: PairDataset, validation: ShownValidation | None, title: str
) -> tuple[Path, dict[str, Any]]:
    """Train with a progress bar, or go on training, and write the run's report.

    Arguments:
        settings: The run's settings.
        base: The locked base.
        dataset: The pairs.
        validation: What to measure as it goes.
        title: The headline of the report.

    Returns:
        The run's folder, and the content of its report.

    Raises:
        Interrupted: If Ctrl-C was pressed.
        RunFolderError: If the run's folder cannot be written.
        TrainingError: If the loss is not finite.
    """
    from ..training.loop import run_path
    from ..training.result import REPORT, write_run_report
    from ..training.run_folder import RunFolder

    path = run_path(settings, base, dataset)
    note(f"run folder {path}")
    try:
        trained = _train(settings, base, dataset, validation, path)
        if not trained:
            note("this run is finished: it is read back")
        folder = RunFolder(path)
        report = None if trained else folder.read_json(REPORT)
        if report is None:
            note("writing the report")
            report = write_run_report(folder, title, validation)
    except KeyboardInterrupt:
        message = f"stopped at once; what was done behind the last checkpoint in {path} is lost; {GO_ON}"
        raise Interrupted(message, {"folder": str(path)}) from None
    return path, report


def print_run(path: Path, report: dict[str, Any], as_json: bool) -> None:
    """Print what came of a run.

    Arguments:
        path: Its folder.
        report: The content of its report.
        as_json: Whether to print one JSON object.
    """
    net, picture = path / "controlnet.safetensors", path / "report.png"
    shown = str(picture) if picture.exists() else None
    steps = f"{report['steps']:,} in {report['seconds']:.0f} s, evaluations not counted"
    facts: list[tuple[str, object]] = [("run folder", path), ("net", net), ("report", shown), ("steps", steps)]
    following = report["following"]
    if following["caption"] is not None:
        levels = f"without control {following['without_control']:.2f}, at best {following['ceiling']:.2f}"
        facts += [
            ("following", f"{following['caption']:.2f} ({levels})"),
            ("", convergence_words(report["convergence"])),
        ]
    print_result(facts, {"folder": str(path), "net": str(net), "picture": shown, **report}, as_json)


def convergence_words(found: dict[str, Any] | None) -> str:
    """What a report's `convergence` says, in words."""
    if found is None:
        return "does not follow its hints yet"
    from ..evaluation.convergence import Convergence

    return Convergence(**{name: found[name] for name in found if name != "pace"}).words


def _train(
    settings: TrainSettings, base: Base, dataset: PairDataset, validation: ShownValidation | None, path: Path
) -> bool:
    """Do the steps that are left; whether there were any."""
    from ..training.loop import train

    step = None
    with Interruption(PROMISE) as interruption, Bar("encoding", "pair") as encoding, Bar("training", "step") as bar:

        def encoded(done: int, total: int) -> None:
            encoding.show(done, total)
            if interruption.asked:
                message = f"stopped at once; {done:,} of {total:,} pairs are encoded and kept; {GO_ON}"
                raise Interrupted(message, {"folder": str(path)})

        shown = TrainingBar(bar, settings.steps)
        reports = train(settings, base, dataset, validation, encoded)
        for report in reports:
            if step is None and report.step > 1:
                note(f"going on from step {report.step - 1}")
            step = report.step
            shown.show(report)
            if interruption.asked and step < settings.steps:
                reports.close()
                raise Interrupted(
                    f"step {step} of {settings.steps} is done and kept in {path}; {GO_ON}",
                    {"folder": str(path), "step": step, "steps": settings.steps},
                )
    return step is not None
