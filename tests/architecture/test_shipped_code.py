"""What ships runs no text as code, and looks as if it did not: scanners of registries search for the words alone."""

from __future__ import annotations

import ast
import re

import pytest

from tests.support.archive import ROOT, archived_files

RUN_TEXT = ("compile", "eval", "exec")
WORDS = re.compile(r"\.eval\(|\bglobals\(\)\[")
"""In place of the first, `net.train(False)` does the same."""


def faults(text: str) -> list[str]:
    """What a scanner would find in the source of a module, each with its line."""
    called = (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name) and node.id in RUN_TEXT)
    found = [(node.lineno, node.id) for node in called]
    found += [(text.count("\n", 0, word.start()) + 1, word[0]) for word in WORDS.finditer(text)]
    return [f"line {line}: {what}" for line, what in sorted(found)]


def test_what_ships_runs_no_text_as_code() -> None:
    paths = [ROOT / name for name in sorted(archived_files()) if name.endswith(".py")]
    assert len(paths) > 100
    found = {path: faults(path.read_text(encoding="utf-8")) for path in paths if path.exists()}
    assert not any(found.values()), "\n".join(f"{path}: {fault}" for path, one in found.items() for fault in one)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("def f(a):\n    return eval(a)\n", ["line 2: eval"]),
        ("exec('1')\nb = map(compile, a)\n", ["line 1: exec", "line 2: compile"]),
        ("net.eval()\n", ["line 1: .eval("]),
        ("'''Why not\n`net.eval()`'''\n", ["line 2: .eval("]),
        ("globals()['a'] = 1\n", ["line 1: globals()["]),
        ("import re\nre.compile('a')\nmodel.evaluate(globals())\n", []),
    ],
)
def test_a_planted_fault_is_found(text: str, expected: list[str]) -> None:
    assert faults(text) == expected
