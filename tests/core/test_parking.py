"""Autoencoder and text encoders leave the device while a net is trained, and come back for evaluations."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from controlnet_core.base import Base
from controlnet_core.data.dataset import Progress
from controlnet_core.evaluation.validation import Evaluation, Levels
from controlnet_core.model.autoencoder import LatentDistribution
from controlnet_core.model.controlnet import ControlNet
from controlnet_core.objective import Batch
from controlnet_core.toy.shapes_dataset import ShapesDataset
from controlnet_core.training.run import train
from controlnet_core.training.settings import TrainSettings
from controlnet_core.training.step import StepReport, Trainer
from controlnet_core.weights.load_base import load_base
from tests.support.base_files import write_small_base
from tests.support.bases import SmallBase, small_base

PAIRS = ShapesDataset(4, 32, seed=0)
HOME, PARKED = "cpu:0", "cpu"
"""One place by two names, so that there are two devices where there is one."""


def places(base: Base) -> list[str]:
    """Where UNet, autoencoder and text encoders are."""

    def place(module: nn.Module) -> str:
        (found,) = {weight.device.type for weight in module.parameters()}
        return found

    return [place(module) for module in (base.unet, base.autoencoder, *base.text_encoders)]


class MovesToMeta(nn.Module):
    """A layer that comes back even from the device "meta", which holds no numbers, and stands for a second device."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))

    def to(self, device: torch.device | str) -> MovesToMeta:  # type: ignore[override]
        """Move."""
        self.weight = nn.Parameter(torch.ones(3, device=device))
        return self


def test_encoders_move_and_come_back_even_after_an_error() -> None:
    encoders = {"autoencoder": MovesToMeta(), "text_encoders": (MovesToMeta(), MovesToMeta())}
    base = SmallBase(**vars(small_base()) | encoders)
    with base.encoders_on("meta"):
        assert places(base) == ["cpu", "meta", "meta", "meta"]
        with pytest.raises(KeyboardInterrupt), base.encoders_on(base.device):
            assert places(base) == ["cpu"] * 4
            raise KeyboardInterrupt
        assert places(base) == ["cpu", "meta", "meta", "meta"]
    assert places(base) == ["cpu"] * 4


def test_encoders_work_where_they_are_and_give_to_the_unets_device(tmp_path: Path) -> None:
    base = load_base(write_small_base(tmp_path))
    base.unet.to("meta")
    encoded = base.encode_images(torch.zeros(2, 3, 32, 32))
    text = base.encode_text(["a"], (32, 32))
    given = encoded.mean, encoded.log_variance, text.context, base.decode_latents(torch.zeros(1, 4, 4, 4))
    assert places(base) == ["meta", "cpu", "cpu"] and {tensor.device.type for tensor in given} == {"meta"}


class AtHome(SmallBase):
    """A base whose device has another name than the place where encoders are parked."""

    @property
    def device(self) -> torch.device:
        """The CPU."""
        return torch.device(HOME)


class Drawing:
    """A validation that notes its calls.

    Arguments:
        calls: Where it notes them.
    """

    cost = 1.0

    def __init__(self, calls: list[str]) -> None:
        self.calls = calls

    def levels(self, progress: Progress | None = None) -> Levels:
        """Any levels."""
        return Levels(0.0, 1.0)

    def evaluate(self, net: ControlNet, progress: Progress | None = None) -> Evaluation:
        """Any scores."""
        self.calls.append("evaluate")
        return Evaluation((0.5,), {}, torch.zeros(1, 3, 8, 8))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is called, in order: moves of the encoders as "to DEVICE", encodings, and steps."""
    noted: list[str] = []
    on, encode, step = Base.encoders_on, Base.encode_images, Trainer.take_step

    @contextmanager
    def encoders_on(base: Base, device: torch.device | str) -> Iterator[None]:
        noted.append(f"to {device}")
        try:
            with on(base, device):
                yield
        finally:
            noted.append(f"back from {device}")

    def encode_images(base: Base, images: Tensor) -> LatentDistribution:
        noted.append("encode")
        return encode(base, images)

    def take_step(trainer: Trainer, batch: Batch) -> StepReport:
        noted.append("step")
        return step(trainer, batch)

    monkeypatch.setattr(Base, "encoders_on", encoders_on)
    monkeypatch.setattr(Base, "encode_images", encode_images)
    monkeypatch.setattr(Trainer, "take_step", take_step)
    return noted


def run(out: Path, calls: list[str]) -> Generator[StepReport, None, ControlNet]:
    """A run of three steps with an evaluation after the second."""
    settings = TrainSettings(
        steps=3, batch_size=1, learning_rate=1e-3, evaluation={"every": 2}, device="cpu", out=out, hint_start="latents"
    )
    return train(settings, AtHome(**vars(small_base())), PAIRS, Drawing(calls))


EVALUATION = [f"to {HOME}", "evaluate", f"back from {HOME}"]


def test_encoders_are_parked_for_steps_and_fetched_for_evaluations(tmp_path: Path, calls: list[str]) -> None:
    list(run(tmp_path, calls))
    steps = [*EVALUATION, "step", "step", *EVALUATION, "step", *EVALUATION]
    hints = ["encode"] * len(PAIRS)
    assert calls == ["encode", *hints, f"to {PARKED}", *steps, f"back from {PARKED}"]


def test_encoders_come_back_when_a_run_is_closed_or_fails(
    tmp_path: Path, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    reports = run(tmp_path, calls)
    next(reports), next(reports)
    reports.close()
    assert calls[-2:] == ["step", f"back from {PARKED}"]
    calls.clear()
    monkeypatch.setattr(Drawing, "evaluate", lambda *given: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(run(tmp_path, calls))
    assert calls == [f"to {PARKED}", "step", f"to {HOME}", f"back from {HOME}", f"back from {PARKED}"]
