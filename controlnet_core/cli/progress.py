"""Progress bars on standard error: bars that know their numbers, and a stop that waits for the end of a step."""

from __future__ import annotations

import io
import os
import signal
import sys
import time
from types import FrameType
from typing import Any

from tqdm import tqdm

from .output import note

LOG_SECONDS = 10.0
"""Seconds between two lines of progress where standard error is no terminal."""


class Bar:
    """A progress bar on standard error, shown from the first progress on; where there is no terminal, lines.

    Arguments:
        title: What is being done.
        unit: What is counted.
    """

    def __init__(self, title: str, unit: str) -> None:
        self.title = title
        self.unit = unit
        self._bar: tqdm[Any] | None = None
        self._last_line = time.monotonic()

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def show(self, done: int, total: int, **numbers: str) -> None:
        """Show how many of `total` are done, the time left, and further numbers."""
        terminal = _on_terminal()
        if self._bar is None:
            self._bar = tqdm(
                total=total,
                # What an earlier session did must not count as speed.
                initial=max(0, done - 1),
                desc=self.title,
                unit=self.unit,
                file=sys.stderr if terminal else io.StringIO(),
                dynamic_ncols=terminal,
            )
        self._bar.set_postfix(numbers, refresh=False)
        self._bar.update(done - self._bar.n)
        if not terminal and (done >= total or time.monotonic() - self._last_line >= LOG_SECONDS):
            note(str(self._bar))
            self._last_line = time.monotonic()
        if done >= total:
            self._bar.close()


class Interruption:
    """A context in which Ctrl-C and SIGTERM are only noted; a second Ctrl-C raises KeyboardInterrupt.

    Arguments:
        message: What is printed at the first.
        patient: Whether a second Ctrl-C is only noted, too: torchrun passes on the one that the terminal has sent.

    Attributes:
        asked: Whether this process was asked to stop.
        terminated: Whether that was by SIGTERM, which is soon followed by a kill.
    """

    def __init__(self, message: str, patient: bool = False) -> None:
        self.message = message
        self.patient = patient
        self.asked = False
        self.terminated = False

    def __enter__(self) -> Interruption:
        self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.terminated = self.terminated or number == signal.SIGTERM
        if self.asked:
            return
        self.asked = True
        if not self.patient:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        note(self.message)


def _on_terminal() -> bool:
    """Whether standard error is a terminal with room for a bar; those of containers often have no size."""
    return sys.stderr.isatty() and min(os.get_terminal_size(sys.stderr.fileno())) > 1
