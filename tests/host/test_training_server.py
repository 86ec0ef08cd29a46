"""Training on a real server: reaches its score in the command's time, resumes after a kill, answers meanwhile."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch

from tests.host.running_server import ROOT, RunningServer, mortal, start_server
from tests.host.training import metadata, weights

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
CHANGES = [option for change in SMALL for option in ("--set", change)]


def net(server: RunningServer) -> Path:
    """The only trained net."""
    (path,) = (server.folder / "output" / "controlnet").glob("*.safetensors")
    return path


def steps(server: RunningServer) -> int:
    """How many steps are done and logged."""
    logs = list((server.folder / "output" / "controlnet_runs").glob("*/metrics.jsonl"))
    return sum(text.count('"loss"') for text in (log.read_text() for log in logs))


def queued(server: RunningServer, *changes: str) -> float:
    """Run the workflow to its end; the seconds it took."""
    started = time.perf_counter()
    command = server.queue(WORKFLOW, *(option for change in changes for option in ("--set", change)))
    _, errors = command.communicate()
    assert command.returncode == 0, errors
    return time.perf_counter() - started


def stop(server: RunningServer) -> None:
    """Kill a server."""
    server.process.kill()
    server.process.wait()


def test_the_saved_workflow_reaches_its_score_in_the_commands_time(mortal: RunningServer, tmp_path: Path) -> None:
    in_graph = queued(mortal)
    stop(mortal)  # so that the command has the machine to itself
    (settings,) = (mortal.folder / "output" / "controlnet_runs").glob("*/settings.toml")
    command = [sys.executable, "-m", "controlnet_core", "train", str(settings), "--json"]
    command += ["--out", str(tmp_path / "terminal")]
    started = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": ""}, capture_output=True, text=True)
    in_terminal = time.perf_counter() - started
    assert done.returncode == 0, done.stderr
    following = float(metadata(net(mortal))["training.following"])
    ratio = in_graph / in_terminal
    print(f"\nfollowing {following:.3f}")
    print(f"{in_graph:.0f} s in ComfyUI, drawing included, {in_terminal:.0f} s in a terminal: ratio {ratio:.2f}")
    assert following >= 0.8
    theirs, ours = weights(json.loads(done.stdout)["net"]), weights(net(mortal))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def answers(server: RunningServer, path: str, goes_on: Callable[[], bool]) -> list[float]:
    """The seconds that a server takes to answer, asked again and again while something goes on."""
    found = []
    while goes_on():
        started = time.perf_counter()
        server.get(path)
        found.append(time.perf_counter() - started)
        time.sleep(0.05)
    return found


def test_the_server_answers_while_it_trains_as_while_it_samples(mortal: RunningServer, tmp_path: Path) -> None:
    drawing = json.loads((ROOT / "workflows" / "api" / "tiny_apply.json").read_text())
    drawing["8"]["inputs"]["steps"] = 400
    (tmp_path / "drawing.json").write_text(json.dumps(drawing))
    medians: dict[tuple[str, str], float] = {}
    for path in ("/queue", "/object_info"):
        asked = iter(range(20))
        idle = answers(mortal, path, lambda asked=asked: next(asked, None) is not None)  # type: ignore[misc]
        seconds = {"idle": idle}
        for name, arguments in (("sampling", [tmp_path / "drawing.json"]), ("training", [WORKFLOW, *CHANGES])):
            seed = f"{'Draw' if name == 'sampling' else 'Train'}.seed={len(medians)}"
            command = mortal.queue(*arguments, "--set", seed)
            seconds[name] = answers(mortal, path, lambda command=command: command.poll() is None)  # type: ignore[misc]
            _, errors = command.communicate()
            assert command.returncode == 0, errors
        for name, found in seconds.items():
            medians[path, name] = median(found)
            print(f"\n{path} {name}: {median(found):.3f} s, at most {max(found):.3f} s, {len(found)} times", end="")
    print()
    assert medians["/object_info", "training"] <= 2 * medians["/object_info", "sampling"]


def test_a_killed_server_resumes(mortal: RunningServer, tmp_path: Path) -> None:
    command = mortal.queue(WORKFLOW, *CHANGES)
    while steps(mortal) < 8:
        assert command.poll() is None, command.communicate()
        time.sleep(0.05)
    stop(mortal)
    command.communicate()
    done = steps(mortal)
    again = start_server(mortal.folder)
    try:
        queued(again, *SMALL)
        killed = weights(net(again))
    finally:
        stop(again)
    whole = start_server(tmp_path / "whole")
    try:
        queued(whole, *SMALL)
        uninterrupted = weights(net(whole))
    finally:
        stop(whole)
    print(f"\nkilled after step {done}")
    assert 8 <= done < 24
    assert all(torch.equal(killed[key], uninterrupted[key]) for key in uninterrupted)
