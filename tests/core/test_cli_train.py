"""The command `train`: runs that end, resume, are read back, are interrupted, and fail with a message."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from controlnet_core.base import Base
from controlnet_core.cli import main
from controlnet_core.data.dataset import Progress
from controlnet_core.evaluation.validation import Evaluation
from controlnet_core.model.autoencoder import LatentDistribution
from controlnet_core.model.controlnet import ControlNet
from controlnet_core.objective import Batch
from controlnet_core.toy.shapes_validation import ShapesValidation
from controlnet_core.training.step import StepReport, Trainer
from controlnet_core.weights.load import load_controlnet
from tests.support.base_files import write_small_base

SETTINGS = """
batch_size = 2
steps = 2
evaluation = { every = 2, hints = 2, sampling_steps = 1, guidance = 1 }
[data]
kind = "shapes"
count = 2
size = 16
"""
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base in a file."""
    return write_small_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def command(base: Path, tmp_path: Path) -> list[str]:
    """A command line that trains for two steps."""
    (tmp_path / "run.toml").write_text(SETTINGS)
    return ["train", str(tmp_path / "run.toml"), "--base", str(base), "--out", str(tmp_path / "runs")]


def interrupting(*signals: signal.Signals) -> Callable[[Trainer, Batch], StepReport]:
    """A step during which Ctrl-C is pressed, or SIGTERM comes."""
    plain = Trainer.take_step

    def take_step(trainer: Trainer, batch: Batch) -> StepReport:
        for number in signals:
            signal.raise_signal(number)
        return plain(trainer, batch)

    return take_step


def result(capsys: Capture) -> dict[str, Any]:
    """The one JSON object on standard output."""
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_a_run_is_reported_and_read_back(command: list[str], capsys: Capture) -> None:
    assert main([*command, "--json"]) == 0
    report = result(capsys)
    folder = Path(report["folder"])
    assert report["net"] == str(folder / "controlnet.safetensors") and load_controlnet(report["net"]) is not None
    with Image.open(report["picture"]) as picture:
        assert picture.width > 1000
    kept = json.loads((folder / "report.json").read_text())
    assert kept == {key: value for key, value in report.items() if key not in ("folder", "net", "picture")}
    assert report["steps"] == 2 and [one["step"] for one in report["evaluations"]] == [0, 2]
    assert report["following"]["caption"] == report["evaluations"][-1]["following"]

    assert main([*command, "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == report and "this run is already finished" in err
    assert main(command) == 0
    out, _ = capsys.readouterr()
    assert str(folder) in out and report["net"] in out and report["picture"] in out


@pytest.mark.parametrize("signals", [(signal.SIGINT,), (signal.SIGTERM,), (signal.SIGTERM, signal.SIGTERM)])
def test_a_signal_ends_the_step_and_the_same_command_resumes(
    command: list[str], signals: tuple[signal.Signals, ...], monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with monkeypatch.context() as pressed:
        pressed.setattr(Trainer, "take_step", interrupting(*signals))
        assert main([*command, "--json"]) == 130
    out, err = capsys.readouterr()
    stopped = json.loads(out)["interrupted"]
    assert (stopped["step"], stopped["steps"]) == (1, 2)
    assert "Ctrl-C again stops at once" in err and "the same command resumes" in err
    assert (Path(stopped["folder"]) / "checkpoints" / "00000001").is_dir()
    assert main([*command, "--json"]) == 0
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert "it resumes from step 1" in err
    assert report["folder"] == stopped["folder"] and report["steps"] == 2
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_sigterm_while_hints_are_drawn_stops_there_and_they_are_drawn_later(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    plain = ShapesValidation.evaluate

    def evaluate(validation: ShapesValidation, net: ControlNet, progress: Progress | None = None) -> Evaluation:
        signal.raise_signal(signal.SIGTERM)
        return plain(validation, net, progress)

    with monkeypatch.context() as terminated:
        terminated.setattr(ShapesValidation, "evaluate", evaluate)
        assert main([*command, "--set", "evaluation.every=1"]) == 130
    assert "every step is kept" in capsys.readouterr().err
    assert main([*command, "--set", "evaluation.every=1", "--json"]) == 0
    assert [one["step"] for one in result(capsys)["evaluations"]] == [0, 1, 2]


def test_a_second_ctrl_c_stops_at_once(command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setattr(Trainer, "take_step", interrupting(signal.SIGINT, signal.SIGINT))
    assert main([*command, "--json"]) == 130
    out, err = capsys.readouterr()
    assert "interrupted: stopped at once" in err and "the same command resumes" in err
    assert not (Path(json.loads(out)["interrupted"]["folder"]) / "checkpoints").exists()


def test_ctrl_c_while_pairs_are_encoded_stops_there_and_they_are_kept(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Capture, tmp_path: Path
) -> None:
    plain, pressed = Base.encode_images, list[Tensor]()

    def encode_images(base: Base, images: Tensor) -> LatentDistribution:
        if not pressed:
            signal.raise_signal(signal.SIGINT)
        pressed.append(images)
        return plain(base, images)

    monkeypatch.setattr(Base, "encode_images", encode_images)
    more = [*command, "--set", "data.count=40"]
    assert main(more) == 130
    said = r"interrupted: stopped at once; 16 of \d\d pictures, captions and hints are encoded and kept"
    assert re.search(said, capsys.readouterr().err)
    assert main(more) == 0
    assert not list((tmp_path / "runs" / "cache").glob(".*")), "an unfinished cache is left"
    encoded = [len(images) for images in pressed[:3]]
    assert encoded == [16, 16, 8], "no pair is encoded twice"
    assert not any(torch.equal(pressed[0][0], images[0]) for images in pressed[1:3])


@pytest.mark.parametrize(
    ("changes", "code", "message"),
    [
        (["evaluation.evry=3"], 2, "did you mean 'evaluation.every'?"),
        (["steps=0"], 2, "found steps = 0 in"),
        (["steps=many"], 2, "found steps = 'many' in"),
        (["data.hint=canny"], 2, "data.hint = 'canny'"),
        (["device=quantum"], 2, "found device = 'quantum'"),
        (["base.path=nowhere"], 1, "found no file nowhere; expected a safetensors file"),
        (["data={kind='folder', path='nowhere'}"], 1, "nowhere"),
    ],
)
def test_a_fault_is_reported(command: list[str], changes: list[str], code: int, message: str, capsys: Capture) -> None:
    given = [argument for change in changes for argument in ("--set", change)]
    kept = command[:2] + command[4:] if changes[0].startswith("base") else command
    assert main([*kept, *given, "--json"]) == code
    out, err = capsys.readouterr()
    error = json.loads(out)["error"]
    assert message in error["message"] and f"error: {error['message']}\n" in err, err
    assert error["message"] == f"found {error['found']}; expected {error['expected']}; {error['do']}"


def test_a_missing_settings_file_is_named(capsys: Capture) -> None:
    assert main(["train", "nowhere.toml"]) == 2
    assert "error: found no file nowhere.toml; expected a TOML file" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_named(command: list[str], tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "file").touch()
    assert main([*command[:-1], str(tmp_path / "file" / "runs")]) == 1
    err = capsys.readouterr().err
    assert "error: found" in err and str(tmp_path / "file" / "runs") in err and "Traceback" not in err


def test_values_are_toml_or_text(command: list[str], capsys: Capture) -> None:
    changes = ["--set", "hint_encoder=paper", "--set", "evaluation={every=2, hints=1}", "--set", "steps=0"]
    assert main([*command, *changes]) == 2
    assert "steps = 0" in capsys.readouterr().err
