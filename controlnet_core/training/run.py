"""A training run: a generator of step reports that writes a checkpoint when it is closed."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Generator

import torch

from ..base import Base
from ..data.cache import encode_dataset
from ..data.dataset import PairDataset, Progress
from ..data.notes import PairsWarning, looked_at, pair_notes
from ..errors import FamilyMismatchError
from ..evaluation.validation import Validation
from ..hint_statistics import METADATA_KEY, HintStatistics
from ..model.controlnet import ControlNet
from ..version import __version__
from ..weights.load import load_controlnet
from ..weights.save import save_controlnet
from .batches import Batches
from .checkpoint import Checkpoint
from .devices import unet_in, unet_on
from .events import Drawing, Encoding, Fitting
from .hint_start import show_hints_as_latents
from .identity import start_file
from .parallel_net import check_shardable
from .ranks import ALONE, RankLostError, Ranks, RankStopped
from .record import Record
from .resume import Run, find_run, resume, run_path
from .run_folder import RunFolder
from .settings import TrainSettings
from .step import StepReport, Trainer

RunListener = Callable[[Encoding | Fitting | Drawing], None]


def train(
    settings: TrainSettings,
    base: Base,
    dataset: PairDataset,
    validation: Validation | None = None,
    listen: RunListener = lambda event: None,
    ranks: Ranks = ALONE,
) -> Generator[StepReport, None, ControlNet]:
    """Train a ControlNet, or resume training it.

    Each item asked for is one optimizer step. To stop, call `close()`: it writes a checkpoint, and the same call to
    `train` resumes from it, bit for bit. A new run starts from the furthest checkpoint of another run that lies on its
    path (see `find_run`). All of torch's modes are entered and left between two items.

    Base and net compute as `precision` says; in float32 the base keeps the dtype of its UNet. What a step does not need
    is on the CPU: the UNet while pairs are encoded; then autoencoder and text encoders, but for evaluations, and in
    bfloat16 the UNet's own weights. All are back when the run ends or is closed.

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
        The trained net: the moving average of the weights, also in the run's `controlnet.safetensors`; it is where the
        average was. A finished run is read back.

    Raises:
        CheckpointError: If the net to start from cannot be read, or the base encodes a pair to numbers that are not
            finite.
        FamilyMismatchError: If the net to start from has other sizes than this one.
        HintError: If hints without three channels are to be shown as latents.
        RankLostError, RankStopped: If another process failed, is gone, or was stopped.
        SettingError: If there is no net to start from, the device or several processes cannot do what the settings say,
            or a process has no pair in a batch, or not the others' data.
        TrainingError: If the loss is not finite.
        WriteError: If the run's folder cannot be written.
    """
    listen, slots = ranks.hearing(listen), ranks.slots(settings.batch_size)
    run = _agreed_run(settings, base, dataset, ranks)
    if ranks.of_first(lambda: run.finished):
        return load_controlnet(run.net_path, device=base.device)
    folder = _opened(run, base, dataset, ranks)
    with ranks.together(), unet_on(base, "cpu"):
        encoded = encode_dataset(base, dataset, settings.out / "cache", _progress(listen, Encoding))
        net = initial_net(settings, base, dataset)
    batches = Batches(settings, base, encoded, dataset, slots)
    with unet_in(base, settings.choices(base.unet.config, base.device).precision):
        net = yield from _trained(run, base, dataset, batches, net, validation, listen, ranks)
    ranks.of_first(lambda: _save(net, run, folder, dataset))
    return net


def _trained(
    run: Run,
    base: Base,
    dataset: PairDataset,
    batches: Batches,
    net: ControlNet,
    validation: Validation | None,
    listen: RunListener,
    ranks: Ranks,
) -> Generator[StepReport, None, ControlNet]:
    """All that is left of a run whose pairs are encoded, and then its net."""
    folder = RunFolder(run.path)
    checkpoint, lines = ranks.of_first(lambda: resume(run, folder))
    with ranks.together():
        fitting = _progress(listen, Fitting)
        trainer = opened_trainer(run.settings, base, dataset, checkpoint, fitting, net, ranks)
    try:
        with base.encoders_on("cpu"):  # a step needs none of them
            yield from _steps(run.settings, trainer, batches, Record(folder, trainer, lines, validation, listen))
        return trainer.averaged_net()
    finally:
        trainer.release()


def _save(net: ControlNet, run: Run, folder: RunFolder, dataset: PairDataset) -> None:
    """Write the trained net, with how it was trained and what its hints look like."""
    described = {METADATA_KEY: HintStatistics.of(dataset.hints(looked_at(dataset))).text}
    save_controlnet(net, folder.net_path, metadata={**provenance(run, folder), **described})


def _agreed_run(settings: TrainSettings, base: Base, dataset: PairDataset, ranks: Ranks) -> Run:
    """The run as the first rank finds it, once it is sure that all mean the same one."""
    run = ranks.of_first(lambda: find_run(settings, base, dataset))
    ranks.check_equal(lambda: run_path(settings, base, dataset).name, "base, data or settings")
    return run


def _opened(run: Run, base: Base, dataset: PairDataset, ranks: Ranks) -> RunFolder:
    """The folder of a run that is to be trained, once the ranks are sure to be able to; the first one warns."""
    if ranks.shards(run.settings.sharded):
        check_shardable(run.settings.choices(base.unet.config, base.device))
    if ranks.is_first:
        for note in pair_notes(dataset):
            warnings.warn(note, PairsWarning, stacklevel=3)
    return ranks.of_first(run.open)


def _progress(listen: RunListener, event: type[Encoding] | type[Fitting]) -> Progress:
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
            if record.evaluates_at(trainer.step):
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
    net: ControlNet | None = None,
    ranks: Ranks = ALONE,
) -> Trainer:
    """The trainer as a checkpoint holds it; without one, before its first step.

    Arguments:
        settings: The run's settings.
        base: The locked base.
        dataset: The pairs.
        checkpoint: Where the run resumes, if it does.
        progress: Told how far the hint encoder is fitted, where it is.
        net: What `initial_net` gives, if it is there already.
        ranks: The processes that train together.

    Raises:
        CheckpointError, FamilyMismatchError: As `initial_net` does.
        HintError: If hints without three channels are to be shown as latents.
        SettingError: As `Trainer` does.
    """
    net = (net or initial_net(settings, base, dataset)).to(base.device)
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
