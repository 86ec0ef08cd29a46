"""A process that stops, dies or freezes ends the run on all, soon, with its name, and with all kept that can be."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from controlnet_core.training.run_folder import RunFolder
from tests.support import train_ranks
from tests.support.processes import Ended, StartedRanks

LONGEST_WAIT = 30.0
"""Seconds in which the others end."""
AT, STEPS = 2, 6


def ended(count: int, out: Path, act: str, rank: int, **changes: Any) -> list[Ended]:  # noqa: ANN401 - of any setting
    """How a run ends in which one rank does something after a step."""
    given = {"steps": STEPS, **changes, "do": {"at": AT, "rank": rank, "act": act}}
    return StartedRanks(count, out, train_ranks.main, out, given).ended(LONGEST_WAIT)


def check_kept(out: Path, **changes: Any) -> None:  # noqa: ANN401 - of any setting
    """Every step is kept, and the run goes on from there."""
    folder = RunFolder(train_ranks.run_folder(out, steps=STEPS, **changes))
    assert folder.checkpoints.steps()[0] == AT
    assert [line.step for line in folder.metrics.read() if line.loss is not None] == [1, 2]


@pytest.mark.parametrize("sharded", [False, True])
def test_a_rank_that_is_stopped_stops_all(sharded: bool, tmp_path: Path) -> None:
    first, second = ended(2, tmp_path, "stop", 1, sharded=sharded)
    assert "InterruptedError: stopped by the test" in second.err
    assert "RankStopped: rank 1 was stopped" in first.err, first.err
    check_kept(tmp_path, sharded=sharded)
    rest = StartedRanks(2, tmp_path, train_ranks.main, tmp_path, {"steps": STEPS, "sharded": sharded}).ended()
    assert [process.code for process in rest] == [0, 0], rest[0].err
    assert rest[1].out.startswith("[3, "), "it did not resume"


def test_a_rank_that_is_killed_is_named_and_nothing_is_lost(tmp_path: Path) -> None:
    first, killed, third = ended(3, tmp_path, "kill", 1)
    assert killed.code == -9
    for other in (first, third):
        assert other.code == 1 and "RankLostError: found that rank 1 is gone" in other.err, other.err
        assert other.at - killed.at < LONGEST_WAIT
    check_kept(tmp_path)


def test_if_the_first_rank_is_killed_the_last_checkpoint_is_kept(tmp_path: Path) -> None:
    killed, second = ended(2, tmp_path, "kill", 0, checkpoint_every=1)
    assert killed.code == -9
    assert second.code == 1 and "or rank 0, cannot be reached" in second.err, second.err
    check_kept(tmp_path, checkpoint_every=1)


def test_a_rank_that_is_interrupted_at_once_is_named(tmp_path: Path) -> None:
    first, second = ended(2, tmp_path, "interrupt", 1)
    assert "KeyboardInterrupt" in second.err
    assert "RankStopped: rank 1 was interrupted" in first.err or "rank 1 was stopped" in first.err, first.err
    check_kept(tmp_path)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        ("freeze", "RankLostError: found that rank 1 is gone"),
        # The first waits inside torch, and only its process can be ended.
        ("freeze in the next step", "rank 0: error: rank 1 is gone"),
    ],
)
def test_a_rank_that_freezes_is_named_though_nothing_fails(act: str, message: str, tmp_path: Path) -> None:
    every = 1 if act != "freeze" else STEPS
    given = {"steps": STEPS, "checkpoint_every": every, "do": {"at": AT, "rank": 1, "act": act}}
    started = StartedRanks(2, tmp_path, train_ranks.main, tmp_path, given)
    metrics = RunFolder(train_ranks.run_folder(tmp_path, steps=STEPS)).metrics
    while not any(line.step == AT for line in metrics.read()) and started.processes[0].is_alive():
        time.sleep(0.1)
    frozen = time.monotonic()
    first, second = started.ended(patience=0.0)
    assert second.code is None, "it did not freeze"
    assert first.code == 1 and first.at - frozen < LONGEST_WAIT
    assert message in first.err, first.err
    check_kept(tmp_path)


@pytest.mark.parametrize("sharded", [False, True])
def test_an_evaluation_that_fails_ends_the_run_on_all_and_its_step_is_kept(sharded: bool, tmp_path: Path) -> None:
    given = {"steps": STEPS, "sharded": sharded, "evaluation": {"every": AT}, "evaluations": 1}
    first, second = StartedRanks(2, tmp_path, train_ranks.main, tmp_path, given).ended(LONGEST_WAIT)
    assert (first.code, second.code) == (1, 1)
    assert "ValueError: the evaluation fails" in first.err, first.err
    assert "RankLostError: found that rank 0 failed; its own message says why" in second.err, second.err
    check_kept(tmp_path)


def test_ranks_that_mean_other_runs_are_refused(tmp_path: Path) -> None:
    for process in StartedRanks(3, tmp_path, train_ranks.main, tmp_path, {"seeds": [0, 0, 1]}).ended(LONGEST_WAIT):
        assert process.code == 1
        assert "SettingError: found other base, data or settings on rank 2 than on rank 0" in process.err, process.err
    assert not list(tmp_path.glob("*/run.json")), "a run was opened"
