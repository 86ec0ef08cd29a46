"""The command `controlnet-core`; one module for each subcommand.

A command's module has `add_parser`, which must not import torch, so that help and wrong usage cost nothing, and `run`,
which gives the exit code: 0 done, 1 failed, 2 wrong usage, 130 interrupted and resumable.
"""

from __future__ import annotations

import os
import sys
from argparse import RawDescriptionHelpFormatter
from collections.abc import Sequence

from ..errors import ControlNetCoreError, SettingError
from ..version import __version__
from . import demo, generate, inspect, queue, train
from .output import Interrupted, OutputError, UsageError, plain_warnings, print_error
from .parser import Parser

DONE, FAILED, WRONG_USAGE, INTERRUPTED = 0, 1, 2, 130
COMMANDS = {"demo": demo, "train": train, "generate": generate, "inspect": inspect, "queue": queue}
DESCRIPTION = """\
Train ControlNets, draw with them, inspect weights files, and run workflows on a
ComfyUI server. Each command has a --help of its own. Results go to standard
output, everything else to standard error. Exit codes: 0 done, 1 failed with a
message that says what to do, 2 wrong usage, 130 interrupted and resumable."""
EPILOG = """\
example:
  controlnet-core generate "a red circle on blue" --base tiny --out circle.png
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Arguments:
        argv: The arguments after the program's name; None means those of the process.

    Returns:
        The exit code.
    """
    command_line = list(sys.argv[1:] if argv is None else argv)
    try:
        with plain_warnings():
            return _run(command_line)
    except OutputError as error:
        print_error(error, as_json=False)
        return FAILED


def make_parser() -> Parser:
    """The parser of the whole command line."""
    parser = Parser(
        prog="controlnet-core",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    number = f"controlnet-core {__version__}"
    parser.add_argument("--version", action="version", version=number, help="show the version and exit")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in COMMANDS.values():
        command.add_parser(commands)
    return parser


def _run(command_line: list[str]) -> int:
    """Run a command; if it does not finish, say why."""
    speaks = os.environ.get("RANK", "0") == "0"  # of the processes that torchrun starts, one
    as_json = speaks and "--json" in command_line
    try:
        arguments = make_parser().parse_args(command_line)
    except SystemExit:  # help or version was asked for and printed
        return DONE
    except UsageError as error:
        print_error(error, as_json)
        return WRONG_USAGE
    try:
        code: int = COMMANDS[arguments.command].run(arguments)
        return code
    except KeyboardInterrupt:
        print_error(Interrupted("stopped at once; the same command starts again"), as_json)
        return INTERRUPTED
    except Interrupted as error:
        if speaks:
            print_error(error, as_json)
        return INTERRUPTED
    except ControlNetCoreError as error:
        print_error(error, as_json)
        return WRONG_USAGE if isinstance(error, SettingError) else FAILED
