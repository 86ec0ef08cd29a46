"""One session of a run, from opening it to its report: what the command, the node and any other front end share."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import closing
from dataclasses import fields
from statistics import fmean, median
from typing import Any

from ..base import Base
from ..data.dataset import PairDataset
from .devices import free_memory, unet_in
from .events import Drawing, Evaluated, Event, Finished, Interrupted, Memory, Opened, State, Stepped
from .forecast import GIB, Work, fitting_preset, forecast
from .model_card import NAME as CARD
from .model_card import model_card
from .ranks import ALONE, Ranks
from .report import REPORT, ShownValidation, write_run_report
from .resume import Run, find_run
from .run import train
from .run_folder import NET, RunFolder
from .settings import TrainSettings
from .step import StepReport

Listener = Callable[[Event], None]
"""Called with each event. If it raises, the run is interrupted and writes a checkpoint."""
AVERAGED_LOSSES = 50
"""A single loss says little: it depends mostly on its timesteps."""
TIMED_STEPS = 20
NAMES = {
    "base": "base",
    "net": "net",
    "optimizer": "optimizer",
    "average": "average",
    "step": "gradients and activations",
    "context": "CUDA",
}
"""What the parts of a forecast are called."""


class Session:
    """A run that is opened to be trained, resumed or read back.

    Arguments:
        settings: The run's settings.
        base: The locked base.
        dataset: The pairs.
        validation: What measures the net as it trains; None measures nothing.
        title: The headline of the report.
        ranks: The processes that train together, each with a session; the first one writes.

    Attributes:
        run: The run, as it was found.
    """

    def __init__(
        self,
        settings: TrainSettings,
        base: Base,
        dataset: PairDataset,
        validation: ShownValidation | None,
        title: str,
        ranks: Ranks = ALONE,
    ) -> None:
        self.settings = settings
        self.base = base
        self.dataset = dataset
        self.validation = validation
        self.title = title
        self.ranks = ranks
        self.run = ranks.of_first(lambda: find_run(settings, base, dataset))

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do: net and report exist."""
        return self.run.finished and (self.run.path / REPORT).exists()

    def go(self, listen: Listener) -> dict[str, Any]:
        """Do what is left of the run, and write its report.

        Arguments:
            listen: Called with each event. If it raises, the run is interrupted and writes a checkpoint. After that,
                and after any other error, `listen` is called with `Interrupted`, and the error is raised again.

        Returns:
            The content of `report.json`.

        Raises:
            HintError: If a sample picture is missing or broken.
            RankLostError, RankStopped: If another process failed, is gone or was stopped.
            TrainingError: If the loss is not finite.
            WriteError: If the run's folder cannot be written.
        """
        cost = None if self.validation is None else self.validation.cost
        listen(opened(self.run, None if cost is None else self.settings.evaluation_interval(cost)))
        folder = RunFolder(self.run.path)
        try:
            if not self.ranks.of_first(lambda: self.run.finished):
                if self.ranks.is_first and not self.ranks.shards(self.settings.sharded):
                    listen(expected_memory(self.settings, self.base, self.dataset, self.ranks.count))
                self._train(listen)
            report = self.ranks.of_first(lambda: self._report(folder, listen))
        except BaseException:
            kept = self.settings.steps if self.run.finished else max(folder.checkpoints.steps(), default=0)
            listen(Interrupted(kept, self.settings.steps))
            raise
        listen(Finished(str(folder.net_path), report))
        return report

    def _train(self, listen: Listener) -> None:
        """Do the steps that are left."""
        reports = train(self.settings, self.base, self.dataset, self.validation, listen, self.ranks)
        with closing(reports):  # between two steps this writes a checkpoint
            for report in reports:
                for event in step_events(report, self.settings.steps):
                    listen(event)

    def _report(self, folder: RunFolder, listen: Listener) -> dict[str, Any]:
        """Write report and model card of the finished run, or read its report."""
        kept = folder.read_json(REPORT) if self.finished else None
        if kept is not None:
            return kept
        precision = self.settings.choices(self.base.unet.config, self.base.device).precision
        with unet_in(self.base, precision):  # what is compared with the evaluations is drawn like them
            report = write_run_report(
                folder, self.title, self.validation, lambda done, total: listen(Drawing(done, total))
            )
        card = model_card(self.title, self.base.family.unet.family, self.settings, report, NET)
        folder.write_text(CARD, card)
        return report


