"""What the ComfyUI registry hands out: all that the nodes need, and nothing that only development needs."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.archive import archived_files, tracked_files

FOLDERS = ("controlnet_core", "js", "nodes", "workflows")
FILES = {"CHANGELOG.md", "LICENSE", "README.md", "__init__.py", "pyproject.toml", "requirements.txt"}
LEFT_OUT = (".ci", ".github", "benchmarks", "docs", "tests", "tools")


def test_what_the_nodes_need_is_in_the_archive() -> None:
    archive = archived_files()
    assert archive >= FILES
    for folder in FOLDERS:
        needed = {name for name in tracked_files() if name.startswith(f"{folder}/")}
        assert needed and needed <= archive, f"left out of {folder}/: {sorted(needed - archive)}"


def test_each_workflow_comes_with_its_thumbnail() -> None:
    archive = {Path(name) for name in archived_files()}
    workflows = {path for path in archive if path.parent == Path("workflows") and path.suffix == ".json"}
    assert len(workflows) >= 7
    assert {path.with_suffix(".jpg") for path in workflows} <= archive


def test_what_only_development_needs_is_not_in_the_archive() -> None:
    assert [name for name in archived_files() if name.startswith(tuple(f"{folder}/" for folder in LEFT_OUT))] == []


@pytest.mark.parametrize(
    ("pattern", "left_out"),
    [
        ("/docs/", {"docs/a.md"}),
        ("docs/", {"docs/a.md", "js/docs/b.md"}),
        ("# a comment", set()),
        ("/docs/*\n!/docs/a.md", set()),
    ],
)
def test_patterns_are_those_of_gitignore(tmp_path: Path, pattern: str, left_out: set[str]) -> None:
    files = {"docs/a.md", "js/docs/b.md", "ä.py"}
    for name, text in {**dict.fromkeys(files, ""), ".comfyignore": pattern, "untracked": ""}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    for command in (["init", "--quiet"], ["add", ".comfyignore", *sorted(files)]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    assert archived_files(tmp_path) == {".comfyignore", *files} - left_out
