"""The version is the same everywhere, and a release is refused in words until nothing is missing."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from PIL import Image

import controlnet_core
from tests.support.scripts import tool

ROOT = Path(__file__).resolve().parents[2]
release = tool("check_release")
OWNERS = (
    "found no PublisherId",
    "found Icon = ''",
    *(f"found {name} = '' under [project.urls]" for name in release.URLS),
    "found 'unreleased' after ",
)
"""What only the owner of the public repository can add."""
COMPLETE = {
    "pyproject.toml": """
[project]
version = "1.2.3"
urls = { Repository = "https://a.b/c", Documentation = "https://a.b/c#d", Issues = "https://a.b/c/issues" }

[tool.comfy]
PublisherId = "somebody"
Icon = "https://a.b/icon.png"
""",
    "controlnet_core/version.py": """import torch\n\n__version__ = "1.2.3"\n""",
    "CHANGELOG.md": """# Changelog

## 1.2.3 - 2030-01-31

### Added

- Something.

## 1.2.3-rc.1 - 2030-01-30

- Nothing yet.
""",
}
"""A repository that lacks nothing."""


def plant(root: Path, file: str, old: str, new: str) -> Path:
    """Write the complete repository below `root`, but for one text that is replaced in one file."""
    for name, text in COMPLETE.items():
        assert name != file or old in text
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text.replace(old, new) if name == file else text, encoding="utf-8")
    return root


def test_the_version_is_the_same_everywhere() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert settings["project"]["version"] == controlnet_core.__version__ == release.package_version(ROOT)


def test_the_repository_lacks_only_what_its_owner_knows() -> None:
    lacking = release.problems(ROOT, None)
    assert [one for one in lacking if not one.startswith(OWNERS)] == []


def test_the_icon_is_one_that_the_registry_takes() -> None:
    with Image.open(ROOT / "docs" / "icon.png") as icon:
        assert icon.width == icon.height <= 400


def test_a_complete_repository_lacks_nothing(tmp_path: Path) -> None:
    root = plant(tmp_path, "CHANGELOG.md", "", "")
    assert release.problems(root, None) == release.problems(root, "v1.2.3") == []


def test_the_notes_are_those_of_the_version_alone() -> None:
    text = COMPLETE["CHANGELOG.md"]
    assert release.section("1.2.3", text)["notes"].strip() == "### Added\n\n- Something."
    assert release.section("1.2.3-rc.1", text)["notes"].strip() == "- Nothing yet."
    assert release.section("1.2", text) is None and release.section("1.2.3-rc", text) is None


@pytest.mark.parametrize(
    ("file", "old", "new", "expected"),
    [
        ("pyproject.toml", "somebody", "", "found no PublisherId"),
        ("pyproject.toml", 'PublisherId = "somebody"', "", "found no PublisherId"),
        ("pyproject.toml", "https://a.b/icon.png", "docs/icon.png", "found Icon = 'docs/icon.png'"),
        ("pyproject.toml", "https://a.b/c#d", "", "found Documentation = ''"),
        ("pyproject.toml", 'Repository = "https://a.b/c", ', "", "found Repository = ''"),
        ("pyproject.toml", "https://a.b/c/issues", "https://", "found Issues = 'https://'"),
        ("controlnet_core/version.py", "1.2.3", "1.2.2", "found __version__ = '1.2.2'"),
        ("controlnet_core/version.py", "__version__", "VERSION", "found __version__ = None"),
        ("CHANGELOG.md", "## 1.2.3 -", "## 1.2.4 -", "found no heading '## 1.2.3 - DATE'"),
        ("CHANGELOG.md", "2030-01-31", "unreleased", "found 'unreleased' after 1.2.3"),
        ("CHANGELOG.md", " - 2030-01-31", "", "found '' after 1.2.3"),
        ("CHANGELOG.md", "### Added\n\n- Something.\n", "", "found nothing about 1.2.3"),
    ],
)
def test_what_is_missing_is_said(tmp_path: Path, file: str, old: str, new: str, expected: str) -> None:
    (said,) = release.problems(plant(tmp_path, file, old, new), None)
    assert said.startswith(expected), said
    assert "; expected " in said and said.count("; ") == 2, said


@pytest.mark.parametrize("version", ["1.2", "v1.2.3", "01.2.3", "1.2.3rc1", "1.2.3+local", ""])
def test_a_version_that_is_not_semantic_is_refused(tmp_path: Path, version: str) -> None:
    root = plant(tmp_path, "pyproject.toml", "1.2.3", version)
    said = release.problems(root, None)[0]
    assert said.startswith(f"found version = {version!r} in pyproject.toml; expected a semantic version"), said


def test_a_tag_of_another_version_is_refused(tmp_path: Path) -> None:
    (said,) = release.problems(plant(tmp_path, "CHANGELOG.md", "", ""), "v1.2.4")
    assert said.startswith("found the tag 'v1.2.4'; expected 'v1.2.3'")


def test_the_command_exits_with_1_and_says_what_is_missing() -> None:
    """With the Python of the workflow that publishes, in which nothing is installed."""
    command = [sys.executable, "-I", "-S", str(ROOT / "tools" / "check_release.py"), "v0.0.0"]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.splitlines() == release.problems(ROOT, "v0.0.0")
