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
        net: The net; its parameters are set to float32 and to need gradients.

    Attributes:
        step: Optimizer steps done.
    """

    def __init__(self, settings: TrainSettings, base: Base, net: ControlNet) -> None:
        self.settings = settings
        self.base = base
        self.step = 0
        base.unet.requires_grad_(False).train(False)
        self.net = net.float().requires_grad_(True)
        self.optimizer = torch.optim.AdamW(
            self.net.parameters(),
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
            fused=base.device.type in ("cpu", "cuda"),
        )
        self.average = MovingAverage(self.net, settings.average_decay)
        self._with_graph = (self.net, base.unet.decoder)

    def take_step(self, batch: Batch) -> StepReport:
        """Do one optimizer step.

        Raises:
            TrainingError: If the loss is not finite; the weights are those before the step.
        """
        started = time.perf_counter()
        with recomputing(*(self._with_graph if self.settings.activation_checkpointing else ())):
            loss = accumulate_gradients(self._loss, batch, self.settings.gradient_accumulation)
        norm = nn.utils.clip_grad_norm_(self.net.parameters(), self.settings.gradient_clip)
        if not torch.isfinite(loss) or not torch.isfinite(norm):
            raise TrainingError(
                found=f"a loss of {loss.item()} with a gradient of norm {norm.item()} at step {self.step}",
                expected="finite numbers",
                do="lower the learning rate; the last checkpoint is kept",
            )
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate_at(self.step)
        self.optimizer.step()
        self.optimizer.zero_grad()  # before the next forward pass, so that gradients and activations never coexist
        self.average.update(self.net)
        self.step += 1
        return StepReport(self.step, loss.item(), norm.item(), time.perf_counter() - started)

    def _loss(self, batch: Batch) -> Tensor:
        """The mean loss of a batch."""
        base, weighting = self.base, self.settings.loss_weighting
        return control_loss(base.unet, self.net, batch, base.schedule, base.prediction, weighting)

    def checkpoint(self) -> Checkpoint:
        """Everything needed to resume from here."""
        states = self.optimizer.state_dict()["state"]
        optimizer = {f"{number}.{name}": value for number, state in states.items() for name, value in state.items()}
        return Checkpoint(self.step, self.average.updates, self.net.state_dict(), self.average.weights, optimizer)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go back to a checkpoint."""
        self.step = checkpoint.step
        self.net.load_state_dict(checkpoint.net)
        self.average.restore(checkpoint.average, checkpoint.average_updates)
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in checkpoint.optimizer.items():
            number, name = key.split(".")
            state.setdefault(int(number), {})[name] = value
        self.optimizer.load_state_dict({"state": state, "param_groups": self.optimizer.state_dict()["param_groups"]})

    def evaluated(self, report: StepReport, validation: Validation, progress: Progress) -> StepReport:
        """Add an evaluation of the moving average of the weights to a report; it fetches the base's encoders."""
        started = time.perf_counter()
        on_device = self.base.encoders_on(self.base.device)
        with on_device, self.average.applied_to(self.net), torch.no_grad():
            evaluation = validation.evaluate(self.net, progress)
        return replace(report, evaluation=evaluation, evaluation_seconds=time.perf_counter() - started)

    def averaged_net(self) -> ControlNet:
        """The net with the moving average of its weights, ready for use."""
        self.net.load_state_dict(self.average.weights)
        return self.net.requires_grad_(False).train(False)
