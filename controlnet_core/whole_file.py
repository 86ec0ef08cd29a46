"""Files and folders written whole or not at all: under a temporary name in the same folder, then renamed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import WriteError

UNFINISHED = ".partial"
"""How the names of unfinished files and folders end."""


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary file to write; when the block ends, it is flushed to disk and replaces `path`.

    Arguments:
        path: Where the file will be; its folder is made, and a file there is replaced.

    Yields:
        The temporary file, empty, in the same folder.

    Raises:
        WriteError: If it cannot be written. If the block ends early, what was at `path` stays.
    """
    path = Path(path)
    temporary = _temporary(path)
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.touch()
            usual_mode = temporary.stat().st_mode
            yield temporary
            temporary.chmod(usual_mode)  # some libraries write files that only their owner may read
            _sync(temporary)
            os.replace(temporary, path)
    finally:
        if temporary.parent.is_dir():
            temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary folder to fill; when the block ends, its files are flushed to disk and it replaces `path`.

    Arguments:
        path: Where the folder will be; a folder there is replaced.

    Yields:
        The temporary folder, empty, next to `path`.

    Raises:
        WriteError: If it cannot be written. If the block ends early, what was at `path` stays.
    """
    path = Path(path)
    temporary = _temporary(path)
    try:
        with writing(path):
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            yield temporary
            for file in temporary.iterdir():
                _sync(file)
            if path.exists():
                shutil.rmtree(path)
            os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_whole(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file of known content, whole or not at all; raises as `whole_file` does."""
    with whole_file(path) as temporary:
        temporary.write_bytes(content)


def sweep(folder: Path) -> None:
    """Remove what killed processes left of files and folders that they were writing in a folder."""
    for left in folder.glob(f".*{UNFINISHED}"):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


@contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn the system's error of a failed write into one that names the file or folder.

    Raises:
        WriteError: If the block raises an OSError.
    """
    try:
        yield
    except OSError as error:
        raise WriteError(
            found=f"that {path} cannot be written ({error.strerror or error})",
            expected="a folder that can be written to, on a disk with room, and no program that has the file open",
            do="free some space, close the program or choose another folder; nothing that was there is lost",
        ) from error


def _temporary(path: Path) -> Path:
    """A temporary name next to a path: hidden, and of this process alone."""
    return path.with_name(f".{path.name}.{os.getpid()}{UNFINISHED}")


def _sync(file: Path) -> None:
    """Flush a file to disk."""
    with file.open("r+b") as written:
        os.fsync(written.fileno())
