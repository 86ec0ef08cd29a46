"""The parser of the command line: help as it was laid out, and usage errors that are raised, not printed."""

from __future__ import annotations

import argparse
from typing import NoReturn, TypeAlias


class UsageError(Exception):
    """A command line that cannot be understood.

    Arguments:
        message: What is wrong with it.
        usage: What would be right, in one line.
        program: The command whose help explains it.
    """

    def __init__(self, message: str, usage: str, program: str) -> None:
        super().__init__(message)
        self.usage = usage
        self.do = f"`{program} --help` explains it"


class Parser(argparse.ArgumentParser):
    """A parser that raises."""

    def error(self, message: str) -> NoReturn:
        """Raise a UsageError."""
        raise UsageError(message, " ".join(self.format_usage().split()), self.prog)


Commands: TypeAlias = "argparse._SubParsersAction[Parser]"
"""What a command adds itself to."""


def new_command(commands: Commands, name: str, summary: str, description: str, epilog: str) -> Parser:
    """Add a command that has `--json`, as all have, and knows options by their whole names only.

    Arguments:
        commands: What to add it to.
        name: Its name.
        summary: What it does, in the list of commands.
        description: What it does, in its own help; lines are kept.
        epilog: What stands below its options, with an example; lines are kept.
    """
    parser = commands.add_parser(
        name,
        help=summary,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    words = "print one JSON object, also for an error; all else goes to standard error (default: words for people)"
    parser.add_argument("--json", action="store_true", help=words)
    return parser
