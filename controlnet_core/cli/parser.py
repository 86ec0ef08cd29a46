"""The parser of the command line: help keeps its layout, and usage errors are raised, not printed."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn, TypeAlias

from .output import UsageError, write_out

if TYPE_CHECKING:
    from _typeshed import SupportsWrite


class Parser(argparse.ArgumentParser):
    """A parser that raises a UsageError where another would end the process."""

    late_epilog: Callable[[], str] | None = None
    """Makes what stands below the options, for a text that takes long to make."""

    def format_help(self) -> str:
        """The help, with the late epilog if there is one."""
        if self.late_epilog is not None:
            self.epilog = self.late_epilog()
        return super().format_help()

    def error(self, message: str) -> NoReturn:
        """Raise a UsageError."""
        raise UsageError(message, self.format_usage().rstrip(), self.prog)

    def _print_message(self, message: str, file: SupportsWrite[str] | None = None) -> None:
        """Print help or version; argparse itself would say nothing where standard output cannot be written."""
        write_out(message, end="")


Commands: TypeAlias = "argparse._SubParsersAction[Parser]"
"""What a command adds itself to."""


def new_command(
    commands: Commands, name: str, summary: str, description: str, epilog: str | Callable[[], str]
) -> Parser:
    """Add a command that has `--json`, as all have, and takes no abbreviated options.

    Arguments:
        commands: What to add it to.
        name: Its name.
        summary: What it does, in the list of commands.
        description: What it does, in its own help; lines are kept.
        epilog: What stands below its options, with an example; lines are kept. A function makes it when it is shown.
    """
    parser = commands.add_parser(
        name,
        help=summary,
        description=description,
        epilog=epilog if isinstance(epilog, str) else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    if not isinstance(epilog, str):
        parser.late_epilog = epilog
    as_json = "print one JSON object, also for an error; all else goes to standard error (default: plain text)"
    parser.add_argument("--json", action="store_true", help=as_json)
    return parser
