"""Stopping and resuming: the same net to the last bit, each step once in the metrics, a moving average that is lent."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from controlnet_core.data.dataset import Progress
from controlnet_core.evaluation.validation import Evaluation, Levels
from controlnet_core.model.controlnet import ControlNet
from controlnet_core.moving_average import MovingAverage
from controlnet_core.toy.shapes_dataset import ShapesDataset
from controlnet_core.training.metrics import MetricsLine
from controlnet_core.training.resume import run_path
from controlnet_core.training.run import train
from controlnet_core.training.run_folder import RunFolder
from controlnet_core.training.settings import EvaluationSettings, TrainSettings
from controlnet_core.training.step import StepReport
from tests.support.bases import small_base
from tests.support.bits import differing
from tests.support.reduced import randomised

PAIRS = ShapesDataset(10, 32, seed=0)
Training = Generator[StepReport, None, ControlNet]


class Disturbance:
    """A validation that draws from torch's own random state, and checks that no gradient is kept."""

    cost = 1.0

    def levels(self, progress: Progress | None = None) -> Levels:
        return Levels(0.5, 0.5)

    def evaluate(self, net: ControlNet, progress: Progress | None = None) -> Evaluation:
        assert not torch.is_grad_enabled()
        return Evaluation((torch.rand(()).item(),), {"colour": 1.0}, torch.rand(2, 3, 32, 32))


WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "in parts": {"gradient_accumulation": 2, "activation_checkpointing": True},
    "bfloat16": {"precision": "bfloat16", "average_every": 2, "average_on": "cpu"},
    "bfloat16 weights": {"weights_dtype": "bfloat16"},
    "8 bits": {"optimizer": "adamw_8bit"},
    "small": {"memory": 8, "weights_dtype": "bfloat16", "average_every": 4},
}


def settings(out: Path, way: str = "plain") -> TrainSettings:
    plain = TrainSettings(
        steps=6,
        batch_size=2,
        learning_rate=3e-4,
        checkpoint_every=4,
        evaluation=EvaluationSettings(every=2),
        out=out,
    )
    return plain.model_copy(update=WAYS[way])


def finished(training: Training) -> tuple[list[StepReport], ControlNet]:
    """The remaining reports, and the net."""
    reports = []
    while True:
        try:
            reports.append(next(training))
        except StopIteration as end:
            return reports, end.value


def folder(out: Path, way: str = "plain") -> RunFolder:
    return RunFolder(run_path(settings(out, way), small_base(), PAIRS))


def metrics(out: Path, way: str = "plain") -> list[MetricsLine]:
    return folder(out, way).metrics.read()


@pytest.mark.parametrize("way", WAYS)
def test_a_run_that_is_stopped_resumes_bit_for_bit(way: str, tmp_path: Path) -> None:
    base = small_base()
    before = {name: weight.clone() for name, weight in base.unet.state_dict().items()}
    whole, net = finished(train(settings(tmp_path / "whole", way), base, PAIRS))
    assert differing(base.unet.state_dict(), before) == [], "training changed the locked base"
    assert all(parameter.grad is None for parameter in base.unet.parameters())
    fresh = ControlNet.from_unet(base.unet).state_dict()
    assert set(differing(net.state_dict(), fresh)) == set(fresh), "a tensor was not trained"

    out = tmp_path / "stopped"
    first = train(settings(out, way), small_base(), PAIRS, Disturbance())
    reports = [next(first) for _ in range(4)]  # the report before step 1, and three steps
    first.close()
    rest, resumed = finished(train(settings(out, way), small_base(), PAIRS, Disturbance()))
    assert differing(resumed.state_dict(), net.state_dict()) == []
    ends = [folder(place, way).checkpoints.read(6) for place in (tmp_path / "whole", out)]
    assert ends[0] is not None and ends[1] is not None
    assert differing(ends[1].net, ends[0].net) == differing(ends[1].optimizer, ends[0].optimizer) == []
    assert [(r.step, r.loss, r.gradient_norm) for r in [*reports, *rest] if r.step] == [
        (r.step, r.loss, r.gradient_norm) for r in whole
    ]
    lines = metrics(out, way)
    assert [(line.step, line.session) for line in lines] == [
        *((step, 1) for step in range(4)),
        *((step, 2) for step in range(4, 7)),
    ]
    assert [line.step for line in lines if line.evaluation is not None] == [0, 2, 4, 6]
    assert [line.step for line in metrics(tmp_path / "whole", way)] == [1, 2, 3, 4, 5, 6]


class Stopping(Disturbance):
    """A validation that is stopped a number of times while it draws."""

    cost = 1.0

    def __init__(self, times: int) -> None:
        self.times = times
        self.evaluations = 0

    def evaluate(self, net: ControlNet, progress: Progress | None = None) -> Evaluation:
        self.evaluations += 1
        if self.evaluations > 2 and self.times:
            self.times -= 1
            raise InterruptedError
        return super().evaluate(net, progress)


