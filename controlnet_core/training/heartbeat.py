"""Tells a rank that another one is gone: each writes a beat every second into a store that all share, and reads theirs.

A collective operation of torch fails, or waits for ever, without a word on whom it waits for.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch.distributed import Store  # type: ignore[attr-defined] # torch re-exports it

BEAT_SECONDS = 1.0
MISSED_AFTER_ERROR = 4
"""Beats without one of a rank's after which it is gone, where an operation with it has failed."""
MISSED = 18
"""The same where nothing has failed: a rank that writes a large checkpoint may miss some."""
GRACE = 5
"""Beats in which a rank can leave by itself once the run has ended."""
NAMING_SECONDS = 10.0
"""The longest search for the rank to blame, once an operation has failed."""
LINGERING_SECONDS = 3 * BEAT_SECONDS
END = "end"


@dataclass(frozen=True)
class End:
    """How a rank ended the run for all.

    Attributes:
        rank: The rank.
        how: Its consumer "stopped" the run, it was "interrupted" at once, it "failed" with an error, or it is "gone"
            without a word; "unreachable" is the store, without which no rank hears of another.
    """

    rank: int
    how: Literal["stopped", "interrupted", "failed", "gone", "unreachable"]

    def __str__(self) -> str:
        match self.how:
            case "unreachable":
                return "torchrun on the first machine, or rank 0, cannot be reached any more"
            case "gone":
                return f"rank {self.rank} is gone: it was killed, or its machine was lost"
            case "failed":
                return f"rank {self.rank} failed; its own message says why"
            case _:
                return f"rank {self.rank} was {self.how}"


class Heartbeat:
    """The beats of all ranks, and how one of them ended the run.

    Arguments:
        store: Shared by the ranks, and used for nothing else by this process.
        rank: The rank of this process.
        count: How many ranks there are.

    Attributes:
        end: How the run was ended, as far as this rank knows.
        waiting: Whether this rank is where it needs the others. If they are gone it cannot leave by itself: then the
            process exits.
    """

    def __init__(self, store: Store, rank: int, count: int) -> None:
        self.rank = rank
        self.end: End | None = None
        self.waiting = False
        self._store = store
        self._others = [other for other in range(count) if other != rank]
        self._beats = 0
        self._heard: list[bytes] = [b""] * len(self._others)
        self._missed = [0] * len(self._others)
        self._unreachable = False
        self._waited = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._beat()

    def start(self) -> None:
        """Begin to listen, once every rank has beaten."""
        self._thread.start()

    def stop(self) -> None:
        """Beat no more."""
        self._over.set()
        self._thread.join()

    def end_for_all(self, end: End) -> End:
        """Tell the other ranks how this one ended the run; what was told first holds.

        Returns:
            What holds.
        """
        if self.end is None:
            text = f"{end.rank} {end.how}"
            with suppress(RuntimeError):  # the store is gone, and what this rank knows holds
                text = self._store.compare_set(END, "", text).decode()
            self.end = _end(text)
        return self.end

    def linger(self) -> None:
        """Stay until the others have heard of the end: where torchrun does not hold the store, the first rank does."""
        if self.rank == 0:
            time.sleep(LINGERING_SECONDS)

    def end_after_error(self) -> End | None:
        """Find out which rank is to blame for an operation that failed; None if all are there."""
        deadline = time.monotonic() + NAMING_SECONDS
        while self.end is None and time.monotonic() < deadline:
            if gone := self._gone(MISSED_AFTER_ERROR):
                return self.end_for_all(gone)
            time.sleep(BEAT_SECONDS / 10)
        return self.end

    def _run(self) -> None:
        """Beat, and listen to the others."""
        while not self._over.wait(BEAT_SECONDS):
            self._listen()
            if self.waiting and (gone := self._gone(MISSED)):
                self.end_for_all(gone)
            self._waited = self._waited + 1 if self.waiting and self.end is not None else 0
            if self.end is not None and self._waited > GRACE:
                _exit(self.rank, self.end)

    def _listen(self) -> None:
        """One beat of this rank's, and those of the others."""
        try:
            self._beat()
            heard = self._store.multi_get([_beat_of(other) for other in self._others])
            if self.end is None and self._store.check([END]):
                self.end = _end(self._store.get(END).decode())
        except RuntimeError:
            heard = self._heard
            self._unreachable = True
        else:
            self._unreachable = False
        self._missed = [
            missed + 1 if beat == before else 0
            for missed, beat, before in zip(self._missed, heard, self._heard, strict=True)
        ]
        self._heard = heard

    def _beat(self) -> None:
        self._beats += 1
        self._store.set(_beat_of(self.rank), str(self._beats))

    def _gone(self, missed: int) -> End | None:
        """The first rank that missed so many beats."""
        silent = [other for other, count in zip(self._others, self._missed, strict=True) if count >= missed]
        if not silent:
            return None
        return End(0, "unreachable") if self._unreachable else End(silent[0], "gone")


def _beat_of(rank: int) -> str:
    return f"beat {rank}"


def _end(text: str) -> End:
    rank, how = text.split()
    return End(int(rank), how)  # type: ignore[arg-type] # another rank's End


def _exit(rank: int, end: End) -> None:
    """End the process from another thread than its own: that one waits inside torch and hears nothing."""
    message = f"rank {rank}: error: {end}; the same command resumes from the last checkpoint\n"
    stderr = sys.__stderr__
    if stderr is not None:
        stderr.write(message)
        stderr.flush()
    os._exit(1)
