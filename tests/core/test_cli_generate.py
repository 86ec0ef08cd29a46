"""The command `generate`: pictures with their settings inside, stacks of nets, and messages for faults."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from PIL import Image
from torch import Tensor

from controlnet_core.cli import main
from controlnet_core.cli.picture_files import write_picture
from controlnet_core.control.stack import Control
from controlnet_core.model.controlnet import ControlNet
from controlnet_core.pictures.read import load_image
from controlnet_core.pictures.sheet import to_image
from controlnet_core.sampling.generate import SamplingSettings, generate
from controlnet_core.weights.load import load_controlnet
from controlnet_core.weights.load_base import load_base
from controlnet_core.weights.save import save_controlnet
from tests.support.base_files import FAMILY, write_small_base
from tests.support.reduced import randomised

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base, a net and two hints, one of another aspect."""
    folder = tmp_path_factory.mktemp("files")
    write_small_base(folder)
    save_controlnet(randomised(ControlNet(FAMILY.unet)), folder / "net.safetensors")
    pixels = numpy.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=numpy.uint8)
    Image.fromarray(pixels[:, :32]).save(folder / "hint.png")
    Image.fromarray(pixels).save(folder / "wide.png")
    (folder / "text.png").write_text("no picture")
    return folder


@pytest.fixture
def command(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A command line that draws in two steps; paths start at the folder of the files."""
    monkeypatch.chdir(files)
    return ["generate", "", "--base", "base.safetensors", "--steps", "2", "--out", str(tmp_path / "out")]


def stored(path: str) -> dict[str, Any]:
    """The settings inside a picture."""
    with Image.open(path) as picture:
        settings: dict[str, Any] = json.loads(picture.text["controlnet_core"])  # type: ignore[attr-defined]  # of PNG
        return settings


def test_pictures_are_those_of_the_library_and_hold_their_settings(command: list[str], capsys: Capture) -> None:
    stack = ["--control", "net.safetensors", "--hint", "hint.png", "--strength", "0.5", "--end", "0.8"]
    assert main([*command, *stack, "--seed", "7", "--count", "2", "--json"]) == 0
    drawn = json.loads(capsys.readouterr().out)
    assert [one["seed"] for one in drawn["pictures"]] == [7, 8]
    assert [Path(one["path"]).name for one in drawn["pictures"]] == ["00001.png", "00002.png"]
    base = load_base("base.safetensors", dtype=torch.float32)
    control = Control(load_controlnet("net.safetensors"), load_image("hint.png"), strength=0.5, end=0.8)
    for one in drawn["pictures"]:
        picture = generate(base, "", [control], settings=SamplingSettings(2, seed=one["seed"]))
        with Image.open(one["path"]) as found:
            difference = numpy.abs(numpy.asarray(found, int) - numpy.asarray(to_image(picture[0]), int)).max()
        assert difference <= 1, f"largest difference {difference} of 255"
        settings = stored(one["path"])
        assert settings["seed"] == one["seed"] and settings["size"] == [32, 32]
        assert settings["controls"][0]["strength"] == 0.5


def test_options_given_once_act_on_all_nets_or_on_each_in_order(command: list[str], capsys: Capture) -> None:
    two = ["--control", "net.safetensors", "--hint", "hint.png"] * 2
    each = ["--canny", "0", "0", "--canny", "0.1", "0.2", "--curve", "flat", "--curve", "guess", "--start", "0.1"]
    assert main([*command, *two, *each, "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out)["controls"]
    assert (first["canny"], first["curve"], first["start"]) == (None, "flat", 0.1)
    assert (second["canny"], second["curve"], second["start"]) == ([0.1, 0.2], "guess", 0.1)


def test_a_folder_is_numbered_on_and_a_file_is_replaced(command: list[str], tmp_path: Path, capsys: Capture) -> None:
    plain = [*command[:-1], str(tmp_path / "out"), "--size", "16x24", "--guidance", "1"]
    assert main(plain) == 0 and main(plain) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["00001.png", "00002.png"]
    with Image.open(tmp_path / "out" / "00002.png") as picture:
        assert picture.size == (24, 16)
    assert capsys.readouterr().out.splitlines()[-1] == f"picture  {tmp_path / 'out' / '00002.png'} (seed 0)"
    file = tmp_path / "out" / "00001.png"
    before = file.read_bytes()
    assert main([*plain, "--out", str(file), "--seed", "1"]) == 0
    assert file.read_bytes() != before and len(list(file.parent.iterdir())) == 2


@pytest.mark.filterwarnings("always")
def test_a_warning_is_one_line(command: list[str], capsys: Capture) -> None:
    assert main([*command, "--control", "net.safetensors", "--hint", "wide.png"]) == 0
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: "))
    assert "16 columns at its borders are cut off" in line


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--control", "net.safetensors", "--hint", "nowhere.png"], 1, "found no file nowhere.png"),
        (["--control", "net.safetensors", "--hint", "text.png"], 1, "found text.png, which is no image"),
        (["--control", "hint.png", "--hint", "hint.png"], 1, "found a PNG image, hint.png"),
        (["--control", "base.safetensors", "--hint", "hint.png"], 1, "base.safetensors"),
        (["--control", "net.safetensors"], 2, "found 1 --control and no --hint"),
        (["--hint", "hint.png"], 2, "found 1 --hint for no --control"),
        (["--control", "n", "--hint", "hint.png", "--end", "1", "--end", "0.5"], 2, "found 2 --end for 1 --control"),
        (["--control", "net.safetensors", "--hint", "hint.png", "--end", "1.5"], 2, "end = 1.5"),
        (["--control", "net.safetensors", "--hint", "hint.png", "--canny", "0.2", "0.1"], 1, "low = 0.2, high = 0.1"),
        (["--sampler", "fast"], 2, "sampler = 'fast'; expected one of euler, ddim, dpmpp_2m"),
        (["--size", "20x20"], 2, "size = (20, 20)"),
        (["--count", "0"], 2, "count = 0"),
        (["--out", "x.jpg"], 2, "use x.png"),
        (["--out", "x.png", "--count", "2"], 2, "one file, x.png"),
        (["--out", "hint.png/pictures"], 1, "found that hint.png/pictures cannot be written"),
        (["--base", "tinny"], 1, "found no file tinny"),
        (["--tokenizer", "nowhere"], 1, "nowhere"),
    ],
)
def test_a_fault_is_reported(command: list[str], options: list[str], code: int, message: str, capsys: Capture) -> None:
    assert main([*command, *options, "--json"]) == code
    out, err = capsys.readouterr()
    error = json.loads(out)["error"]
    assert message in error["message"] and f"error: {error['message']}\n" in err, err


def test_ctrl_c_keeps_what_is_drawn(
    command: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Capture
) -> None:
    def write_once(picture: Tensor, file: Path, settings: Mapping[str, Any]) -> None:
        if file.stem == "00002":
            raise KeyboardInterrupt
        write_picture(picture, file, settings)

    monkeypatch.setattr("controlnet_core.cli.generate.write_picture", write_once)
    assert main([*command, "--count", "3", "--json"]) == 130
    out, err = capsys.readouterr()
    assert "interrupted: 1 of 3 pictures are drawn and kept" in err
    assert json.loads(out)["interrupted"]["pictures"] == [{"path": str(tmp_path / "out" / "00001.png"), "seed": 0}]
