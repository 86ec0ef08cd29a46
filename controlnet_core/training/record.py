"""What a run's folder keeps of its steps: metrics, samples and checkpoints."""

from __future__ import annotations

from collections.abc import Callable

from ..evaluation.validation import Validation
from .events import Drawing
from .metrics import Measured, MetricsLine
from .run_folder import RunFolder
from .step import StepReport, Trainer

SAMPLES = 6
"""Pictures of an evaluation that are kept."""


class Record:
    """Keeps a run's folder in step with its trainer; of several ranks, only the first writes.

    Arguments:
        folder: The folder.
        trainer: The trainer, before its first step or restored from a checkpoint.
        lines: The metrics up to there.
        validation: What measures the net; None measures nothing.
        listen: Called with the progress of drawing held-out hints.

    Attributes:
        lacks_evaluation: Whether an evaluation of the weights that training starts from is due and missing.
    """

    def __init__(
        self,
        folder: RunFolder,
        trainer: Trainer,
        lines: list[MetricsLine],
        validation: Validation | None,
        listen: Callable[[Drawing], None],
    ) -> None:
        self.folder = folder
        self.trainer = trainer
        self.ranks = trainer.ranks
        self.validation = validation
        evaluated = any(line.step == trainer.step and line.evaluation is not None for line in lines)
        self.lacks_evaluation = self.evaluates_at(trainer.step) and not evaluated
        self._listen = listen
        self._saved = trainer.step
        self._session = 1 + max((line.session for line in lines), default=0)

    def evaluates_at(self, step: int) -> bool:
        """Whether following is measured after this many steps."""
        if self.validation is None:
            return False
        settings = self.trainer.settings
        return step == settings.steps or step % settings.evaluation_interval(self.validation.cost) == 0

    def add(self, report: StepReport) -> StepReport:
        """Add a step to the metrics, and its pictures to the samples."""
        if self.ranks.is_first:
            self._write(report)
        return report

    def _write(self, report: StepReport) -> None:
        measured = None
        if report.evaluation is not None:
            settings = self.trainer.settings.evaluation.model_dump(mode="json")
            measured = Measured.of(report.evaluation, report.evaluation_seconds, settings)
            self.folder.write_samples(report.step, report.evaluation.pictures[:SAMPLES])
        norm = None if report.loss is None else report.gradient_norm
        self.folder.metrics.append(
            MetricsLine(report.step, self._session, report.loss, norm, report.seconds, measured)
        )

    def evaluated(self, report: StepReport) -> StepReport:
        """Add an evaluation to the report of a step. If interrupted, the step is kept and the evaluation made later."""
        if self.validation is None:
            return report
        try:
            return self.trainer.evaluated(report, self.validation, self._drawing)
        except BaseException:
            if report.loss is not None:
                self.add(report)
                self.save()
            raise

    def save(self) -> None:
        """Write a checkpoint, if there is anything new to keep; if a rank is gone, the first has all but shards."""
        if self.trainer.step == self._saved:
            return
        settings, folder = self.trainer.settings, self.folder
        if self.ranks.intact:
            with self.ranks.together():
                checkpoint = self.trainer.checkpoint()
            self.ranks.of_first(lambda: folder.checkpoints.write(checkpoint, settings.branch_step))
        elif self.ranks.is_first and not settings.sharded:
            folder.checkpoints.write(self.trainer.checkpoint(), settings.branch_step)
        self._saved = self.trainer.step

    def _drawing(self, done: int, total: int) -> None:
        self._listen(Drawing(done, total))