def opened(run: Run, evaluation_interval: int | None) -> Opened:
    """How a run begins."""
    settings, start = run.settings, run.starts[0] if run.starts else None
    state: State = "new" if start is None else "resumed" if start.path == run.path else "branched"
    if run.finished:
        return Opened(str(run.path), "finished", settings.steps, settings.steps)
    return Opened(
        path=str(run.path),
        state=state,
        step=0 if start is None else start.step,
        steps=settings.steps,
        begun_from=str(start.path) if start is not None and state == "branched" else None,
        nearest=None if run.nearest is None else str(run.nearest.path),
        differences=() if run.nearest is None else run.nearest.differences,
        misread=tuple(map(str, run.misread)),
        evaluation_interval=evaluation_interval,
    )


def expected_memory(settings: TrainSettings, base: Base, dataset: PairDataset, processes: int = 1) -> Memory:
    """What a step of one of several processes will take at its peak, and whether the base's device has as much."""
    hint, device = dataset.hints([0])[0], base.device
    tokens = max((encoder.context_length for encoder in base.family.text_encoders), default=Work.tokens)
    work = Work(base.unet.config, (hint.shape[-2], hint.shape[-1]), len(hint), tokens, processes)
    taken, free = forecast(work, settings, device), free_memory(device)
    room = None if free is None else free + taken.context
    preset = None if room is None or taken.total <= room else fitting_preset(work, settings, device, room)
    return Memory(
        gib=taken.gib,
        parts={NAMES[field.name]: getattr(taken, field.name) / GIB for field in fields(taken)},
        precision=settings.choices(work.config, device).precision,
        free=None if room is None else room / GIB,
        preset=preset,
    )


def step_events(report: StepReport, steps: int) -> list[Stepped | Evaluated]:
    """The events of one report of `train`; the step comes last, when everything about it is done."""
    events: list[Stepped | Evaluated] = []
    if report.evaluation is not None:
        found, seconds = report.evaluation, report.evaluation_seconds
        measures = dict(found.measures)
        events.append(
            Evaluated(report.step, steps, found.following, found.scores, measures, seconds, found.pictures)
        )
    if report.loss is not None:
        events.append(Stepped(report.step, steps, report.loss, report.gradient_norm, report.seconds))
    return events


class Recent:
    """The current numbers of a run, from its last steps.

    Arguments:
        settings: The run's settings.

    Attributes:
        step: Steps done.
        following: The last following score; None before the first.
    """

    def __init__(self, settings: TrainSettings) -> None:
        self.settings = settings
        self.step = 0
        self.following: float | None = None
        self._losses: deque[float] = deque(maxlen=AVERAGED_LOSSES)
        self._seconds: deque[float] = deque(maxlen=TIMED_STEPS)
        self._evaluation_seconds = 0.0
        self._interval: int | None = None

    def add(self, event: Event) -> None:
        """Update the numbers from an event."""
        match event:
            case Opened():
                self.step, self._interval = event.step, event.evaluation_interval
            case Stepped():
                self.step = event.step
                self._losses.append(event.loss)
                self._seconds.append(event.seconds)
            case Evaluated():
                self.step = event.step
                self.following = event.following
                self._evaluation_seconds = event.seconds

    @property
    def loss(self) -> float | None:
        """The mean of the last losses; None before the first."""
        return fmean(self._losses) if self._losses else None

    @property
    def seconds_left(self) -> float | None:
        """The time left for steps and evaluations, at the speed of the last ones; None before the first step."""
        if not self._seconds:
            return None
        left = self.settings.steps - self.step
        evaluations = 0.0 if self._interval is None else left / self._interval
        return left * median(self._seconds) + evaluations * self._evaluation_seconds
