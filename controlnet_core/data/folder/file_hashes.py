"""Hashes of files by content, kept in an index, so that a file is read again only if it may have changed."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from ...errors import DatasetError
from ...keyed import file_digest
from ...whole_file import writing

SETTLED = 2.0
"""Seconds after a change until a later one surely has another time: some file systems count in steps of 2 s."""
TABLE = "CREATE TABLE IF NOT EXISTS files (path TEXT PRIMARY KEY, size INTEGER, changed INTEGER, hash TEXT)"


def hash_files(paths: Sequence[Path], index: Path | None = None) -> list[str]:
    """Hash the content of files.

    Arguments:
        paths: The files.
        index: The file that keeps hashes, by path, size and time of change; None reads every file.

    Returns:
        The hash of each file, in order.

    Raises:
        DatasetError: If a file cannot be read.
        WriteError: If the index cannot be written.
    """
    if index is None:
        return [_hash(path) for path in paths]
    with writing(index):
        index.parent.mkdir(parents=True, exist_ok=True)
        try:
            with closing(sqlite3.connect(index, timeout=60, isolation_level=None)) as connection:
                connection.execute("PRAGMA synchronous = OFF")  # hashes lost in a power failure are computed again
                connection.execute(TABLE)
                return [_known_hash(path.resolve(), connection) for path in paths]
        except sqlite3.Error as error:
            raise OSError(str(error)) from error


def _known_hash(path: Path, connection: sqlite3.Connection) -> str:
    """The hash of a file, from the index if size and time are unchanged, else from the file."""
    state = _state(path)
    row = connection.execute("SELECT size, changed, hash FROM files WHERE path = ?", (str(path),)).fetchone()
    if row is not None and row[:2] == state:
        return str(row[2])
    found = _hash(path)
    if time.time() - state[1] / 1e9 > SETTLED:
        connection.execute("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?)", (str(path), *state, found))
    return found


def _state(path: Path) -> tuple[int, int]:
    """Size and time of change."""
    try:
        state = path.stat()
    except OSError as error:
        raise _unreadable(path, error) from error
    return state.st_size, state.st_mtime_ns


def _hash(path: Path) -> str:
    try:
        return file_digest(path)
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> DatasetError:
    return DatasetError(
        found=f"that {path} cannot be read ({error.strerror})", expected="a picture", do="replace it or remove it"
    )
