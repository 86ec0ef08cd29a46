"""SIGKILL at any moment, even while a checkpoint is written: the run resumes and ends as if nothing had happened."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from safetensors.torch import load_file

from controlnet_core.training.run_folder import RunFolder
from tests.support import train_small
from tests.support.bits import differing

ROOT = Path(__file__).parents[2]
PATIENCE = 300.0
"""Seconds after which a process is given up."""
WRITING = 0
"""Kill while a checkpoint is written; any other number is how many steps to wait for."""
MOMENTS = (3, WRITING, 4, WRITING, 1)
PARTS = ("net.safetensors", "average.safetensors", "optimizer.safetensors")
MOST_KILLS = 7
"""The run is long enough for this many; those beyond five are attempts to hit a write."""


@dataclass(frozen=True)
class Session:
    """What one process did.

    Attributes:
        before: Steps in the newest checkpoint when it began.
        after: When it ended.
        first_step: The first step it reported, if any.
        left_partial: Whether its death left a half-written checkpoint that was not there before.
    """

    before: int
    after: int
    first_step: int | None
    left_partial: bool


def start(out: Path, way: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(ROOT / "tests" / "support" / "train_small.py"), str(out), way],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )


def killed(out: Path, way: str, moment: int, chance: random.Random) -> Session:
    """Let a process train, kill it, and return what it did."""
    checkpoints = train_small.run_folder(out, way) / "checkpoints"
    before, old = newest(checkpoints), partials(checkpoints)
    with start(out, way) as process:
        assert process.stdout is not None
        lines: list[str] = []
        if moment == WRITING:
            deadline = time.monotonic() + PATIENCE
            while not partials(checkpoints) - old and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.0005)
        else:
            lines = [process.stdout.readline() for _ in range(moment)]
            time.sleep(chance.uniform(0, 0.1))
        process.kill()
        lines += process.stdout.readlines()
    assert process.returncode == -9, "it ended before it could be killed"
    left_partial = bool(partials(checkpoints) - old)
    return Session(before, newest(checkpoints), int(lines[0]) if lines else None, left_partial)


def newest(checkpoints: Path) -> int:
    """The steps in the newest checkpoint, 0 if there is none."""
    return max((int(path.name) for path in checkpoints.glob("[0-9]*")), default=0)


def partials(checkpoints: Path) -> set[tuple[str, int]]:
    """The half-written checkpoints, each with the time of its last change."""
    found = set()
    for path in checkpoints.glob(".*.partial"):
        try:
            found.add((path.name, path.stat().st_mtime_ns))
        except FileNotFoundError:  # renamed meanwhile
            continue
    return found


# The test ends a process as a power cut does: by a signal that it cannot see.
@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
@pytest.mark.parametrize("way", train_small.WAYS)
def test_a_run_killed_five_times_ends_as_one_that_was_not(way: str, tmp_path: Path) -> None:
    chance = random.Random(0)
    unhurt = start(tmp_path / "unhurt", way)
    out = tmp_path / "killed"
    sessions = [killed(out, way, moment, chance) for moment in MOMENTS]
    while not any(session.left_partial for session in sessions) and len(sessions) < MOST_KILLS:
        sessions.append(killed(out, way, WRITING, chance))
    print("\n".join(map(str, sessions)))
    assert any(session.left_partial for session in sessions), "no kill fell into the writing of a checkpoint"

    checkpoints = train_small.run_folder(out, way) / "checkpoints"
    before, last = newest(checkpoints), start(out, way)
    reported, _ = last.communicate(timeout=PATIENCE)
    assert last.returncode == 0
    sessions.append(Session(before, train_small.STEPS, int(reported.split()[0]), False))
    for session in sessions:
        assert session.first_step in (None, session.before + 1), "it did not resume after its checkpoint"

    lines = RunFolder(train_small.run_folder(out, way)).metrics.read()
    assert [line.step for line in lines] == list(range(1, train_small.STEPS + 1))
    kept = [session for session in sessions if session.after > session.before]
    starts = {line.session: line.step for line in reversed(lines)}
    assert starts == {number: session.before + 1 for number, session in enumerate(kept, start=1)}

    assert not partials(checkpoints), "half-written checkpoints are left"
    unhurt.communicate(timeout=PATIENCE)
    assert unhurt.returncode == 0
    runs = [train_small.run_folder(tmp_path / name, way) for name in ("killed", "unhurt")]
    for file in ("controlnet.safetensors", *(f"checkpoints/{train_small.STEPS:08d}/{part}" for part in PARTS)):
        killed_run, expected = (load_file(run / file) for run in runs)
        assert differing(killed_run, expected) == [], file
