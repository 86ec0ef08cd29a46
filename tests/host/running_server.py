"""The real server, as a process."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMFYUI = Path(os.environ["COMFYUI_PATH"])
START_SECONDS = 300


@dataclass
class RunningServer:
    """A ComfyUI server.

    Attributes:
        folder: Its folder of models, input and output.
        port: Where it listens.
        process: The process.
    """

    folder: Path
    port: int
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        """What it wrote so far."""
        return (self.folder / "log.txt").read_text(errors="replace")

    def get(self, path: str) -> Any:  # noqa: ANN401 - whatever JSON there is
        """The JSON at a path."""
        with urllib.request.urlopen(f"{self.url}{path}") as answer:
            return json.load(answer)

    def queue(self, *arguments: str | Path, server: str | None = None) -> subprocess.Popen[str]:
        """Start the command `queue`."""
        words = [sys.executable, "-m", "controlnet_core", "queue", *map(str, arguments)]
        return subprocess.Popen(
            [*words, "--server", server or self.url, "--out", str(self.folder / "fetched")],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": ""},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


def start_server(folder: Path) -> RunningServer:
    """Start ComfyUI with this extension in its custom_nodes, and wait until it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name in ("custom_nodes", "models/controlnet", "input", "output", "temp", "user/default"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    extension = folder / "custom_nodes" / "controlnet-core"
    if not extension.exists():
        extension.symlink_to(ROOT, target_is_directory=True)
    shutil.copy(COMFYUI / "input" / "example.png", folder / "input")
    words = [sys.executable, "main.py", "--cpu", "--port", str(port), "--base-directory", str(folder)]
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen(
            [*words, "--database-url", f"sqlite:///{folder}/user/comfyui.db"],
            cwd=COMFYUI,
            env={**os.environ, "PYTHONPATH": ""},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    server = RunningServer(folder, port, process)
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            server.get("/system_stats")
            return server
        except OSError:
            time.sleep(0.2)
    process.kill()
    process.wait()
    raise AssertionError(f"the server did not start:\n{server.log}")


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[RunningServer]:
    """A server that may be killed."""
    running = start_server(tmp_path)
    yield running
    running.process.kill()
    running.process.wait()


def restarted(server: RunningServer) -> subprocess.Popen[bytes]:
    """Start a server at the same address."""
    words = [sys.executable, "main.py", "--cpu", "--port", str(server.port), "--base-directory", str(server.folder)]
    with (server.folder / "log.txt").open("ab") as log:
        return subprocess.Popen(
            words, cwd=COMFYUI, env={**os.environ, "PYTHONPATH": ""}, stdout=log, stderr=subprocess.STDOUT
        )
