"""Fills a cache together with other processes: each claims blocks of what is missing, so nothing is encoded twice.

A claim is a lock that the system releases when its process ends, however it ends. It is held until its records are on
disk. The records of a block are encoded in the same batches whoever encodes them and however often it is interrupted.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock, Timeout
from numpy.typing import NDArray

from ..errors import CheckpointError, WriteError
from ..whole_file import writing
from .dataset import Progress
from .shard_file import Record
from .shards import Shards

BLOCK = 16
"""The most records of a claim."""
MOST_CLAIMS, MOST_BYTES, MOST_SECONDS = 64, 64 * 2**20, 60.0
"""What is encoded is written at this many claims, bytes, or seconds after the first of them."""


class Part(Protocol):
    """One kind of record, such as the latents of pictures.

    Attributes:
        shards: Where the records are kept.
        batch: How many are encoded at once, at most `BLOCK`.
    """

    shards: Shards
    batch: int

    def encode(self, indices: Sequence[int]) -> list[Record]:
        """Encode the records of some indices of the shards' keys; raises CheckpointError if one is not finite."""


@dataclass(frozen=True, eq=False)
class _Block:
    """What is claimed at once: some distinct records of a part, in whole batches."""

    part: Part
    start: int

    @property
    def indices(self) -> NDArray[Any]:
        """An index of each record."""
        return self.part.shards.firsts[self.start : self.start + _block_size(self.part)]

    @property
    def missing(self) -> list[list[int]]:
        """What is missing of each batch that is not complete."""
        starts, shards = range(0, len(self.indices), self.part.batch), self.part.shards
        missing = (shards.missing(self.indices[start : start + self.part.batch]) for start in starts)
        return [batch for batch in missing if batch]


class Filling:
    """Encodes whatever is missing.

    Arguments:
        folder: Where claims are kept.
        parts: What to fill.
        progress: Told how many records of all parts there are, of how many. If it raises, all that is encoded is kept.
    """

    def __init__(self, folder: Path, parts: Sequence[Part], progress: Progress) -> None:
        self._folder = folder
        self._parts = parts
        self._progress = progress
        self._total = sum(len(part.shards.firsts) for part in parts)
        self._claims: list[FileLock] = []
        self._encoded: list[tuple[Part, list[int], list[Record]]] = []
        self._since = 0.0

    @property
    def needed(self) -> bool:
        """Whether anything is missing."""
        return sum(part.shards.found for part in self._parts) < self._total

    def run(self) -> None:
        """Encode what is missing, and wait for what others encode.

        Raises:
            CheckpointError: If a record is not finite; what was not yet written is not kept.
            WriteError: If the cache cannot be written.
        """
        try:
            blocks = [block for part in self._parts for block in _blocks(part) if block.missing]
            while blocks:
                blocks = [block for block in blocks if not self._take(block)]
                self._write()
                if blocks:
                    self._wait_for(blocks[0])
        except (CheckpointError, WriteError):
            self._encoded.clear()
            raise
        finally:
            try:
                self._write()  # an interruption keeps what is encoded
            finally:
                self._release()

    def _take(self, block: _Block) -> bool:
        """Encode a block, unless another process does; whether it need not be looked at again."""
        if not block.missing:
            return True
        if not self._claim(block, timeout=0):
            return False
        block.part.shards.refresh()
        for batch in block.missing:
            if not self._encoded:
                self._since = time.monotonic()
            self._encoded.append((block.part, batch, block.part.encode(batch)))
            self._tell()
            if self._due:
                self._write(claims_kept=1)
        if not self._encoded:
            self._release()
        return True

    def _claim(self, block: _Block, timeout: float) -> bool:
        """Claim a block; False if another process holds it for longer than `timeout` seconds."""
        with writing(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self._folder / f".{block.part.shards.name(block.indices)}.lock")
            try:
                lock.acquire(timeout=timeout)
            except Timeout:
                return False
        self._claims.append(lock)
        return True

    def _wait_for(self, block: _Block) -> None:
        """Wait until another process gives up its claim to a block, for a second at most."""
        self._claim(block, timeout=1)
        self._release()
        for part in self._parts:
            part.shards.refresh()
        self._tell()

    def _tell(self) -> None:
        """Tell how many records there are, on disk and not yet."""
        done = sum(part.shards.found for part in self._parts)
        self._progress(done + sum(len(batch) for _, batch, _ in self._encoded), self._total)

    @property
    def _due(self) -> bool:
        """Whether what is encoded is much or old."""
        size = sum(array.nbytes for _, _, records in self._encoded for record in records for array in record.values())
        seconds = time.monotonic() - self._since
        return len(self._claims) >= MOST_CLAIMS or size >= MOST_BYTES or seconds >= MOST_SECONDS

    def _write(self, claims_kept: int = 0) -> None:
        """Write what is encoded, and give up the claims to it, but for the last ones."""
        for part in self._parts:
            batches = [(batch, records) for owner, batch, records in self._encoded if owner is part]
            if batches:
                indices = [index for batch, _ in batches for index in batch]
                part.shards.write(indices, [record for _, records in batches for record in records])
        self._encoded.clear()
        self._release(claims_kept)

    def _release(self, kept: int = 0) -> None:
        """Give up all claims but the last ones."""
        while len(self._claims) > kept:
            lock = self._claims.pop(0)
            with suppress(PermissionError):  # Windows keeps files that are open
                Path(lock.lock_file).unlink(missing_ok=True)
            lock.release()


def _block_size(part: Part) -> int:
    """How many records of a part are claimed at once."""
    return part.batch * max(1, BLOCK // part.batch)


def _blocks(part: Part) -> Iterator[_Block]:
    """All records of a part."""
    return (_Block(part, start) for start in range(0, len(part.shards.firsts), _block_size(part)))
