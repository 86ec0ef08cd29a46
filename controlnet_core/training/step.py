"""One optimizer step of a net in training."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ..base import Base
from ..data.dataset import Progress
from ..errors import TrainingError
from ..evaluation.validation import Evaluation, Validation
from ..model.controlnet import ControlNet
from ..model.recompute import recomputing
from ..moving_average import MovingAverage
from ..objective import Batch, accumulate_gradients, control_loss
from .checkpoint import Checkpoint
from .devices import autocast_dtype
from .optimizer import NetOptimizer
from .settings import TrainSettings


@dataclass(frozen=True, eq=False)
class StepReport:
    """What happened in one step.

    Attributes:
        step: Optimizer steps done so far; 0 is the report before the first.
        loss: The step's loss; None if no step was done: before the first, and where only a missing evaluation was made.
        gradient_norm: The gradient's norm before clipping.
        seconds: Time of this step, without the evaluation.
        evaluation: What was measured after this step, if an evaluation was due.
        evaluation_seconds: Time of the evaluation.
    """

    step: int
    loss: float | None
    gradient_norm: float
    seconds: float
    evaluation: Evaluation | None = None
    evaluation_seconds: float = 0.0


class Trainer:
    """A net in training: weights, optimizer and moving average, and one step of them.

    Arguments:
        settings: The run's settings.
        base: The locked base; its parameters are set to need no gradient.
        net: The net; it is moved to the base's device, and its parameters are set to the dtype of the settings and to
            need gradients.

    Attributes:
        step: Optimizer steps done.

    Raises:
        SettingError: If the device cannot do what the settings say, or bitsandbytes is wanted and missing.
    """

    def __init__(self, settings: TrainSettings, base: Base, net: ControlNet) -> None:
        self.settings = settings
        self.base = base
        self.step = 0
        self.choices = choices = settings.choices(base.unet.config, base.device)
        self._autocast = autocast_dtype(choices.precision, choices.weights_dtype, base.device)
        self._recomputed = (net, base.unet.decoder) if choices.activation_checkpointing else ()
        base.unet.requires_grad_(False).train(False)
        self.net = net.to(base.device, getattr(torch, choices.weights_dtype)).requires_grad_(True)
        self.optimizer = NetOptimizer(self.net, choices.optimizer, settings.weight_decay, settings.seed)
        place = "cpu" if choices.average_on == "cpu" else None
        self.average = MovingAverage(self.net, settings.average_decay, choices.average_every, place)

    def take_step(self, batch: Batch) -> StepReport:
        """Do one optimizer step.

        Raises:
            TrainingError: If the loss is not finite; the weights are those before the step.
        """
        started = time.perf_counter()
        with recomputing(*self._recomputed):
            loss = accumulate_gradients(self._loss, batch, self.choices.gradient_accumulation)
        norm = nn.utils.clip_grad_norm_(self.net.parameters(), self.settings.gradient_clip)
        if not torch.isfinite(loss) or not torch.isfinite(norm):
            raise TrainingError(
                found=f"a loss of {loss.item()} with a gradient of norm {norm.item()} at step {self.step}",
                expected="finite numbers",
                do="lower the learning rate; the last checkpoint is kept",
            )
        self.optimizer.update(self.step, self.settings.learning_rate_at(self.step))
        self.step += 1
        self.average.follow(self.net, self.step)
        return StepReport(self.step, loss.item(), norm.item(), time.perf_counter() - started)

    def _loss(self, batch: Batch) -> Tensor:
        """The mean loss of a batch."""
        base, weighting = self.base, self.settings.loss_weighting
        return control_loss(
            base.unet, self.net, batch, base.schedule, base.prediction, weighting, self._autocast
        )

    def checkpoint(self) -> Checkpoint:
        """Everything needed to resume from here."""
        optimizer = self.optimizer.state()
        return Checkpoint(self.step, self.average.updates, self.net.state_dict(), self.average.weights, optimizer)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go back to a checkpoint."""
        self.step = checkpoint.step
        self.net.load_state_dict(checkpoint.net)
        self.average.restore(checkpoint.average, checkpoint.average_updates)
        self.optimizer.restore(checkpoint.optimizer)

    def evaluated(self, report: StepReport, validation: Validation, progress: Progress) -> StepReport:
        """Add an evaluation of the moving average of the weights to a report; it fetches the base's encoders."""
        started = time.perf_counter()
        on_device = self.base.encoders_on(self.base.device)
        with on_device, self.average.applied_to(self.net), torch.no_grad():
            evaluation = validation.evaluate(self.net, progress)
        return replace(report, evaluation=evaluation, evaluation_seconds=time.perf_counter() - started)

    def averaged_net(self) -> ControlNet:
        """The net with the moving average of its weights in float32, where the average is, ready for use."""
        self.release()
        self.net.requires_grad_(False).train(False).float()
        self.net.load_state_dict(self.average.weights)
        return self.net

    def release(self) -> None:
        """Give the optimizer's memory back, and move the net to where the average is; no step can follow."""
        self.optimizer.forget()
        self.net.to(self.average.device)
