"""The names of a server's files: each becomes a file name in the folder, or an error."""

from __future__ import annotations

from pathlib import Path

import pytest

from controlnet_core.comfy_client.failures import ServerError
from controlnet_core.comfy_client.outputs import file_name
from controlnet_core.errors import WriteError
from tests.core.test_client_answers import Liar, X, outputs, queued, written


@pytest.mark.parametrize(
    ("name", "here"),
    [
        ("ComfyUI_00001_.png", "ComfyUI_00001_.png"),
        ("ein Bild, größer (1).png", "ein Bild, größer (1).png"),
        ("../../evil.png", "evil.png"),
        ("a/../../b.png", "b.png"),
        ("/etc/passwd", "passwd"),
        ("..\\..\\evil.png", "evil.png"),
        ("C:\\evil.png", "evil.png"),
        ("C:evil.png", "C_evil.png"),
        ("x.png:stream", "x.png_stream"),
        ("~/.profile", "_profile"),
        (".bashrc", "_bashrc"),
        ("-rf.png", "_rf.png"),
        ("a\n\x1b[2J\u202e.png", "a__[2J_.png"),
        ("CON", "_CON"),
        ("nul.png", "_nul.png"),
        ("console.png", "console.png"),
        ("x.png. .", "x.png"),
        ("y" * 250 + ".png", "y" * 196 + ".png"),
        ("ö" * 250 + ".png", "ö" * 98 + ".png"),
        ("x." + "y" * 250, "x." + "y" * 198),
    ],
)
def test_a_name_becomes_a_file_name(name: str, here: str) -> None:
    assert file_name(name) == here


@pytest.mark.parametrize("name", ["", ".", "..", "/", "a/", "a/..", "\\", " ", ". ."])
def test_what_is_no_name_is_an_error(name: str) -> None:
    with pytest.raises(ServerError, match="an output file called"):
        file_name(name)


def test_what_lies_in_the_folder_is_kept(tmp_path: Path) -> None:
    """A folder, a link and a link to nothing have the names that the server gives."""
    out = tmp_path / "out"
    (out / "folder").mkdir(parents=True)
    (tmp_path / "secret").write_bytes(b"a picture")
    (out / "link.png").symlink_to(tmp_path / "secret")
    (out / "dangling.png").symlink_to(tmp_path / "made")
    files = [{**X, "filename": name} for name in ("folder", "link.png", "dangling.png")]
    _, result = queued(Liar({"history": outputs(*files)}), tmp_path)
    assert [Path(one["path"]).name for one in result["outputs"]] == ["folder_1", "link_1.png", "dangling_1.png"]
    assert written(tmp_path) == ["dangling_1.png", "folder_1", "link.png", "link_1.png", "secret"]
    assert not (tmp_path / "made").exists()


def test_an_equal_file_is_found_and_not_written_again(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "x.png").write_bytes(b"another")
    for _ in range(2):
        _, result = queued(Liar({}), tmp_path)
        assert [Path(one["path"]).name for one in result["outputs"]] == ["x_1.png"]
    assert written(tmp_path) == ["x.png", "x_1.png"]


def test_files_of_one_name_come_to_an_end(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    names = ["x.png", "x_1.png", "x_2.png"]
    for name in names:
        (out / name).write_bytes(name.encode())
    _, error = queued(Liar({}), tmp_path)
    assert isinstance(error, WriteError) and "3 files called x.png" in str(error)
    assert written(tmp_path) == names


def test_more_files_than_a_job_makes_are_an_error(tmp_path: Path) -> None:
    _, error = queued(Liar({"history": outputs(*[X] * 4)}), tmp_path)
    assert isinstance(error, ServerError) and "found 4 output files; expected at most 3" in str(error)
    assert written(tmp_path) == []
