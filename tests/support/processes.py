"""Starts processes that train together, told in their environment what torchrun tells them.

They are forked from a server that has imported everything once.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

PATIENCE = 600.0
"""Seconds after which processes are given up."""


@dataclass(frozen=True)
class Ended:
    """How a rank ended: its exit code (None if it did not end), its outputs, and the time of its end."""

    code: int | None
    out: str
    err: str
    at: float


class StartedRanks:
    """Ranks that do the same.

    Arguments:
        count: How many.
        folder: Where their outputs are kept.
        task: What each does; a function of a module that can be imported.
        arguments: Its arguments.
    """

    def __init__(self, count: int, folder: Path, task: Callable[..., None], *arguments: object) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([task.__module__])
        self.logs = [folder / f"rank{rank}" for rank in range(count)]
        self.processes: list[BaseProcess] = [
            context.Process(target=_as_rank, args=(rank, count, port, self.logs[rank], task, arguments), daemon=True)
            for rank in range(count)
        ]
        for process in self.processes:
            process.start()

    def ended(self, patience: float = PATIENCE) -> list[Ended]:
        """Wait for all, at most so many seconds after the first that ends, and kill those that have not ended."""
        deadline, ends = time.monotonic() + PATIENCE, dict[int, float]()
        while len(ends) < len(self.processes) and time.monotonic() < deadline:
            for rank, process in enumerate(self.processes):
                if rank not in ends and process.exitcode is not None:
                    ends[rank] = time.monotonic()
                    deadline = min(deadline, ends[rank] + patience)
            time.sleep(0.02)
        codes = [process.exitcode for process in self.processes]
        for process in self.processes:
            process.kill()
        outputs = [[log.with_suffix(end).read_text() for end in (".out", ".err")] for log in self.logs]
        return [
            Ended(code, out, err, ends.get(rank, time.monotonic()))
            for rank, (code, (out, err)) in enumerate(zip(codes, outputs, strict=True))
        ]


def _as_rank(
    rank: int, count: int, port: int, log: Path, task: Callable[..., None], arguments: tuple[object, ...]
) -> None:
    """Do a task as one of several ranks; what is printed goes into files."""
    for descriptor, stream, end in ((1, sys.stdout, ".out"), (2, sys.stderr, ".err")):
        stream.flush()
        file = os.open(log.with_suffix(end), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, descriptor)
        os.close(file)
    if count > 1:
        os.environ |= {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    task(*arguments)
