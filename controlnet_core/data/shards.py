"""The records of some keys in a folder of shards, which several processes fill."""

from __future__ import annotations

import os
import warnings
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..keyed import digest
from .shard_file import (
    ENDING,
    DamagedError,
    Kind,
    OtherFormatError,
    Record,
    Shard,
    kind_of,
    open_shard,
    remove_shard,
    write_shard,
)

NAMED = 3
"""Files that a warning names."""
LEFT_AS_THEY_ARE = "left as they are: delete them if no other version needs them"


class CacheWarning(UserWarning):
    """A part of the cache that is not used."""


class Shards:
    """The records of some keys in a folder of shards, which other processes may be filling, too.

    Arguments:
        folder: The folder; it is made with the first record.
        keys: The keys of the records wanted, (N,) of dtype `KEY`; several may be equal.

    Attributes:
        firsts: Where each distinct key is met first, in ascending order.
        found: How many of the distinct keys have a record.
    """

    def __init__(self, folder: Path, keys: NDArray[Any]) -> None:
        self.folder = folder
        self._keys, firsts, self._item = np.unique(keys, return_index=True, return_inverse=True)
        self.firsts = np.sort(firsts)
        self.found = 0
        self._shard = np.full(len(self._keys), -1, np.int32)
        self._row = np.zeros(len(self._keys), np.int32)
        self._shards: list[Shard] = []
        self._seen: set[str] = set()
        self.refresh()

    def missing(self, indices: NDArray[Any]) -> list[int]:
        """Those of some indices of `keys` that have no record yet."""
        missing: list[int] = indices[self._shard[self._item[indices]] < 0].tolist()
        return missing

    def name(self, indices: NDArray[Any]) -> str:
        """Name the keys of some indices, the same in every process."""
        return digest(self.folder.name, self._keys[self._item[indices]].tobytes().hex())

    def refresh(self) -> None:
        """Find the shards written since the last time; a damaged one is removed, with a warning that names it."""
        damaged: list[str] = []
        other: list[str] = []
        for name in self._new_names():
            self._seen.add(name)
            try:
                self._add(open_shard(self.folder / name))
            except FileNotFoundError:  # another process found it damaged
                self._seen.discard(name)
            except OtherFormatError as error:
                other.append(f"{name} ({error})")
            except DamagedError as error:
                damaged.append(f"{name} ({error})")
                remove_shard(self.folder / name)
                self._seen.discard(name)  # it is written again under this name
        _warn(self.folder, damaged, "damaged", "removed, and what they held is encoded again")
        _warn(self.folder, other, "of another format and not used", LEFT_AS_THEY_ARE)

    def write(self, indices: Sequence[int], records: Sequence[Record]) -> None:
        """Write the records of some indices: one shard for all whose arrays have the same dtypes and shapes.

        Raises:
            WriteError: If a shard cannot be written.
        """
        groups: dict[Kind, list[int]] = defaultdict(list)
        for number, record in enumerate(records):
            groups[kind_of(record)].append(number)
        for numbers in groups.values():
            keys = self._keys[self._item[[indices[number] for number in numbers]]]
            self._seen.discard(write_shard(self.folder, keys, [records[number] for number in numbers]))
        self.refresh()

    def read(self, indices: Sequence[int]) -> list[Record]:
        """Read the records of some indices of `keys`.

        Raises:
            DatasetError: If a record is not what was written; its shard is removed, so the next start encodes it again.
            KeyError: If there is no record of an index.
        """
        items = self._item[list(indices)]
        shards, rows = self._shard[items], self._row[items]
        if (shards < 0).any():
            raise KeyError(f"some of {list(indices)} have no record in {self.folder}")
        found: dict[int, Record] = {}
        for number in np.unique(shards):
            places = np.flatnonzero(shards == number)
            found |= zip(places.tolist(), self._shards[number].records(rows[places].tolist()), strict=True)
        return [found[place] for place in range(len(items))]

    def _new_names(self) -> list[str]:
        """The names of the shards that were not seen yet."""
        try:
            names = os.listdir(self.folder)
        except FileNotFoundError:
            return []
        shards = {name for name in names if name.endswith(ENDING) and not name.startswith(".")}  # others are unfinished
        return sorted(shards - self._seen)

    def _add(self, shard: Shard) -> None:
        """Use the records of a shard that are wanted."""
        places = np.searchsorted(self._keys, shard.keys).clip(max=len(self._keys) - 1)
        wanted = self._keys[places] == shard.keys
        if wanted.any():
            if shard.changed:
                shard.check()
            self._shard[places[wanted]] = len(self._shards)
            self._row[places[wanted]] = np.flatnonzero(wanted)
            self._shards.append(shard)
            self.found = int(np.count_nonzero(self._shard >= 0))


def _warn(folder: Path, files: Sequence[str], what: str, then: str) -> None:
    """Warn about shards, of which the first are named."""
    if files:
        more = f" and {len(files) - NAMED} more" if len(files) > NAMED else ""
        message = f"files in {folder} are {what}: {', '.join(files[:NAMED])}{more}; they are {then}"
        warnings.warn(message, CacheWarning, stacklevel=2)
