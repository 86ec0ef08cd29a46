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
from ..model.recompute import recomputing
from ..moving_average import MovingAverage
from ..objective import Batch, accumulate_gradients, control_loss
from .checkpoint import Checkpoint, Tensors
from .devices import autocast_dtype
from .optimizer import NetOptimizer
from .parallel_net import gathered, sharded_like, unsynchronised, whole, whole_net
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
        net: The net; it is moved to the base's device, and its parameters are set to the dtype of the settings and to
            need gradients.
        ranks: The processes that train together, each on its part of the batch.

    Attributes:
        step: Optimizer steps done.

    Raises:
        SettingError: If the device cannot do what the settings say, or bitsandbytes is wanted and missing.
    """

    def __init__(self, settings: TrainSettings, base: Base, net: ControlNet, ranks: Ranks = ALONE) -> None:
        self.settings = settings
        self.ranks = ranks
        self.base = base
        self.step = 0
        self.choices = choices = settings.choices(base.unet.config, base.device, ranks.count)
        self._autocast = autocast_dtype(choices.precision, choices.weights_dtype, base.device)
        self._recomputed = (net, base.unet.decoder) if choices.activation_checkpointing else ()
        base.unet.requires_grad_(False).train(False)
        self.net = net.to(base.device, getattr(torch, choices.weights_dtype)).requires_grad_(True)
        self._parallel_net = ranks.parallel(self.net, settings.sharded)
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
            loss = accumulate_gradients(
                self._loss, batch, self.choices.gradient_accumulation, unsynchronised(self._parallel_net)
            )
        loss = self.ranks.mean(loss)
        norm = whole(nn.utils.clip_grad_norm_(self.net.parameters(), self.settings.gradient_clip))
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
        """The mean loss of some of this rank's pairs, weighted so that the ranks' mean is that of the whole batch."""
        base, settings = self.base, self.settings
        weighting, autocast = settings.loss_weighting, self._autocast
        loss = control_loss(
            base.unet, self._parallel_net, batch, base.schedule, base.prediction, weighting, autocast
        )
        return loss * self.ranks.weight(settings.batch_size)

    def checkpoint(self) -> Checkpoint:
        """Everything needed to resume from here; where the net is sharded, all ranks ask and only the first gets it."""
        parts = self.net.state_dict(), self.average.weights, self.optimizer.state()
        return Checkpoint(self.step, self.average.updates, *(self._gathered(tensors) for tensors in parts))

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go back to a checkpoint."""
        own = dict(self.net.named_parameters())
        self.step = checkpoint.step
        self.net.load_state_dict(_like(own, checkpoint.net))
        self.average.restore(_like(own, checkpoint.average), checkpoint.average_updates)
        self.optimizer.restore(checkpoint.optimizer)

    def evaluated(self, report: StepReport, validation: Validation, progress: Progress) -> StepReport:
        """Add the first rank's evaluation of the moving average to a report; it fetches the base's encoders."""
        started = time.perf_counter()
        with self._averaged() as net:
            evaluation = self.ranks.of_first(lambda: self._evaluation(net, validation, progress))
        return replace(report, evaluation=evaluation, evaluation_seconds=time.perf_counter() - started)

    def averaged_net(self) -> ControlNet:
        """The net with the moving average of its weights in float32, where the average is, ready for use."""
        self.release()
        if self._is_sharded:
            return whole_net(self.net, gathered(self.average.weights, kept=True)).to(self.base.device)
        self.net.requires_grad_(False).train(False).float()
        self.net.load_state_dict(self.average.weights)
        return self.net

    def release(self) -> None:
        """Give the optimizer's memory back, and move the net to where the average is; no step can follow."""
        self.optimizer.forget()
        self.net.to(self.average.device)

    @property
    def _is_sharded(self) -> bool:
        return self.ranks.shards(self.settings.sharded)

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
