"""How large files and functions may be. A planted offence shows that each bar is held."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.scripts import tool

ROOT = Path(__file__).resolve().parents[2]
report = tool("style_report")


def plant(root: Path, file: str, text: str) -> list[str]:
    """What is wrong with a file, planted below `root` beside twenty functions of one line."""
    for name, content in {"tools/short.py": "def f(): ...\n" * 20, file: text}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    found: list[str] = report.offences(report.measure(root))
    return found


def function(lines: int = 1, parameters: int = 0, name: str = "long") -> str:
    """The source of a function of that many lines and parameters."""
    names = ", ".join(f"p{number}" for number in range(parameters))
    return f"def {name}({names}): pass\n" if lines == 1 else f"def {name}({names}):\n" + "    pass\n" * (lines - 1)


def nested(*openings: str) -> str:
    """The source of a function in which each line opens a block inside that of the line before."""
    lines = [f"{' ' * depth}{line}" for depth, line in enumerate(("def deep():", *openings, "pass"))]
    return "\n".join(lines)


def test_all_code_is_within_the_bar() -> None:
    files = report.measure(ROOT)
    assert {file.path.split("/")[0] for file in files} == set(report.FOLDERS)
    found = report.offences(files)
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("file", "text", "expected"),
    [
        ("tools/a.py", "\n" * 301, "tools/a.py: 301 lines; at most 300"),
        ("nodes/a.py", function(61), "nodes/a.py:1: long has 61 lines; at most 60"),
        ("nodes/a.py", f"class A:\n    async {function(1, 9)}", "nodes/a.py:2: long has 9 parameters; at most 8"),
        ("tools/a.py", "def f(a, b, c, d, *e, f, g, h, **i): ...", "tools/a.py:1: f has 9 parameters; at most 8"),
        ("nodes/a.py", function(1, 15, "execute"), "nodes/a.py:1: execute has 15 parameters; at most 14"),
        ("tools/a.py", function(1, 9, "execute"), "tools/a.py:1: execute has 9 parameters; at most 8"),
        ("benchmarks/a.py", function(26) * 3, "87.0% of all functions have at most 25 lines; at least 90%"),
    ],
)
def test_a_planted_offence_is_found(tmp_path: Path, file: str, text: str, expected: str) -> None:
    assert plant(tmp_path, file, text) == [expected]


@pytest.mark.parametrize("innermost", ["while a:", "for a in b:", "with a:", "try:", "match a:\ncase 1:"])
def test_a_fourth_level_of_nesting_is_found(tmp_path: Path, innermost: str) -> None:
    text = nested("for a in b:", "if a:", "with a:", *innermost.splitlines())
    handled = text + "\n    finally: pass" if innermost == "try:" else text
    assert plant(tmp_path, "tools/a.py", handled) == ["tools/a.py:1: deep has 4 levels of nesting; at most 3"]


@pytest.mark.parametrize("branch", ["else:\n   pass\n   if c:", "else:\n   if c:", "elif c:\n   if c:"])
def test_nesting_in_a_branch_is_found(tmp_path: Path, branch: str) -> None:
    opened = nested("if a:", "if b:").replace("pass", "pass\n  " + branch)
    assert plant(tmp_path, "tools/a.py", f"{opened}\n    while c: pass") == [
        "tools/a.py:1: deep has 4 levels of nesting; at most 3"
    ]


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("tools/a.py", "\n" * 300),
        ("tools/a.py", function(60)),
        ("tools/a.py", "class A:\n    def f(self, a, b, c, d, e, f, g, h): ..."),
        ("tools/a.py", nested("for a in b:", "if a:", "with a:")),
        ("tools/a.py", nested("for a in b:", "if a:", "with a:", "def inner():", "if a:")),
        ("tools/a.py", nested("for a in b:", "if a:", "if b:") + "\n   elif a: pass" * 5),
        ("nodes/a.py", function(1, 14, "execute")),
        ("benchmarks/a.py", function(26) * 2),
        ("tests/a.py", "\n" * 301),
    ],
)
def test_what_is_just_within_the_bar_is_no_offence(tmp_path: Path, file: str, text: str) -> None:
    assert plant(tmp_path, file, text) == []


def test_the_table_names_each_folder_and_its_longest_file(tmp_path: Path) -> None:
    plant(tmp_path, "nodes/bridge/a.py", "\n" * 7)
    header, *rows = report.table(report.measure(tmp_path)).splitlines()
    assert header.split() == ["folder", "files", "lines", "functions", "short", "longest", "file"]
    assert [row.split() for row in rows] == [
        ["nodes/bridge", "1", "7", "0", "100%", "a.py", "(7)"],
        ["tools", "1", "20", "20", "100%", "short.py", "(20)"],
        ["all", "2", "27", "20", "100%", "short.py", "(20)"],
    ]
