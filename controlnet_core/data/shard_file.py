"""One file of the cache: written whole, never changed, and checked before it is believed.

A shard is a safetensors file: the keys of its records, a checksum of each, and their arrays stacked. It notes the time
of its last change, so one that was changed since is told by a look, and only that one is read through; each record is
checked again when it is read.
"""

from __future__ import annotations

import json
import math
import os
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from ..errors import DatasetError
from ..keyed import digest
from ..whole_file import whole_file

FORMAT = 4
"""The format number of a shard; raise it with any change that an older version would misread."""
ENDING = ".safetensors"
KEY = np.dtype("S16")
"""A key: the 16 bytes of a digest."""
KEYS, CHECKS = "keys", "checks"
DTYPES = {"U8": np.uint8, "U16": np.uint16, "U32": np.uint32, "F16": np.float16, "F32": np.float32}
TIME_STEP = 2
"""Seconds of which every file system keeps multiples exactly."""

Record = Mapping[str, NDArray[Any]]
"""Arrays by name."""
Kind = tuple[tuple[str, str, tuple[int, ...]], ...]
"""The names, dtypes and shapes of a record's arrays."""


class DamagedError(Exception):
    """What is wrong with a shard."""


class OtherFormatError(Exception):
    """The format of a shard of another version."""


@dataclass(frozen=True, eq=False)
class _Stack:
    """The arrays of one name of all records: their dtype, their shape when stacked, and where they are in the file."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    start: int = 0

    @property
    def row_size(self) -> int:
        """Bytes in one record."""
        return self.dtype.itemsize * math.prod(self.shape[1:])

    def row(self, file: BinaryIO, number: int) -> NDArray[Any]:
        """Read the array of one record; raises DamagedError if the file is too short."""
        return self._read(file, self.start + number * self.row_size, self.shape[1:])

    def all(self, file: BinaryIO) -> NDArray[Any]:
        """Read the arrays of all records; raises DamagedError if the file is too short."""
        return self._read(file, self.start, self.shape)

    def _read(self, file: BinaryIO, place: int, shape: tuple[int, ...]) -> NDArray[Any]:
        file.seek(place)
        size = self.dtype.itemsize * math.prod(shape)
        content = file.read(size)
        if len(content) != size:
            raise DamagedError("cut off")
        return np.frombuffer(content, self.dtype).reshape(shape)


@dataclass(frozen=True, eq=False)
class Shard:
    """A shard whose index was read.

    Attributes:
        path: The file.
        keys: The key of each record.
        checks: The checksum of each record.
        stacks: The arrays of all records, by name.
        written: The time of its last change, by its own account.
        changed: Whether the file was changed after that.
    """

    path: Path
    keys: NDArray[Any]
    checks: NDArray[Any]
    stacks: Mapping[str, _Stack]
    written: int
    changed: bool

    def records(self, rows: Sequence[int]) -> list[Record]:
        """Read some records; raises DatasetError if that fails, and removes the shard if it is damaged."""
        try:
            return list(self._read(rows))
        except DamagedError as error:
            remove_shard(self.path)
            fault, do = str(error), "start again: it is removed, and what it held is encoded anew"
        except OSError as error:
            fault, do = f"cannot be read: {error.strerror or error}", "check the disk, and start again"
        raise DatasetError(found=f"{self.path} ({fault})", expected="what was written there", do=do)

    def check(self) -> None:
        """Read all records, and note that they are sound; raises DamagedError if one is not."""
        for _ in self._read(range(len(self.keys))):
            pass
        with suppress(OSError):  # a file of another user, or on a disk that is read-only, is checked each time
            os.utime(self.path, (self.written, self.written))

    def _read(self, rows: Sequence[int]) -> Iterator[Record]:
        with self.path.open("rb", buffering=0) as file:
            for row in rows:
                record = {name: stack.row(file, row) for name, stack in self.stacks.items()}
                if _check(record) != self.checks[row]:
                    raise DamagedError("a record of another checksum")
                yield record


def write_shard(folder: Path, keys: NDArray[Any], records: Sequence[Record]) -> str:
    """Write a shard, and return its name, which its keys decide."""
    arrays = {name: np.stack([record[name] for record in records]) for name in records[0]}
    stacks = {name: _Stack(array.dtype, array.shape) for name, array in arrays.items()}
    names = np.frombuffer(keys.tobytes(), np.uint8).reshape(-1, KEY.itemsize)
    checks = np.array([_check(record) for record in records], np.uint32)
    written = int(time.time()) // TIME_STEP * TIME_STEP
    index = _index_check(stacks, written, names, checks)
    about = {"format": str(FORMAT), "written": str(written), "index": str(index)}
    name = f"{digest(FORMAT, kind_of(records[0]), keys.tobytes().hex())}{ENDING}"
    with whole_file(folder / name) as file:
        file.write_bytes(save({**arrays, KEYS: names, CHECKS: checks}, about))
        os.utime(file, (written, written))
    return name


def open_shard(path: Path) -> Shard:
    """Read the index of a shard; raises DamagedError or OtherFormatError."""
    with path.open("rb") as file:
        state = os.fstat(file.fileno())
        try:
            about, stacks = _header(file, state.st_size)
            keys, checks = (stacks.pop(name).all(file) for name in (KEYS, CHECKS))
            written = int(about["written"])
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise DamagedError("without an index that can be read") from error
    if about.get("index") != str(_index_check(stacks, written, keys, checks)):
        raise DamagedError("an index of another checksum")
    return Shard(path, keys.view(KEY).ravel(), checks, stacks, written, state.st_mtime_ns != written * 10**9)


def _header(file: BinaryIO, size: int) -> tuple[dict[str, str], dict[str, _Stack]]:
    """Read what a safetensors file of some size says about itself, and the arrays that it holds."""
    length = int.from_bytes(file.read(8), "little")
    header = json.loads(file.read(min(length, size)))
    about, start = header.pop("__metadata__"), file.tell()
    if about["format"] != str(FORMAT):
        raise OtherFormatError(f"format {about['format']}")
    stacks, end = {}, start
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        stacks[name] = _Stack(np.dtype(DTYPES[entry["dtype"]]), tuple(entry["shape"]), end)
        end += stacks[name].row_size * stacks[name].shape[0]
    if size != end:
        raise DamagedError("cut off" if size < end else "longer than it was")
    return about, stacks


def kind_of(record: Record) -> Kind:
    """The names, dtypes and shapes of a record's arrays."""
    return tuple((name, array.dtype.str, array.shape) for name, array in sorted(record.items()))


def _check(record: Record) -> int:
    """The checksum of a record."""
    check = 0
    for _, array in sorted(record.items()):
        check = zlib.crc32(np.ascontiguousarray(array).data, check)
    return check


def _index_check(stacks: Mapping[str, _Stack], written: int, keys: NDArray[Any], checks: NDArray[Any]) -> int:
    """The checksum of what a shard says about its records."""
    kinds = [(name, stack.dtype.str, stack.shape) for name, stack in sorted(stacks.items())]
    return zlib.crc32(repr((kinds, written)).encode() + keys.tobytes() + checks.tobytes())


def remove_shard(path: Path) -> None:
    """Remove a damaged shard, unless a program that has it open or the folder's permissions forbid it."""
    with suppress(OSError):
        path.unlink(missing_ok=True)
