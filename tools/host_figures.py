"""Makes docs/host.md, a table of what the tests in a real ComfyUI have measured, of their log.

    python tools/host_figures.py [build/test-host.txt]
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOG = ROOT / "build" / "test-host.txt"
PAGE = ROOT / "docs" / "host.md"
HOST = re.compile(r"ComfyUI [\d.]+(?: \(\w+\))?, torch [\w.+]+")
FILE = re.compile(r"^tests/(?:host|nodes)/(test_\w+)\.py ", re.MULTILINE)
"""pytest begins what a file prints with its name."""

Choice = Callable[[Sequence[tuple[str, ...]]], str]


def largest(found: Sequence[tuple[str, ...]]) -> str:
    """The largest of all numbers."""
    return _of_all(found, max(found, key=lambda one: float(one[0])))


def smallest(found: Sequence[tuple[str, ...]]) -> str:
    """The smallest of all numbers."""
    return _of_all(found, min(found, key=lambda one: float(one[0])))


def as_said(found: Sequence[tuple[str, ...]]) -> str:
    """The numbers of the one place where they are said."""
    if len(found) != 1:
        raise ValueError(f"{len(found)} lines")
    return " · ".join(found[0])


def _of_all(found: Sequence[tuple[str, ...]], chosen: tuple[str, ...]) -> str:
    return f"{chosen[0]} of {len(found)}" if len(found) > 1 else chosen[0]


@dataclass(frozen=True)
class Figure:
    """A line of the table.

    Attributes:
        file: The test file that prints it, without its ending.
        description: What was measured.
        pattern: The lines in which it is printed, a group around each number.
        choose: Which of the numbers is shown.
    """

    file: str
    description: str
    pattern: str
    choose: Choice = as_said


FIGURES = (
    Figure("test_parity", "our nodes beside the native ones, three families: residuals of the first step",
           r"^sd\w+, .*: residuals ([\d.e+-]+), latents", largest),
    Figure("test_parity", "... final latents",
           r"^sd\w+, (?!.*euler:).*: residuals .*, latents ([\d.e+-]+), one rounding", largest),
    Figure("test_parity", "... the effect of one float32 rounding on them",
           r"^sd\w+, (?!.*euler:).*one rounding ([\d.e+-]+)$", largest),
    Figure("test_parity", "... final latents of euler from sigma 4519, whose noise float32 rounds to 2e-3",
           r"^sd\w+, .*euler: residuals .*, latents ([\d.e+-]+), one rounding", largest),
    Figure("test_parity", "... the effect of one float32 rounding on those",
           r"^sd\w+, .*euler: .*one rounding ([\d.e+-]+)$", largest),
    Figure("test_everything", "graphs of every kind, ours beside native: final latents",
           r"^sd\w+, .*: latents ([\d.e+-]+); control", largest),
    Figure("test_everything", "... what control changes in them, at least", r"changes them by ([\d.e+-]+)$", smallest),
    Figure("test_guiders", "a net on one side of guidance, beside a native one there alone: final latents",
           r"^.+, \w+, (?:our|native) net: ([\d.e+-]+); on both sides", largest),
    Figure("test_guiders", "... what the other side changes in them, at least",
           r"^(?!CFG 1, conditional).+ another by ([\d.e+-]+)$", smallest),
    Figure("test_parts", "in tiles, beside native nets: final latents",
           r", at once \w+: ([\d.e+-]+); another", largest),
    Figure("test_parts", "... what another hint changes in them, at least", r"another hint ([\d.e+-]+)$", smallest),
    Figure("test_parts", "windows of 4 in 8 pictures, beside no windows: final latents",
           r"^.+, \d hints, .*: ([\d.e+-]+)$", largest),
    Figure("test_laws", "our nodes beside the core alone, three families: final latents",
           r"^sd\w+, \w+: ([\d.e+-]+)$", largest),
    Figure("test_laws", "forwards of the hint encoder in 20 steps, ours · native",
           r"both sides, end 1.0: ours {'hint encoder': (\d+),.* native {'hint encoder': (\d+),"),
    Figure("test_small_base", "small base beside the core: encoded prompts", r"^'.*': ([\d.e+-]+)$", largest),
    Figure("test_small_base", "... encoded · decoded pictures", r"^latents ([\d.e+-]+), pictures ([\d.e+-]+)$"),
    Figure("test_small_base", "... final latents with a net, each curve", r"^\w+: ([\d.e+-]+)$", largest),
    Figure("test_small_base", "... following score without a prompt, in ComfyUI · in the core",
           r"^following without a prompt: ([\d.]+) in ComfyUI, ([\d.]+) in the core"),
    Figure("test_small_base", "... a net in ComfyUI's own loader beside ours: residuals · pictures",
           r"^residuals ([\d.e+-]+), pictures ([\d.e+-]+)$"),
    Figure("test_base_from_graph", "training: sigmas of the copied base beside ComfyUI's",
           r"sigmas ([\d.e+-]+) from ComfyUI's", largest),
    Figure("test_base_from_graph", "... quantised weights beside a dequantisation in half precision",
           r"^\w+: ([\d.e+-]+) of the largest weight", largest),
    Figure("test_training_sources", "... a trained net in ComfyUI's own loader beside ours: residuals",
           r"^residuals ([\d.e+-]+)$"),
    Figure("test_training", "... memory after five runs in a row, MiB", r"^MiB after each run: (.+)$"),
    Figure("test_training_server", "*tiny_train* as it is saved: following score", r"^following ([\d.]+)$"),
    Figure("test_training_server", "... seconds in ComfyUI, drawing included · in a terminal · ratio",
           r"^(\d+) s in ComfyUI, drawing included, (\d+) s in a terminal: ratio ([\d.]+)"),
    *(Figure("test_training_server", f"`{path}` while {state}: median seconds · at most",
             rf"^{path} {state}: ([\d.]+) s, at most ([\d.]+) s")
      for path in ("/queue", "/object_info") for state in ("idle", "sampling", "training")),
    Figure("test_server", "seconds to import the extension", r"the pack is imported in ([\d.]+) s"),
)  # fmt: skip
INTRODUCTION = """\
# In a real ComfyUI