def test_an_evaluation_that_is_stopped_costs_no_step_and_is_made_later(tmp_path: Path) -> None:
    whole, net = finished(train(settings(tmp_path / "whole"), small_base(), PAIRS))
    out, validation = tmp_path / "stopped", Stopping(times=2)
    for _ in range(2):  # at step 4, and again when it is made later
        with pytest.raises(InterruptedError):
            finished(train(settings(out), small_base(), PAIRS, validation))
    _, resumed = finished(train(settings(out), small_base(), PAIRS, validation))
    assert differing(resumed.state_dict(), net.state_dict()) == []
    lines = metrics(out)
    assert [(line.step, line.loss) for line in lines if line.loss is not None] == [(r.step, r.loss) for r in whole]
    assert [line.step for line in lines if line.evaluation is not None] == [0, 2, 4, 6]


def test_a_finished_run_is_read_back(tmp_path: Path) -> None:
    _, net = finished(train(settings(tmp_path), small_base(), PAIRS))
    path = run_path(settings(tmp_path), small_base(), PAIRS)
    written = load_file(path / "controlnet.safetensors")
    reports, again = finished(train(settings(tmp_path), small_base(), PAIRS))
    assert reports == []
    assert differing(again.state_dict(), net.state_dict()) == []
    assert differing(load_file(path / "controlnet.safetensors"), written) == []
    assert [line.step for line in metrics(tmp_path)] == [1, 2, 3, 4, 5, 6]


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in module.named_parameters()}


def test_the_moving_average_resumes_bit_for_bit() -> None:
    module, saved = nn.Linear(5, 7), {}
    average = MovingAverage(module, decay=0.9)
    for seed in range(6):
        average.update(randomised(module, seed))
        if seed == 2:
            saved = {name: weight.clone() for name, weight in average.weights.items()}
    restored = MovingAverage(nn.Linear(5, 7), decay=0.9)
    restored.restore(saved, updates=3)
    assert differing(restored.weights, saved) == []
    for seed in range(3, 6):
        restored.update(randomised(module, seed))
    assert differing(restored.weights, average.weights) == []
    assert set(differing(restored.weights, saved)) == {"weight", "bias"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_moving_average_is_lent_and_taken_back(dtype: torch.dtype) -> None:
    module = randomised(nn.Linear(5, 7), seed=0).to(dtype)
    average = MovingAverage(module, decay=0.9)
    average.update(randomised(module, seed=1))
    assert {weight.dtype for weight in average.weights.values()} == {torch.float32}
    own, averaged = weights(module), {name: weight.clone() for name, weight in average.weights.items()}
    with average.applied_to(module):
        assert differing(weights(module), {name: weight.to(dtype) for name, weight in averaged.items()}) == []
    assert differing(weights(module), own) == []
    with pytest.raises(KeyboardInterrupt), average.applied_to(module):
        raise KeyboardInterrupt
    assert differing(weights(module), own) == []
    assert differing(average.weights, averaged) == []
    assert set(differing(own, averaged)) == {"weight", "bias"}, "both are the same, so the test shows nothing"


def test_an_average_that_is_updated_rarely_stays_close() -> None:
    """Each update then stands for several steps, and a short run has an average."""
    module = nn.Linear(3, 2).double()
    often, rarely = MovingAverage(module, 0.9), MovingAverage(module, 0.9, every=5)
    start = weights(module)["weight"]
    far = 0.0
    for step in range(1, 501):
        with torch.no_grad():
            module.weight.copy_(start + step)
        for average in (often, rarely):
            average.follow(module, step)
        if step % 5 == 0 and step > 10:
            far = max(far, (often.weights["weight"] - rarely.weights["weight"]).abs().max().item())
    assert often.updates == 500 and rarely.updates == 5 + 99
    lag = (module.weight - often.weights["weight"]).min().item()
    print(f"\nthe average lags {lag:.1f} steps behind; both are at most {far:.1f} apart")
    assert 8 < lag < 12 and far <= 6


def test_the_moving_average_by_hand() -> None:
    module, decay = nn.Linear(3, 2).double(), 0.5
    average, expected = MovingAverage(module, decay), weights(module)
    for number in range(1, 20):
        average.update(randomised(module, seed=number))
        kept = min(decay, (1 + number) / (10 + number))
        expected = {name: kept * expected[name] + (1 - kept) * weight for name, weight in weights(module).items()}
    worst = max((average.weights[name] - expected[name]).abs().max().item() for name in expected)
    assert worst <= 1e-14, f"largest difference {worst}"
