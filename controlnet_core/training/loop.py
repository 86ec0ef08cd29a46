"""The training loop: a generator of step reports that writes a checkpoint when it is closed."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Generator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..base import Base
from ..data.cache import EncodedPairs, Progress, encode_pairs
from ..data.pairs import PairDataset
from ..errors import TrainingError
from ..evaluation.following import AnyEvaluation, Validation
from ..model.controlnet import ControlNet
from ..weights.load import load_controlnet
from ..weights.save import save_controlnet
from .draws import StepDraws
from .ema import MovingAverage
from .loss import Batch, control_loss
from .run_folder import Checkpoint, RunFolder
from .settings import TrainSettings

SAMPLES = 6
"""Pictures of an evaluation that are kept."""


@dataclass(frozen=True, eq=False)
class StepReport:
    """What happened in one step.

    Attributes:
        step: Optimizer steps done by now; 0 is the report before the first.
        loss: The step's loss; None where there was no step: before the first, and where an evaluation was made up for.
        gradient_norm: The gradient's norm before clipping.
        seconds: Time of this step, without the evaluation.
        evaluation: What was measured behind this step, where it was due.
        evaluation_seconds: Time of that.
    """

    step: int
    loss: float | None
    gradient_norm: float
    seconds: float
    evaluation: AnyEvaluation | None = None
    evaluation_seconds: float = 0.0


class Trainer:
    """A net in training: weights, optimizer and moving average, and one step of them.

    Arguments:
        settings: The run's settings.
        base: The locked base; its parameters are set to need no gradient.
        pairs: The encoded pairs.
        dataset: Where the hints come from.
    """

    def __init__(self, settings: TrainSettings, base: Base, pairs: EncodedPairs, dataset: PairDataset) -> None:
        self.settings = settings
        self.base = base
        self.pairs = pairs
        self.dataset = dataset
        self.step = 0
        base.unet.requires_grad_(False).train(False)
        hint_channels = len(dataset.hints([0])[0])
        self.net = ControlNet.from_unet(base.unet, hint_channels, settings.hint_encoder, seed=settings.seed)
        self.net.float().requires_grad_(True)
        self.optimizer = torch.optim.AdamW(
            self.net.parameters(),
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
            fused=base.device.type in ("cpu", "cuda"),
        )
        self.average = MovingAverage(self.net, settings.average_decay)
        self.draws = StepDraws(
            settings.seed,
            len(dataset),
            settings.batch_size,
            settings.prompt_drop,
            pairs.latent_shape,
            len(base.schedule.alphas_cumprod),
        )

    def take_step(self) -> StepReport:
        """Do one optimizer step.

        Raises:
            TrainingError: If the loss is not finite; the weights are those before the step.
        """
        started = time.perf_counter()
        batch = self.batch_at(self.step)
        loss = control_loss(self.base.unet, self.net, batch, self.base.schedule, self.base.prediction)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.net.parameters(), self.settings.gradient_clip)
        if not torch.isfinite(loss) or not torch.isfinite(norm):
            raise TrainingError(
                found=f"a loss of {loss.item()} with a gradient of norm {norm.item()} at step {self.step}",
                expected="finite numbers",
                do="lower the learning rate; the run can go on from its last checkpoint",
            )
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate_at(self.step)
        self.optimizer.step()
        self.optimizer.zero_grad()  # before the next forward pass, so that gradients and activations never coexist
        self.average.update(self.net)
        self.step += 1
        return StepReport(self.step, loss.item(), norm.item(), time.perf_counter() - started)

    def batch_at(self, step: int) -> Batch:
        """What step `step` trains on, drawn on the CPU and moved to the base's device."""
        draws, device = self.draws.at(step), self.base.device
        latents = self.pairs.distribution(draws.pairs).sample(draws.posterior)
        text = self.pairs.text(draws.pairs, draws.dropped)
        # Convolutions on thin images are twice as fast on a CPU with the channels last.
        hints = self.dataset.hints(draws.pairs).to(device, memory_format=torch.channels_last)
        return Batch(
            latents.to(device), draws.noise.to(device), draws.timesteps.to(device), hints, text.to(device)
        )

    def checkpoint(self) -> Checkpoint:
        """Everything needed to go on from here."""
        states = self.optimizer.state_dict()["state"]
        optimizer = {f"{number}.{name}": value for number, state in states.items() for name, value in state.items()}
        return Checkpoint(self.step, self.net.state_dict(), self.average.weights, optimizer)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go back to a checkpoint."""
        self.step = checkpoint.step
        self.net.load_state_dict(checkpoint.net)
        self.average.restore(checkpoint.average, checkpoint.step)
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in checkpoint.optimizer.items():
            number, name = key.split(".")
            state.setdefault(int(number), {})[name] = value
        self.optimizer.load_state_dict({"state": state, "param_groups": self.optimizer.state_dict()["param_groups"]})

    def evaluated(self, report: StepReport, validation: Validation) -> StepReport:
        """Add an evaluation of the moving average of the weights to a report."""
        started = time.perf_counter()
        with self.average.applied_to(self.net), torch.no_grad():
            evaluation = validation.evaluate(self.net)
        return replace(report, evaluation=evaluation, evaluation_seconds=time.perf_counter() - started)

    def averaged_net(self) -> ControlNet:
        """The net with the moving average of its weights, ready for use."""
        self.net.load_state_dict(self.average.weights)
        return self.net.requires_grad_(False).train(False)

    def provenance(self, dataset: PairDataset) -> dict[str, str]:
        """What the trained net's file says about how it came to be."""
        return {
            "training.base": self.base.fingerprint,
            "training.data": dataset.fingerprint,
            "training.steps": str(self.step),
            "training.settings": self.settings.model_dump_json(exclude={"device", "out"}),
        }


