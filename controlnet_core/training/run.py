"""A training run: a generator of step reports that writes a checkpoint when it is closed."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator

import torch

from ..base import Base
from ..data.cache import encode_dataset
from ..data.dataset import PairDataset, Progress
from ..errors import FamilyMismatchError
from ..evaluation.validation import Validation
from ..model.controlnet import ControlNet
from ..version import __version__
from ..weights.load import load_controlnet
from ..weights.save import save_controlnet
from .batches import Batches
from .checkpoint import Checkpoint
from .events import Drawing, Encoding, Fitting
from .hint_start import show_hints_as_latents
from .identity import start_file
from .metrics import Measured, MetricsLine
from .ranks import ALONE, RankLostError, Ranks, RankStopped
from .resume import Run, find_run, resume, run_path
from .run_folder import RunFolder
from .settings import TrainSettings
from .step import StepReport, Trainer

SAMPLES = 6
"""Pictures of an evaluation that are kept."""


def train(
    settings: TrainSettings,
    base: Base,
    dataset: PairDataset,
    validation: Validation | None = None,
    listen: Callable[[Encoding | Fitting | Drawing], None] = lambda event: None,
    ranks: Ranks = ALONE,
) -> Generator[StepReport, None, ControlNet]:
    """Train a ControlNet, or resume training it.

    Each item asked for is one optimizer step. To stop, call `close()`: it writes a checkpoint, and the same call to
    `train` resumes from it, bit for bit. A new run starts from the furthest checkpoint of another run that lies on its
    path (see `find_run`). All of torch's modes are entered and left between two items.

    The base computes in the dtype of its UNet, the net in float32. Once all pairs are encoded, the base's autoencoder
    and text encoders are on the CPU, but for evaluations, until the run ends or is closed.

    Several processes that call this train one net, each on its part of every batch, and hand out the same reports. If
    one of them is closed, all stop. Only the first writes into the run's folder.

    Arguments:
        settings: The run's settings.
        base: The locked base.
        dataset: The pairs.
        validation: What measures the net as it trains. If it raises, a checkpoint is written.
        listen: Called with the progress of encoding pairs, fitting the hint encoder and drawing held-out hints. If it
            raises, the run stops.
        ranks: The processes that train together.

    Returns:
        The trained net: the moving average of the weights, also in the run's `controlnet.safetensors`. A finished run
        is read back.

    Raises:
        CheckpointError: If the net to start from cannot be read, or the base encodes a pair to numbers that are not
            finite.
        FamilyMismatchError: If the net to start from has other sizes than this one.
        HintError: If hints without three channels are to be shown as latents.
        RankLostError, RankStopped: If another process failed, is gone, or was stopped.
        SettingError: If there is no net to start from, or a process has no pair in a batch, or not the others' data.
        TrainingError: If the loss is not finite.
        WriteError: If the run's folder cannot be written.
    """
    listen, slots = ranks.hearing(listen), ranks.slots(settings.batch_size)
    run = _agreed_run(settings, base, dataset, ranks)
    if ranks.of_first(lambda: run.finished):
        return load_controlnet(run.net_path, device=base.device)
    folder = ranks.of_first(run.open)
    with ranks.together():
        encoded = encode_dataset(base, dataset, settings.out / "cache", _progress(listen, Encoding))
    batches = Batches(settings, base, encoded, dataset, slots)
    checkpoint, lines = ranks.of_first(lambda: resume(run, folder))
    with ranks.together():
        trainer = opened_trainer(settings, base, dataset, checkpoint, _progress(listen, Fitting), ranks)
    record = Record(folder, trainer, lines, validation, listen)
    with base.encoders_on("cpu"):  # a step needs none of them
        yield from _steps(settings, trainer, batches, record)
    net = trainer.averaged_net()
    ranks.of_first(lambda: save_controlnet(net, folder.net_path, metadata=provenance(run, folder)))
    return net


def _agreed_run(settings: TrainSettings, base: Base, dataset: PairDataset, ranks: Ranks) -> Run:
    """The run as the first rank finds it, once it is sure that all mean the same one."""
    run = ranks.of_first(lambda: find_run(settings, base, dataset))
    ranks.check_equal(run_path(settings, base, dataset).name, "base, data or settings")
    return run


def _progress(listen: Callable[[Encoding | Fitting], None], event: type[Encoding] | type[Fitting]) -> Progress:
    """What tells a listener of the progress of some work."""
    return lambda done, total: listen(event(done, total))


def _steps(
    settings: TrainSettings, trainer: Trainer, batches: Batches, record: Record
) -> Generator[StepReport, None, None]:
    """The steps that are left, with their evaluations and checkpoints."""
    ranks = trainer.ranks
    try:
        if record.lacks_evaluation:
            report = record.evaluated(StepReport(trainer.step, None, 0.0, 0.0))
            yield from _handed_out(record.add(report), ranks)
        while trainer.step < settings.steps:
            with ranks.together():
                report = trainer.take_step(batches.at(trainer.step))
            if settings.evaluates_at(trainer.step):
                report = record.evaluated(report)
            record.add(report)
            if settings.saves_at(trainer.step):
                record.save()
            yield from _handed_out(report, ranks)
    except (GeneratorExit, RankStopped, RankLostError):
        record.save()
        raise


def _handed_out(report: StepReport, ranks: Ranks) -> Generator[StepReport, None, None]:
    """Hand out a report; where the caller of one rank stops, all stop."""
    try:
        yield report
    except GeneratorExit:
        ranks.stop_together(True)
        raise
    ranks.stop_together(False)


def opened_trainer(
    settings: TrainSettings,
    base: Base,
    dataset: PairDataset,
    checkpoint: Checkpoint | None = None,
    progress: Progress | None = None,
    ranks: Ranks = ALONE,
) -> Trainer:
    """The trainer as a checkpoint holds it; without one, before its first step.

    Arguments:
        settings: The run's settings.
        base: The locked base.
        dataset: The pairs.
        checkpoint: Where the run resumes, if it does.
        progress: Told how far the hint encoder is fitted, where it is.
        ranks: The processes that train together.

    Raises:
        CheckpointError, FamilyMismatchError: As `initial_net` does.
        HintError: If hints without three channels are to be shown as latents.
    """
    net = initial_net(settings, base, dataset)
    if checkpoint is None and settings.hint_start == "latents" and settings.start_from is None:
        show_hints_as_latents(net, base, dataset, settings.seed, progress)
    trainer = Trainer(settings, base, net, ranks)
    if checkpoint is not None:
        trainer.restore(checkpoint)
    return trainer


def initial_net(settings: TrainSettings, base: Base, dataset: PairDataset) -> ControlNet:
    """The net before its first step, in float32: a copy of the base's encoder, or the net that `start_from` names.

    Raises:
        CheckpointError: If the net to start from cannot be read.
        FamilyMismatchError: If it has other sizes than a net for this base, these hints and this hint encoder.
    """
    hint_channels = len(dataset.hints([0])[0])
    net = ControlNet.from_unet(
        base.unet, hint_channels, settings.hint_encoder, seed=settings.seed, dtype=torch.float32
    )
    if settings.start_from is None:
        return net
    start = load_controlnet(start_file(settings.start_from), device=base.device)
    kinds = [
        f"a net of {model.config.family} with {model.hint_channels} hint channels and the hint encoder "
        f"{model.hint_encoder_kind!r}"
        for model in (start, net)
    ]
    shapes = [{name: weight.shape for name, weight in model.state_dict().items()} for model in (start, net)]
    if shapes[0] != shapes[1]:
        raise FamilyMismatchError(
            found=f"{kinds[0]} in {settings.start_from}",
            expected=kinds[1],
            do="start from a net that was trained for this base and kind of hint, or leave start_from out",
        )
    net.load_state_dict(start.float().state_dict())
    return net


def provenance(run: Run, folder: RunFolder) -> dict[str, str]:
    """The metadata of the trained net's file: how it was trained."""
    scores = [line.evaluation.following for line in folder.metrics.read() if line.evaluation is not None]
    measured = {"training.following": f"{scores[-1]:.4f}"} if scores else {}
    started = {"training.start_from": run.trunk["start_from"]} if "start_from" in run.trunk else {}
    settings = run.settings.model_dump(mode="json", exclude={"sharded", "device", "out", "start_from"})
    return {
        "training.version": __version__,
        "training.base": run.trunk["base"],
        "training.data": run.trunk["data"],
        "training.steps": str(run.settings.steps),
        "training.settings": json.dumps(settings),
        **started,
        **measured,
    }


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
        due = validation is not None and trainer.settings.evaluates_at(trainer.step)
        self.lacks_evaluation = due and not evaluated
        self._listen = listen
        self._saved = trainer.step
        self._session = 1 + max((line.session for line in lines), default=0)

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
