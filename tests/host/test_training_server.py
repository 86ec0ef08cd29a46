"""Training on a real server: it is killed and goes on, and answers while it trains."""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median

import torch

from tests.host.test_server import ROOT, RunningServer, mortal, start_server
from tests.host.training import weights

__all__ = ["mortal"]
WORKFLOW = ROOT / "workflows" / "api" / "tiny_train.json"
SMALL = (
    "Train.steps=24",
    "Train.batch_size=4",
    "Train.evaluation_every=12",
    "Train.evaluation_hints=2",
    "Train.checkpoint_every=5",
    "Pairs to learn from.source.count=48",
)
CHANGES = [word for change in SMALL for word in ("--set", change)]
ANSWER = 0.2
"""Seconds in which a server answers while it trains."""


def net(server: RunningServer) -> Path:
    """The only trained net."""
    (path,) = (server.folder / "output" / "controlnet").glob("*.safetensors")
    return path


def steps(server: RunningServer) -> int:
    """How many steps are done and logged."""
    logs = list((server.folder / "output" / "controlnet_runs").glob("*/metrics.jsonl"))
    return sum(text.count('"loss"') for text in (log.read_text() for log in logs))


def test_a_killed_server_goes_on(mortal: RunningServer, tmp_path: Path) -> None:
    command = mortal.queue(WORKFLOW, *CHANGES)
    while steps(mortal) < 8:
        assert command.poll() is None, command.communicate()
        time.sleep(0.05)
    mortal.process.kill()
    mortal.process.wait()
    command.communicate()
    done = steps(mortal)
    again = start_server(mortal.folder)
    try:
        command = again.queue(WORKFLOW, *CHANGES)
        waits = []
        while command.poll() is None:
            started = time.perf_counter()
            again.get("/queue")
            waits.append(time.perf_counter() - started)
            time.sleep(0.05)
        assert command.returncode == 0, command.communicate()
        command.communicate()
        killed = weights(net(again))
        assert 8 <= done < 24
        print(f"\nkilled behind step {done}; /queue answered in {median(waits):.3f} s, at most {max(waits):.3f} s")
        assert sorted(waits)[len(waits) * 9 // 10] <= ANSWER
        again.process.kill()
        again.process.wait()
        whole = start_server(tmp_path / "whole")
        try:
            command = whole.queue(WORKFLOW, *CHANGES)
            command.communicate()
            uninterrupted = weights(net(whole))
        finally:
            whole.process.kill()
            whole.process.wait()
        assert all(torch.equal(killed[key], uninterrupted[key]) for key in uninterrupted)
    finally:
        again.process.kill()
        again.process.wait()
