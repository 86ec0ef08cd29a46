"""A file or a folder is written whole or not at all, however its writing ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from controlnet_core.errors import WriteError
from controlnet_core.whole_file import sweep, whole_file, whole_folder, write_whole


def test_a_file_takes_its_place_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    for content in (b"first", b"second"):
        with whole_file(path) as temporary:
            temporary.write_bytes(content)
            assert not path.exists() or path.read_bytes() == b"first"
        assert path.read_bytes() == content
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_takes_its_place_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder"
    for name in ("first", "second"):
        with whole_folder(path) as temporary:
            (temporary / name).write_text(name)
        assert [entry.name for entry in path.iterdir()] == [name]
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_what_was_there_survives_a_write_that_ends_early(tmp_path: Path, error: type[BaseException]) -> None:
    file, folder = tmp_path / "file", tmp_path / "folder"
    write_whole(file, b"old")
    folder.mkdir()
    (folder / "old").touch()
    with pytest.raises(error), whole_file(file) as temporary:
        temporary.write_bytes(b"ne")
        raise error
    with pytest.raises(error), whole_folder(folder) as temporary:
        (temporary / "new").touch()
        raise error
    assert file.read_bytes() == b"old" and [entry.name for entry in folder.iterdir()] == ["old"]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "folder"]


def test_what_the_system_refuses_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "below", tmp_path):
        with pytest.raises(WriteError, match="cannot be written") as caught:
            write_whole(path, b"content")
        assert str(path) in str(caught.value)
    with pytest.raises(WriteError, match="No space"), whole_file(tmp_path / "full"):
        raise OSError(28, "No space left on device")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_what_killed_processes_left_is_swept(tmp_path: Path) -> None:
    (tmp_path / ".file.1.partial").touch()
    (tmp_path / ".folder.2.partial").mkdir()
    (tmp_path / ".folder.2.partial" / "inside").touch()
    (tmp_path / "kept.partial").touch()
    sweep(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["kept.partial"]


def test_a_file_may_be_read_by_others_whoever_wrote_it(tmp_path: Path) -> None:
    write_whole(tmp_path / "usual", b"")
    with whole_file(tmp_path / "private") as temporary:
        temporary.chmod(0o600)
    assert (tmp_path / "private").stat().st_mode == (tmp_path / "usual").stat().st_mode
