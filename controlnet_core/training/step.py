"""One optimizer step of a net in training."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ..base import Base
from ..data.dataset import Progress
from ..errors import TrainingError
from ..evaluation.validation import Evaluation, Validation
from ..model.controlnet import ControlNet
from ..moving_average import MovingAverage
from ..objective import Batch, control_loss
from .checkpoint import Checkpoint, Tensors
from .parallel_net import gathered, sharded_like, whole, whole_net
from .ranks import ALONE, Ranks
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
        ranks: The processes that train together, each on its part of the batch.

    Attributes:
        step: Optimizer steps done.
    """

    def __init__(self, settings: TrainSettings, base: Base, net: ControlNet, ranks: Ranks = ALONE) -> None:
        self.settings = settings
        self.ranks = ranks
        self.base = base
        self.step = 0
        base.unet.requires_grad_(False).train(False)
        self.net = net.float().requires_grad_(True)
        self._parallel_net = ranks.parallel(self.net, settings.sharded)
        self.optimizer = torch.optim.AdamW(
            self.net.parameters(),
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
            fused=base.device.type in ("cpu", "cuda"),
        )
        self.average = MovingAverage(self.net, settings.average_decay)

    def take_step(self, batch: Batch) -> StepReport:
        """Do one optimizer step.

        Raises:
            TrainingError: If the loss is not finite; the weights are those before the step.
        """
        started = time.perf_counter()
        base = self.base
        loss = control_loss(
            base.unet, self._parallel_net, batch, base.schedule, base.prediction, self.settings.loss_weighting
        )
        loss = loss * self.ranks.weight(self.settings.batch_size)
        loss.backward()
        loss = self.ranks.mean(loss.detach())
        norm = whole(nn.utils.clip_grad_norm_(self.net.parameters(), self.settings.gradient_clip))
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

    def checkpoint(self) -> Checkpoint:
        """Everything needed to resume from here; where the net is sharded, all ranks ask and only the first gets it."""
        states = self.optimizer.state_dict()["state"]
        optimizer = {f"{number}.{name}": value for number, state in states.items() for name, value in state.items()}
        kept = [self._gathered(tensors) for tensors in (self.net.state_dict(), self.average.weights, optimizer)]
        return Checkpoint(self.step, self.average.updates, *kept)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go back to a checkpoint."""
        own = dict(self.net.named_parameters())
        parameters = dict(enumerate(own.values()))
        self.step = checkpoint.step
        self.net.load_state_dict(_like(own, checkpoint.net))
        self.average.restore(_like(own, checkpoint.average), checkpoint.average_updates)
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in checkpoint.optimizer.items():
            number, name = key.split(".")
            state.setdefault(int(number), {})[name] = sharded_like(value, parameters[int(number)])
        self.optimizer.load_state_dict({"state": state, "param_groups": self.optimizer.state_dict()["param_groups"]})

    def evaluated(self, report: StepReport, validation: Validation, progress: Progress) -> StepReport:
        """Add the first rank's evaluation of the moving average to a report; it fetches the base's encoders."""
        started = time.perf_counter()
        with self._averaged() as net:
            evaluation = self.ranks.of_first(lambda: self._evaluation(net, validation, progress))
        return replace(report, evaluation=evaluation, evaluation_seconds=time.perf_counter() - started)

    def averaged_net(self) -> ControlNet:
        """The net with the moving average of its weights, ready for use."""
        if self._is_sharded:
            return whole_net(self.net, gathered(self.average.weights, kept=True)).to(self.base.device)
        self.net.load_state_dict(self.average.weights)
        return self.net.requires_grad_(False).train(False)

    @property
    def _is_sharded(self) -> bool:
        return self.settings.sharded and self.ranks.count > 1

    def _gathered(self, tensors: Tensors) -> Tensors:
        """The tensors of a checkpoint, on the rank that writes it."""
        return gathered(tensors, kept=self.ranks.is_first) if self._is_sharded else tensors

    @contextmanager
    def _averaged(self) -> Iterator[ControlNet]:
        """A net with the moving average of the weights; where it is sharded, only the first rank has one of use."""
        if self._is_sharded:
            weights = self._gathered(self.average.weights)
            yield whole_net(self.net, weights).to(self.base.device) if self.ranks.is_first else self.net
        else:
            with self.average.applied_to(self.net):
                yield self.net

    def _evaluation(self, net: ControlNet, validation: Validation, progress: Progress) -> Evaluation:
        with self.base.encoders_on(self.base.device), torch.no_grad():
            return validation.evaluate(net, progress)


def _like(own: Mapping[str, Tensor], tensors: Tensors) -> Tensors:
    """Tensors of a checkpoint, sharded as the net's own are."""
    return {name: sharded_like(tensor, own[name]) for name, tensor in tensors.items()}
