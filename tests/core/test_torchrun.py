"""The command `train` under torchrun: one result, and a signal to all or to one that stops all with a checkpoint."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from controlnet_core.training.metrics import Metrics
from tests.support import train_ranks
from tests.support.base_files import write_small_base
from tests.support.processes import PATIENCE, StartedRanks

ROOT = Path(__file__).parents[2]
LONGEST_WAIT = 30.0
SETTINGS = """
batch_size = 3
steps = 100000
checkpoint_every = 100000
evaluation = { every = 100000, hints = 2, sampling_steps = 1, guidance = 1 }
[data]
kind = "shapes"
count = 2
size = 32
"""
pytestmark = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="processes are found in /proc")


class Run:
    """The command in two processes, and the run's folder."""

    def __init__(self, folder: Path) -> None:
        (folder / "run.toml").write_text(SETTINGS)
        self.out = folder / "runs"
        base = str(write_small_base(folder))
        self.command = ["train", str(folder / "run.toml"), "--base", base, "--out", str(self.out), "--json"]

    @contextmanager
    def started(self, *changes: str) -> Iterator[subprocess.Popen[str]]:
        """The running command."""
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        given = [argument for change in changes for argument in ("--set", change)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        with subprocess.Popen(
            [*torchrun, "-m", "controlnet_core", *self.command, *given],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        ) as process:
            try:
                yield process
            finally:
                for rank in ranks_of(process):
                    os.kill(rank, signal.SIGKILL)
                process.kill()

    @property
    def step(self) -> int:
        """The last step in the metrics."""
        lines = [line.step for path in self.out.glob("*/metrics.jsonl") for line in Metrics(path).read()]
        return max(lines, default=0)

    @property
    def kept(self) -> int:
        """The step of the last checkpoint."""
        return max((int(path.name) for path in self.out.glob("*/checkpoints/[0-9]*")), default=0)

    def wait_for_step(self, step: int) -> None:
        """Wait until a step is done."""
        deadline = time.monotonic() + PATIENCE
        while self.step < step and time.monotonic() < deadline:
            time.sleep(0.1)
        assert self.step >= step, "no step was done"


def ranks_of(process: subprocess.Popen[str]) -> list[int]:
    """The processes that torchrun started, in the order of their ranks."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return sorted(map(int, children.read_text().split())) if children.exists() else []


def test_sigterm_stops_all_with_a_checkpoint_and_the_run_ends_with_one_result(tmp_path: Path) -> None:
    run = Run(tmp_path)
    with run.started() as process:
        run.wait_for_step(2)
        process.send_signal(signal.SIGTERM)  # torchrun passes it on to all
        asked = time.monotonic()
        out, err = process.communicate(timeout=PATIENCE)
    assert time.monotonic() - asked < LONGEST_WAIT
    assert json.loads(out)["interrupted"]["step"] == run.kept == run.step >= 2, err
    assert "Ctrl-C again" not in err, "a second one is only noted"

    with run.started(f"steps={run.kept + 1}") as process:
        out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    report = json.loads(out)
    assert report["steps"] == run.step and Path(report["net"]).exists()
    assert "it starts from step" in err and err.count("run folder") == 1, "more than one process speaks"


def test_ctrl_c_on_one_process_stops_all(tmp_path: Path) -> None:
    run = Run(tmp_path)
    started = StartedRanks(2, tmp_path, train_ranks.command, run.command)
    run.wait_for_step(2)
    os.kill(started.processes[1].pid or 0, signal.SIGINT)
    first, second = started.ended(LONGEST_WAIT)
    assert (first.code, second.code) == (130, 130)
    assert "rank 1 was stopped; what is done is kept" in first.err, first.err
    assert "rank 1 was stopped" in json.loads(first.out)["interrupted"]["message"]
    assert "interrupted" not in second.err and second.out == "", "more than one process speaks"
    assert run.kept == run.step
