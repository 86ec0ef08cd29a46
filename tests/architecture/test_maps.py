"""The pages that say where things are: each file, folder and name that they mention exists."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = ("docs/measurements.md", "docs/inference.md", "docs/memory.md")
PAGES = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md", *DOCS)
SUFFIXES = "py|md|png|jpg|json|txt|toml|yml|safetensors|svg"
ELSEWHERE = ("NAME", "build/", "SETTINGS.toml", "WORKFLOW.json", "hint.png", "out.png", "<")
"""Marks of a file that the reader makes or has."""
BASES = ("", "controlnet_core/", "nodes/bridge/", "docs/")
"""Where a mentioned path may begin."""


def tracked() -> set[str]:
    shown = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(shown.stdout.split())


def mentions(text: str) -> set[str]:
    """The paths of files and folders that a page mentions in code or links to."""
    code = " ".join(re.findall(r"`([^`\n]+)`", text))
    links = " ".join(re.findall(r"\]\(([^)#]+)\)", text))
    words = [word for word in f"{code} {links}".split() if "://" not in word]
    paths = [path for word in words for path in re.findall(rf"^[\w./<>-]+(?:\.(?:{SUFFIXES})$|/$)", word.strip(",:"))]
    return {path for path in paths if not any(mark in path for mark in ELSEWHERE)}


def missing(text: str, files: set[str]) -> list[str]:
    """The mentioned paths that are neither files nor folders of the repository."""
    folders = {f"{parent.as_posix()}/" for file in files for parent in Path(file).parents}
    there = files | folders
    return sorted(path for path in mentions(text) if not any(f"{base}{path}" in there for base in BASES))


@pytest.mark.parametrize("page", PAGES)
def test_every_mentioned_file_exists(page: str) -> None:
    gone = missing((ROOT / page).read_text(encoding="utf-8"), tracked())
    assert not gone, f"{page} mentions {', '.join(gone)}"


def test_every_name_beside_a_file_is_in_it() -> None:
    """Rows such as "`model/hint.py`, `HintEncoder`": the names are in one of the row's files."""
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    for row in re.findall(r"^\| .*\|$", text, flags=re.MULTILINE):
        files = [path for path in mentions(row) if path.endswith(".py")]
        names = [name for name in re.findall(r"`([A-Za-z_]\w+(?:\.\w+)?)`", row) if not name.endswith(".py")]
        sources = "".join(
            (ROOT / base / path).read_text(encoding="utf-8")
            for path in files
            for base in BASES
            if (ROOT / base / path).is_file()
        )
        for name in names if files else ():
            words = name.split(".")
            assert all(re.search(rf"\b{word}\b", sources) for word in words), f"no {name} in {files}"


def test_every_folder_of_the_package_is_on_the_map() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    folders = {path.parent.name for path in (ROOT / "controlnet_core").glob("*/__init__.py")}
    assert not [name for name in folders if f"`controlnet_core/{name}/`" not in text]
    units = {path.stem for path in (ROOT / "controlnet_core").glob("*.py")} - {"__init__", "__main__"}
    assert not [name for name in sorted(units) if not re.search(rf"\b{name}\b", text)]


def test_what_is_gone_is_noticed() -> None:
    files = {"controlnet_core/model/unet.py", "docs/a.png"}
    text = "`model/unet.py` and `model/gone.py`, ![](docs/a.png) [b](docs/b.md), `model/`, `old/`, `http://x/y.py`"
    assert missing(text, files) == ["docs/b.md", "model/gone.py", "old/"]
