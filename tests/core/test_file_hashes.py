"""Hashes follow the content, and a file is read again only if it may have changed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from controlnet_core.data.folder import file_hashes
from controlnet_core.data.folder.file_hashes import hash_files
from controlnet_core.errors import DatasetError, WriteError

LONG_AGO = (0, 10**18)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Two files that were written long ago."""
    paths = [tmp_path / name for name in "ab"]
    for path in paths:
        path.write_bytes(path.name.encode())
        os.utime(path, ns=LONG_AGO)
    return paths


def test_a_known_file_is_not_read_again(files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index, read = tmp_path / "new" / "index.sqlite", list[str]()
    plain = file_hashes._hash

    def counted(path: Path) -> str:
        read.append(path.name)
        return plain(path)

    monkeypatch.setattr(file_hashes, "_hash", counted)
    first = hash_files(files, index)
    assert read == ["a", "b"] and first == hash_files(files) and len(set(first)) == 2
    read.clear()
    assert hash_files(files, index) == first and read == []
    files[0].write_bytes(b"c")
    assert hash_files(files, index)[0] != first[0] and read == ["a"]
    assert hash_files(files, index)[0] != first[0] and read == ["a", "a"], "what has just changed may change again"


def test_equal_content_has_equal_hashes(files: list[Path]) -> None:
    files[1].write_bytes(files[0].read_bytes())
    first, other = hash_files(files)
    assert first == other


def test_what_cannot_be_read_or_kept_is_named(files: list[Path], tmp_path: Path) -> None:
    for index in (None, tmp_path / "index.sqlite"):
        with pytest.raises(DatasetError, match="nowhere"):
            hash_files([tmp_path / "nowhere"], index)
    (tmp_path / "broken").write_bytes(b"no database" * 100)
    with pytest.raises(WriteError, match="broken"):
        hash_files(files, tmp_path / "broken")
