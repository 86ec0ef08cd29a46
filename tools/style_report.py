"""Prints how large the code is, folder by folder, and what of it is beyond the bar.

    python tools/style_report.py

The exit code is 0 if everything is within the bar, and 1 otherwise.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("controlnet_core", "nodes", "benchmarks", "tools")
FILE_LINES = 300
FUNCTION_LINES = 60
SHORT_FUNCTION_LINES = 25
SHORT_SHARE = 0.9
"""Nine in ten functions are short."""
NESTING = 3
PARAMETERS = 8
FORM_PARAMETERS = 14
"""A node's `execute` takes one parameter for each of its sockets and widgets."""

FunctionDef = ast.FunctionDef | ast.AsyncFunctionDef
NESTS = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.Try, ast.TryStar, ast.Match)


@dataclass(frozen=True)
class Function:
    """The size of one function or method.

    Arguments:
        name: Its name, without that of its class.
        place: Its file and line, as `folder/file.py:line`.
        lines: From `def` to its last line, docstring and inner functions included.
        nesting: How many statements such as `if`, `for` and `with` enclose its most deeply nested line.
        parameters: How many it takes besides `self` or `cls`.
    """

    name: str
    place: str
    lines: int
    nesting: int
    parameters: int


@dataclass(frozen=True)
class File:
    """The size of one file; `path` is relative to the root, with forward slashes."""

    path: str
    lines: int
    functions: tuple[Function, ...]

    @property
    def folder(self) -> str:
        """The folder that the file lies in."""
        return self.path.rpartition("/")[0]


def nesting(statements: Sequence[ast.stmt]) -> int:
    """How many nesting statements enclose the most deeply nested of `statements`.

    An `elif` is no deeper than its `if`. Functions and classes defined here are measured on their own.
    """
    return max((_depth(statement) for statement in statements), default=0)


def _depth(statement: ast.stmt) -> int:
    if not isinstance(statement, NESTS):
        return 0
    if isinstance(statement, ast.If) and _has_elif(statement):
        return max(1 + nesting(statement.body), nesting(statement.orelse))
    return 1 + max(nesting(body) for body in _bodies(statement))


def _has_elif(statement: ast.If) -> bool:
    """Whether an `elif` follows: to Python it is an `if` inside `else`, but one that stands in the same column."""
    return any(isinstance(one, ast.If) and one.col_offset == statement.col_offset for one in statement.orelse)


def _bodies(statement: ast.stmt) -> Iterator[list[ast.stmt]]:
    """Each list of statements directly inside `statement`, those of handlers and cases included."""
    for name in ("body", "orelse", "finalbody"):
        yield getattr(statement, name, [])
    for branch in (*getattr(statement, "handlers", ()), *getattr(statement, "cases", ())):
        yield branch.body


def parameters(function: FunctionDef) -> int:
    """How many parameters `function` takes, `*args` and `**kwargs` included, `self` and `cls` not."""
    given = function.args
    named = [one.arg for one in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    if named[:1] in (["self"], ["cls"]):
        del named[0]
    return len(named) + (given.vararg is not None) + (given.kwarg is not None)


def measure_file(path: Path, root: Path) -> File:
    """Measure the file at `path` below `root`."""
    text = path.read_text(encoding="utf-8")
    name = path.relative_to(root).as_posix()
    functions = (
        Function(
            name=node.name,
            place=f"{name}:{node.lineno}",
            lines=(node.end_lineno or node.lineno) - node.lineno + 1,
            nesting=nesting(node.body),
            parameters=parameters(node),
        )
        for node in ast.walk(ast.parse(text))
        if isinstance(node, FunctionDef)
    )
    return File(name, len(text.splitlines()), tuple(functions))


def measure(root: Path) -> list[File]:
    """Measure the product code below `root`, sorted by path."""
    paths = (path for folder in FOLDERS for path in sorted((root / folder).rglob("*.py")))
    return [measure_file(path, root) for path in paths]


def short_share(functions: Sequence[Function]) -> float:
    """The share of `functions` that are short; 1 if there are none."""
    return sum(one.lines <= SHORT_FUNCTION_LINES for one in functions) / len(functions) if functions else 1.0


def offences(files: Sequence[File]) -> list[str]:
    """What is beyond the bar, one sentence each, with its place first."""
    found = [f"{file.path}: {file.lines} lines; at most {FILE_LINES}" for file in files if file.lines > FILE_LINES]
    functions = [function for file in files for function in file.functions]
    for function in functions:
        found += _function_offences(function)
    if short_share(functions) < SHORT_SHARE:
        found.append(
            f"{short_share(functions):.1%} of all functions have at most {SHORT_FUNCTION_LINES} lines; "
            f"at least {SHORT_SHARE:.0%}"
        )
    return found


def _function_offences(function: Function) -> Iterator[str]:
    form = function.name == "execute" and function.place.startswith("nodes/")
    bars = (
        (function.lines, FUNCTION_LINES, "lines"),
        (function.nesting, NESTING, "levels of nesting"),
        (function.parameters, FORM_PARAMETERS if form else PARAMETERS, "parameters"),
    )
    for value, most, what in bars:
        if value > most:
            yield f"{function.place}: {function.name} has {value} {what}; at most {most}"


def table(files: Sequence[File]) -> str:
    """One row for each folder, and one for all of them."""
    width = max(len(file.folder) for file in files)
    rows = [f"{'folder':{width}} {'files':>5} {'lines':>6} {'functions':>9} {'short':>6}  longest file"]
    for folder in sorted({file.folder for file in files}):
        rows.append(_row(folder, width, [file for file in files if file.folder == folder]))
    return "\n".join([*rows, _row("all", width, files)])


def _row(name: str, width: int, files: Sequence[File]) -> str:
    functions = [function for file in files for function in file.functions]
    lines = sum(file.lines for file in files)
    longest = max(files, key=lambda file: file.lines)
    sizes = f"{len(files):5} {lines:6} {len(functions):9} {short_share(functions):6.0%}"
    return f"{name:{width}} {sizes}  {longest.path.rpartition('/')[2]} ({longest.lines})"


def main() -> int:
    """Print the table and the offences; the exit code."""
    files = measure(ROOT)
    found = offences(files)
    print(table(files), *found, sep="\n")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
