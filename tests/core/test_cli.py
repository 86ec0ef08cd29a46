"""Help, usage errors, exit codes and the one JSON object of the command line."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import controlnet_core
from controlnet_core.cli import COMMANDS, main, make_parser
from controlnet_core.cli.output import plain_warnings, print_result
from controlnet_core.control.notes import ControlWarning
from controlnet_core.sampling.samplers import SAMPLERS
from controlnet_core.schedule import SPACINGS
from controlnet_core.weights.inspection import inspect_checkpoint
from tests.support.base_files import write_small_base

TERMINAL, WIDEST = 80, 84
"""Columns of a usual terminal, and how far a line that is not wrapped may reach."""
WITHOUT_TORCH = """
import sys
from controlnet_core.cli import COMMANDS, main
names = [name for name in COMMANDS if name != "train"]
codes = [main(arguments) for arguments in (
    ["--help"], ["--version"], *([name, "--help"] for name in names), [], ["inspect"], ["generate", "--no", "--json"]
)]
loaded = {"torch", "numpy", "pydantic"} & set(sys.modules)
assert not loaded, loaded
assert codes == [0] * (2 + len(names)) + [2, 2, 2], codes
assert main(["train", "--help"]) == 0, "it is made of the fields of pydantic's models"
loaded = {"torch", "numpy"} & set(sys.modules)
assert not loaded, loaded
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base in a file."""
    return write_small_base(tmp_path_factory.mktemp("base"))


def parsers() -> dict[str, argparse.ArgumentParser]:
    """The parser of each command."""
    (commands,) = (action for action in make_parser()._actions if isinstance(action, argparse._SubParsersAction))
    return dict(commands.choices)


def help_to(output: int, unbuffered: str) -> subprocess.CompletedProcess[str]:
    """Ask for help in a process of its own that writes to the file descriptor `output`."""
    command = [sys.executable, "-m", "controlnet_core", "--help"]
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    return subprocess.run(command, env=environment, stdout=output, stderr=subprocess.PIPE, text=True)


def test_help_and_wrong_usage_load_no_heavy_library() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_help_explains_every_option_and_shows_an_example(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(TERMINAL))
    assert main([name, "--help"]) == 0
    text = capsys.readouterr().out
    wide = [line for line in text.splitlines() if len(line) > WIDEST]
    assert not wide, wide
    assert f"  controlnet-core {name} " in text[text.index("example") :]
    for action in parsers()[name]._actions:
        assert all(option in text for option in action.option_strings), action
        settled = not action.option_strings or "-h" in action.option_strings
        help_text = (action.help or "") % {"default": action.default}
        assert settled or "(default: " in help_text or "(required" in help_text, f"{action.option_strings}: {help_text}"
        if action.default not in (None, [], "", False, argparse.SUPPRESS):
            assert f"(default: {action.default})" in help_text, f"{action.option_strings}: {help_text}"


def test_help_names_every_sampler_and_spacing() -> None:
    actions = {action.dest: action.help or "" for action in parsers()["generate"]._actions}
    assert all(name in actions["sampler"] for name in SAMPLERS)
    assert all(name in actions["spacing"] for name in SPACINGS)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ([], "required: COMMAND"),
        (["trian"], "invalid choice: 'trian'"),
        (["inspect"], "required: FILE"),
        (["generate", "a", "--out", "x.png"], "required: --base"),
        (
            ["generate", "a", "--base", "tiny", "--out", "x.png", "--size", "big"],
            "'big' is not of the form HEIGHTxWIDTH",
        ),
        (["train", "a.toml", "--set", "steps"], "'steps' is not of the form KEY=VALUE"),
        (["train", "a.toml", "--js"], "unrecognized arguments: --js"),
    ],
)
def test_wrong_usage_is_said_and_exits_with_2(
    command: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command) == 2
    out, err = capsys.readouterr()
    assert out == "" and message in err and "usage: controlnet-core" in err and "--help" in err, err
    assert main([*command, "--json"]) == 2
    error = json.loads(capsys.readouterr().out)["error"]
    assert error.keys() == {"found", "expected", "do", "message"} and message in error["found"]


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"controlnet-core {controlnet_core.__version__}\n"


@pytest.mark.parametrize("as_json", [False, True])
def test_a_failure_is_one_message_and_exits_with_1(as_json: bool, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "nowhere.safetensors", *(["--json"] if as_json else [])]) == 1
    out, err = capsys.readouterr()
    assert err == "error: found no file nowhere.safetensors; expected a safetensors file; check the path\n"
    wanted = {"found": "no file nowhere.safetensors", "expected": "a safetensors file", "do": "check the path"}
    assert (json.loads(out) == {"error": {**wanted, "message": err[7:-1]}}) if as_json else out == ""


def test_inspect_says_what_a_file_is(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(base), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(inspect_checkpoint(base).to_json())
    assert main(["inspect", str(base)]) == 0
    facts = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    facts = {name: value.strip() for name, value in facts.items()}
    assert facts["file"] == str(base) and facts["usable"] == "yes" and facts["family"] == "small"


def test_inspect_names_what_is_missing(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(base)
    lost = [key for key in sorted(tensors) if "time_embed" in key]
    save_file({key: tensor for key, tensor in tensors.items() if key not in lost}, tmp_path / "part.safetensors")
    assert main(["inspect", str(tmp_path / "part.safetensors")]) == 0
    out = capsys.readouterr().out
    assert "no, see below" in out and lost[0] in out, out


def check_unwritable(done: subprocess.CompletedProcess[str], reason: str) -> None:
    """The one line of error, and exit code 1."""
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith(f"error: found standard output that cannot be written ({reason}"), done.stderr
    assert done.stderr.count("\n") == 1, done.stderr


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_has_ended_is_said(unbuffered: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = help_to(writer, unbuffered)
    os.close(writer)
    check_unwritable(done, "Broken pipe")


# Only Linux has this device; a broken pipe, above, is the same fault everywhere.
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no device that is always full")
def test_a_full_disk_is_said() -> None:
    with open("/dev/full", "w") as full:
        check_unwritable(help_to(full.fileno(), ""), "No space left")


def test_facts_are_aligned_and_unknown_ones_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    print_result([("net", 1), ("unknown", None), ("folder", "x")], {}, as_json=False)
    assert capsys.readouterr().out == "net     1\nfolder  x\n"


def test_our_warnings_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        with plain_warnings():
            warnings.warn("the hint is cropped", ControlWarning, stacklevel=1)
            warnings.warn("something old", DeprecationWarning, stacklevel=1)
    first, second, *_ = capsys.readouterr().err.splitlines()
    assert first == "warning: the hint is cropped"
    assert "test_cli.py" in second and "DeprecationWarning: something old" in second
