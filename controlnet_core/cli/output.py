"""What the command line says: results on standard output, everything else on standard error."""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from types import MappingProxyType
from typing import Any, TextIO

from tqdm import tqdm

from ..errors import ControlNetCoreError

PACKAGE = __name__.partition(".")[0]


class OutputError(ControlNetCoreError):
    """Standard output that cannot be written."""


class UsageError(Exception):
    """A command line that cannot be understood.

    Arguments:
        message: What is wrong with it.
        usage: The right usage.
        program: The command whose help explains it.
    """

    def __init__(self, message: str, usage: str, program: str) -> None:
        super().__init__(message)
        self.usage = usage
        self.do = f"`{program} --help` explains it"


class Interrupted(Exception):
    """A command that was stopped with Ctrl-C and can be run again.

    Arguments:
        message: What was kept, and how to resume.
        facts: The same for programs.
    """

    def __init__(self, message: str, facts: Mapping[str, Any] = MappingProxyType({})) -> None:
        super().__init__(message)
        self.facts = facts


@contextmanager
def speaking(aloud: bool) -> Iterator[None]:
    """Say nothing, unless aloud: of several processes that do the same, one speaks."""
    if aloud:
        yield
        return
    with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield


def note(text: str) -> None:
    """Print a line on standard error, above a progress bar if there is one."""
    tqdm.write(text, file=sys.stderr)


def print_result(facts: Sequence[tuple[str, object]], content: Mapping[str, Any], as_json: bool) -> None:
    """Print what a command found, once, at its end.

    Arguments:
        facts: Names and values for people, a line each; those whose value is None are left out.
        content: The same for programs.
        as_json: Whether to print `content` as one JSON object instead.

    Raises:
        OutputError: If standard output cannot be written.
    """
    if as_json:
        write_out(json.dumps(content, indent=2, allow_nan=False))
        return
    shown = [(name, value) for name, value in facts if value is not None]
    width = max((len(name) for name, _ in shown), default=0)
    write_out("\n".join(f"{name:{width}}  {value}" for name, value in shown))


def print_error(error: ControlNetCoreError | UsageError | Interrupted, as_json: bool) -> None:
    """Say on standard error why a command did not finish; with `as_json` also on standard output.

    Raises:
        OutputError: If standard output cannot be written.
    """
    content: dict[str, Any]
    match error:
        case ControlNetCoreError(found=found, expected=expected, do=do):
            note(f"error: {error}")
            content = {"error": {"found": found, "expected": expected, "do": do, "message": str(error)}}
        case UsageError(usage=usage, do=do):
            note(f"{usage}\nerror: {error}; {do}")
            expected = " ".join(usage.split())
            content = {"error": {"found": str(error), "expected": expected, "do": do, "message": f"{error}; {do}"}}
        case Interrupted():
            note(f"interrupted: {error}")
            content = {"interrupted": {**error.facts, "message": str(error)}}
    if as_json:
        write_out(json.dumps(content, indent=2))


def write_out(text: str, end: str = "\n") -> None:
    """Write to standard output and flush it.

    Raises:
        OutputError: If it cannot be written, as when the program that reads it has ended.
    """
    try:
        print(text, end=end, flush=True)
    except OSError as error:
        _discard_output()
        raise OutputError(
            found=f"standard output that cannot be written ({error.strerror})",
            expected="a terminal, a file on a disk with room, or a program that reads to the end",
            do="send the output elsewhere",
        ) from error


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Show warnings of this package as one line `warning: ...` each; those of others as Python does."""

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if category.__module__.partition(".")[0] == PACKAGE:
            note(f"warning: {message}")
        else:
            note(warnings.formatwarning(message, category, filename, lineno, line).rstrip())

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


def _discard_output() -> None:
    """Discard what is still buffered, so that the interpreter does not fail on it when it exits."""
    null_device = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null_device, sys.stdout.fileno())
    os.close(null_device)
