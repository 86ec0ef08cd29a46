"""The command `controlnet-core`; one module for each subcommand.

A command's module has `add_parser`, which must not import torch, so that help and wrong usage cost nothing, and `run`,
which gives the exit code: 0 done, 1 failed, 2 wrong usage, 130 interrupted and resumable.
"""

from __future__ import annotations

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
Train ControlNets, draw with them, look into weights files, and run workflows on
a ComfyUI server. Each command has a --help of its own. Results go to standard
output, everything else to standard error. Exit codes: 0 done, 1 failed with a
message that says what to do, 2 wrong usage, 130 interrupted and resumable."""
EPILOG = """\
example:
  controlnet-core generate "a red circle on blue" --base tiny --out circle.png
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Arguments:
        argv: The arguments behind the program's name; None takes those of the process.

    Returns:
        The exit code.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        with plain_warnings():
            return _run(words)
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


def _run(words: list[str]) -> int:
    """Run a command, and say why where it does not finish."""
    as_json = "--json" in words
    try:
        arguments = make_parser().parse_args(words)
    except SystemExit:  # help or version was asked for, and is printed
        return DONE
    except UsageError as error:
        print_error(error, as_json)
        return WRONG_USAGE
    try:
        code: int = COMMANDS[arguments.command].run(arguments)
        return code
    except KeyboardInterrupt:
        print_error(Interrupted("stopped at once; the same command begins again"), as_json)
        return INTERRUPTED
    except Interrupted as error:
        print_error(error, as_json)
        return INTERRUPTED
    except ControlNetCoreError as error:
        print_error(error, as_json)
        return WRONG_USAGE if isinstance(error, SettingError) else FAILED