def run_path(settings: TrainSettings, base: Base, dataset: PairDataset) -> Path:
    """The folder of a run: the same settings, base and data always find the same one."""
    words = f"{settings.fingerprint()} {base.fingerprint} {dataset.fingerprint}"
    return settings.out / hashlib.blake2b(words.encode(), digest_size=6).hexdigest()


def train(
    settings: TrainSettings,
    base: Base,
    dataset: PairDataset,
    validation: Validation | None = None,
    progress: Progress | None = None,
) -> Generator[StepReport, None, ControlNet]:
    """Train a ControlNet, or go on training it.

    Each item asked for is one optimizer step. To stop, call `close()`: it writes a checkpoint, and the same call to
    `train` later goes on behind it, bit for bit. All of torch's modes are entered and left between two items.

    Arguments:
        settings: The run's settings.
        base: The locked base.
        dataset: The pairs.
        validation: What to measure as it goes. Where it raises, a checkpoint is written.
        progress: Told how far the encoding of the pairs is.

    Returns:
        The trained net: the moving average of the weights, also in the run's `controlnet.safetensors`. A finished run
        is read back.

    Raises:
        RunFolderError: If the run's folder cannot be written.
        TrainingError: If the loss is not finite.
    """
    folder = RunFolder(run_path(settings, base, dataset))
    if folder.net_path.exists():
        return load_controlnet(folder.net_path, device=base.device)
    folder.write_json("settings.json", settings.model_dump(mode="json"))
    trainer = Trainer(settings, base, encode_pairs(base, dataset, settings.out / "cache", progress), dataset)
    log = RunLog(folder, trainer)
    try:
        if validation is not None and settings.evaluates_at(trainer.step) and not log.begins_evaluated:
            yield log.note(trainer.evaluated(StepReport(trainer.step, None, 0.0, 0.0), validation))
        while trainer.step < settings.steps:
            report = trainer.take_step()
            if validation is not None and settings.evaluates_at(trainer.step):
                report = log.evaluated(report, validation)
            log.note(report)
            if trainer.step == settings.steps or trainer.step % settings.checkpoint_every == 0:
                log.save()
            yield report
    except GeneratorExit:
        log.save()
        raise
    net = trainer.averaged_net()
    save_controlnet(net, folder.net_path, metadata=trainer.provenance(dataset) | _score(folder))
    return net


def _score(folder: RunFolder) -> dict[str, str]:
    """The last following score, for the net's file; nothing if none was measured."""
    scores = [line["following"] for line in folder.metrics() if "following" in line]
    return {"training.following": f"{scores[-1]:.4f}"} if scores else {}


class RunLog:
    """Keeps a run's folder in step with its trainer.

    Arguments:
        folder: The folder; its newest checkpoint, if any, is restored.
        trainer: The trainer.

    Attributes:
        begins_evaluated: Whether the weights that the run goes on with were evaluated before.
    """

    def __init__(self, folder: RunFolder, trainer: Trainer) -> None:
        self.folder = folder
        self.trainer = trainer
        checkpoint = folder.newest_checkpoint()
        if checkpoint is not None:
            trainer.restore(checkpoint)
        self._saved = -1 if checkpoint is None else checkpoint.step
        lines = folder.rewind(self._saved)
        self.begins_evaluated = any(line["step"] == trainer.step and "following" in line for line in lines)
        self._session = 1 + max((line["session"] for line in lines), default=0)

    def note(self, report: StepReport) -> StepReport:
        """Add a step to the metrics, and its pictures to the samples."""
        line: dict[str, Any] = {"step": report.step, "session": self._session}
        if report.loss is not None:
            line |= {"loss": report.loss, "gradient_norm": report.gradient_norm, "seconds": report.seconds}
        if report.evaluation is not None:
            line |= {"following": report.evaluation.following, **asdict(report.evaluation.details)}
            line["scores"] = [round(score, 4) for score in report.evaluation.scores]
            line["evaluation_seconds"] = report.evaluation_seconds
            self.folder.write_pictures(report.step, report.evaluation.pictures[:SAMPLES])
        self.folder.log(line)
        return report

    def evaluated(self, report: StepReport, validation: Validation) -> StepReport:
        """Add an evaluation to the report of a step; stopped, it is made up for later, and the step is kept."""
        try:
            return self.trainer.evaluated(report, validation)
        except BaseException:
            self.note(report)
            self.save()
            raise

    def save(self) -> None:
        """Write a checkpoint, if there is anything new to keep."""
        if self.trainer.step != self._saved:
            self.folder.save_checkpoint(self.trainer.checkpoint())
            self._saved = self.trainer.step
