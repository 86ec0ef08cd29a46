"""Trains on a small random base in float64, as one of several processes; one of them may end the run for all."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from controlnet_core import cli
from controlnet_core.data.dataset import Progress
from controlnet_core.evaluation.validation import Evaluation, Levels
from controlnet_core.model.controlnet import ControlNet
from controlnet_core.toy.shapes_dataset import ShapesDataset
from controlnet_core.training.launch import joined_ranks
from controlnet_core.training.parallel_net import CopiedNet
from controlnet_core.training.ranks import Ranks
from controlnet_core.training.resume import run_path
from controlnet_core.training.run import train
from controlnet_core.training.settings import EvaluationSettings, TrainSettings
from controlnet_core.training.step import Trainer
from tests.support.bases import SmallBase, small_base

PAIRS = ShapesDataset(10, 32, seed=0)
STEPS = 20


class Measuring:
    """A validation that only the first rank may use.

    Arguments:
        times: How often it measures before it fails.
    """

    cost = 1.0

    def __init__(self, times: int) -> None:
        self.times = times

    def levels(self, progress: Progress | None = None) -> Levels:
        """Nothing to compare with."""
        return Levels(0.5, 0.5)

    def evaluate(self, net: ControlNet, progress: Progress | None = None) -> Evaluation:
        """The sum of the weights, as a score."""
        assert os.environ.get("RANK", "0") == "0", "another rank than the first evaluates"
        if not self.times:
            raise ValueError("the evaluation fails")
        self.times -= 1
        total = sum(float(weight.double().sum()) for weight in net.parameters())
        return Evaluation((total,), {}, torch.zeros(1, 3, 32, 32))


def base64() -> SmallBase:
    """The small base in float64."""
    base = small_base()
    base.to(dtype=torch.float64)
    return base


def settings(out: Path, **changes: Any) -> TrainSettings:  # noqa: ANN401 - of any setting
    """The settings of the run."""
    values = {"steps": STEPS, "batch_size": 4, "learning_rate": 5e-4, "checkpoint_every": 10, "device": "cpu"}
    return TrainSettings(**{**values, "evaluation": EvaluationSettings(every=10), "out": out, **changes})


def run_folder(out: Path, **changes: Any) -> Path:  # noqa: ANN401 - of any setting
    """Where the run lies."""
    return run_path(settings(out, **changes), base64(), PAIRS)


def go(chosen: TrainSettings, ranks: Ranks, act: Callable[[int], None], evaluations: int) -> None:
    """Train to the end, or to what `act` does after a step."""
    with closing(train(chosen, base64(), PAIRS, Measuring(evaluations), ranks=ranks)) as reports:
        for report in reports:
            print(json.dumps([report.step, report.loss, report.gradient_norm]), flush=True)
            act(report.step)


def freeze(*_: object) -> None:
    """Stop this process without ending it."""
    os.kill(os.getpid(), signal.SIGSTOP)


def train_in_float64() -> None:
    """Let nets train in float64 instead of float32: there, sums in another order are the same but for 1e-15."""
    ControlNet.float = ControlNet.double  # type: ignore[method-assign]

    def to(net: ControlNet, device: torch.device, dtype: torch.dtype | None = None) -> ControlNet:
        return nn.Module.to(net, device, None if dtype is None else torch.float64)

    ControlNet.to = to  # type: ignore[method-assign,assignment]


def main(out: Path, given: dict[str, Any]) -> None:
    """Train.

    Arguments:
        out: The folder of the runs.
        given: Settings; under "do" what one rank does after a step: {"at": 3, "rank": 1, "act": "stop"}; under
            "evaluations" how many of them succeed; under "seeds" one for each rank.
    """
    torch.set_num_threads(1)
    if "weights_dtype" not in given:
        train_in_float64()
    with joined_ranks(torch.device("cpu")) as ranks:
        action, evaluations = given.pop("do", {}), given.pop("evaluations", STEPS)
        if "seeds" in given:
            given["seed"] = given.pop("seeds")[ranks.rank]

        def act(step: int) -> None:
            if (action.get("at"), action.get("rank")) != (step, ranks.rank):
                return
            match action["act"]:
                case "stop":
                    raise InterruptedError("stopped by the test")
                case "interrupt":
                    signal.raise_signal(signal.SIGINT)
                case "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                case "freeze":
                    freeze()
                case "freeze in the next step":
                    Trainer.take_step = freeze  # type: ignore[method-assign,assignment]

        go(settings(out, **given), ranks, act, evaluations)


def compare_gradients(out: Path, static_graph: bool, given: dict[str, Any]) -> None:
    """Train three steps, and print after each backward pass how far the gradients are from the first rank's.

    Arguments:
        out: The folder of the runs.
        static_graph: Whether DDP is told that the graph never changes.
        given: Settings.
    """
    clip = nn.utils.clip_grad_norm_

    def compared(parameters: Iterable[nn.Parameter], limit: float) -> torch.Tensor:
        trained = list(parameters)
        own = torch.cat([parameter.grad.flatten() for parameter in trained if parameter.grad is not None])
        first = own.clone()
        dist.broadcast(first, 0)
        print("apart", ((own - first).abs().max() / first.abs().max()).item(), flush=True)
        return clip(trained, limit)

    def static(self: CopiedNet, net: ControlNet) -> None:
        DistributedDataParallel.__init__(self, net, static_graph=True)

    nn.utils.clip_grad_norm_ = compared  # type: ignore[assignment] # called with these two alone
    if static_graph:
        CopiedNet.__init__ = static  # type: ignore[method-assign]
    main(out, {"steps": 3, **given})


def command(argv: list[str]) -> None:
    """The command line, which ends the process."""
    sys.exit(cli.main(argv))
