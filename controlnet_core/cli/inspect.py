"""`controlnet-core inspect`: says what a weights file is."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .output import print_result
from .parser import Commands, new_command

if TYPE_CHECKING:
    from ..weights.inspection import CheckpointReport

DESCRIPTION = """\
Say what a weights file is, without reading its weights: a ControlNet or a base,
its family and layout, and whether every tensor is there in the right shape; if
not, which are missing or do not belong. A file that cannot be used is described
too: the exit code is 1 only if it cannot be opened."""
EPILOG = """\
example:
  controlnet-core inspect control_v11p_sd15_canny.safetensors
"""
NAMED_KEYS = 5
LONGEST_VALUE = 100


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = new_command(commands, "inspect", "say what a weights file is", DESCRIPTION, EPILOG)
    parser.add_argument("file", metavar="FILE", help="a safetensors file or a diffusers folder")


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    from ..weights.inspection import inspect_checkpoint

    report = inspect_checkpoint(arguments.file)
    print_result(facts(report), json.loads(report.to_json()), arguments.json)
    return 0


def facts(report: CheckpointReport) -> list[tuple[str, object]]:
    """A report as names and values."""
    hint = None if report.hint_channels is None else f"{report.hint_channels} channels, {report.hint_encoder} encoder"
    return [
        ("file", report.path),
        ("what", report.description),
        ("usable", "yes" if report.usable else "no, see below"),
        ("family", report.family),
        ("layout", report.layout),
        ("hint", hint),
        ("parameters", f"{report.parameters:,} in {report.tensors:,} tensors, {report.dtype or 'none'}"),
        ("missing", few(report.missing)),
        ("extra", few(report.extra)),
        ("other shape", few(report.misshapen)),
        ("not needed", few(report.unused)),
        *(("note", note) for note in report.notes),
        *((f"metadata {name}", shortened(value)) for name, value in sorted(report.metadata.items())),
    ]


def few(keys: Sequence[str]) -> str | None:
    """How many keys, and the first of them; None if there are none."""
    if not keys:
        return None
    more = f", and {len(keys) - NAMED_KEYS:,} more" if len(keys) > NAMED_KEYS else ""
    return f"{len(keys):,}: {', '.join(keys[:NAMED_KEYS])}{more}"


def shortened(text: str) -> str:
    """The beginning of a text, in one line."""
    line = " ".join(text.split())
    return line if len(line) <= LONGEST_VALUE else f"{line[:LONGEST_VALUE]}..."
