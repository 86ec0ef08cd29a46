"""What the ComfyUI registry's archive of this repository holds."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def tracked_files(root: Path = ROOT) -> set[str]:
    """The files that git tracks below `root`; relative, with forward slashes. Skips the test outside a checkout."""
    return _listed(root)


def archived_files(root: Path = ROOT) -> set[str]:
    """Those of the tracked files that `.comfyignore` does not name."""
    return tracked_files(root) - _listed(root, "--cached", "--ignored", "--exclude-from=.comfyignore")


def _listed(root: Path, *options: str) -> set[str]:
    # A source archive holds no list of its files; a checkout, as CI has it, never comes here.
    if not (root / ".git").exists():
        pytest.skip("the archive is made of the files that git tracks, and this is no checkout")
    command = ("git", "ls-files", "-z", *options)
    listed = subprocess.run(command, cwd=root, capture_output=True, check=True).stdout.decode("utf-8")
    return set(filter(None, listed.split("\0")))