What the tests of `make test-host` print on {host}, on the CPU.

Differences are the largest absolute ones, as a fraction of the largest value; "of N" says of how many cases the worst
is shown. Seconds are those of two cores. The models are reduced and random, but for the small base. The page is made by
`tools/host_figures.py`.

| measured | figure | tests/host |
|---|---|---|
"""


def page(log: str) -> str:
    """The page, of a log.

    Raises:
        ValueError: If the host or a figure is not in it.
    """
    host = HOST.search(log)
    if host is None:
        raise ValueError("found no line with the versions of ComfyUI and torch; expected the log of `make test-host`")
    parts = FILE.split(log)
    printed = dict(zip(parts[1::2], parts[2::2], strict=True))
    lines = [f"| {one.description} | {read(one, printed.get(one.file, ''))} | `{one.file}.py` |" for one in FIGURES]
    return INTRODUCTION.format(host=host[0]) + "\n".join(lines) + "\n"


def read(figure: Figure, text: str) -> str:
    """A figure, of what its test file has printed.

    Raises:
        ValueError: If it is not there.
    """
    found = [match.groups() for match in re.finditer(figure.pattern, text, re.MULTILINE)]
    try:
        return figure.choose(found)
    except ValueError as error:
        raise ValueError(
            f"found no figure of {figure.file}.py for: {figure.description} ({error}); expected the log of a run in "
            f"which it passed; run make test-host TESTS=tests/host/{figure.file}.py, or correct its pattern"
        ) from error


if __name__ == "__main__":
    try:
        made = page(Path(sys.argv[1] if sys.argv[1:] else LOG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        sys.exit(str(problem))
    PAGE.write_text(made, encoding="utf-8")
