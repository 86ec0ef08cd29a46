"""Laws of the helpers between tensors and image files: levels, fits, contact sheets, whole files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from PIL import Image, ImageColor

from controlnet_core.errors import SettingError, TensorShapeError, WriteError
from controlnet_core.pictures.sheet import ACCENT, TITLE_SIZE, fit_picture, font, sheet, to_image, wrapped, write_png

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def flat(colour: tuple[int, int, int], height: int = 8, width: int = 8) -> torch.Tensor:
    return torch.tensor(colour)[:, None, None].expand(3, height, width) / 255


def has_colour(image: Image.Image, colour: tuple[int, ...]) -> numpy.ndarray[Any, Any]:
    where: numpy.ndarray[Any, Any] = (numpy.asarray(image) == colour).all(-1)
    return where


def test_the_nearest_level_comes_back_from_tensor_and_file(tmp_path: Path) -> None:
    levels = torch.arange(256 * 3).reshape(3, 16, 16) % 256
    write_png(to_image((levels - 0.4) / 255), tmp_path / "levels.png")
    with Image.open(tmp_path / "levels.png") as image:
        read = torch.from_numpy(numpy.array(image)).permute(2, 0, 1)
    error = int((read.long() - levels).abs().max())
    assert error == 0, f"{error} levels"


@pytest.mark.parametrize(("value", "level"), [(-3.0, 0), (2.0, 255), (float("inf"), 255), (float("nan"), 0)])
def test_values_beyond_the_range_are_cut_off(value: float, level: int) -> None:
    assert set(numpy.asarray(to_image(torch.full((3, 4, 4), value))).ravel()) == {level}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_precision_does_not_matter_for_values_that_all_can_hold(dtype: torch.dtype) -> None:
    picture = torch.rand(3, 5, 7, generator=torch.Generator().manual_seed(0)).round()
    assert to_image(picture.to(dtype).requires_grad_()) == to_image(picture)


def test_a_batch_is_no_picture() -> None:
    with pytest.raises(TensorShapeError, match=r"the picture with shape \(1, 3, 8, 8\)"):
        to_image(torch.zeros(1, 3, 8, 8))


@pytest.mark.parametrize(
    ("size", "cell", "fitted"),
    [((64, 64), 192, (192, 192)), ((64, 48), 170, (128, 96)), ((512, 256), 128, (128, 64)), ((1000, 1), 10, (10, 1))],
)
def test_pictures_grow_by_whole_factors_and_shrink_to_fit(
    size: tuple[int, int], cell: int, fitted: tuple[int, int]
) -> None:
    assert fit_picture(Image.new("L", size), cell).size == fitted


def test_sheet_sets_each_picture_in_its_row_and_column() -> None:
    image = sheet([[flat(RED), to_image(flat(GREEN))], [flat(BLUE)]], cell=8, gap=3)
    assert image.size == (19, 19)
    for colour, (x, y) in {RED: (0, 0), GREEN: (11, 0), BLUE: (0, 11)}.items():
        where = has_colour(image, colour)
        assert where[y : y + 8, x : x + 8].all() and where.sum() == 64, colour


def test_titles_move_pictures_but_change_none() -> None:
    rows = [[flat(RED), flat(GREEN)], [flat(BLUE), flat(RED)]]
    plain = sheet(rows, cell=64)
    titled = sheet(rows, ["first", "second"], ["above", "below"], cell=64)
    left, top = titled.width - plain.width, titled.height - plain.height
    assert left > 0 and top > 0
    assert titled.crop((left, top, titled.width, titled.height)) == plain
    assert numpy.asarray(titled)[:top].min() < 100 and numpy.asarray(titled)[top:, :left].min() < 150


def test_highlighted_column_is_framed_and_no_picture_is_covered() -> None:
    rows = [[flat(GREEN, 32, 32)] * 3] * 2
    plain, framed = (sheet(rows, ["a", "b", "c"], cell=32, highlighted=column) for column in (None, 1))
    assert has_colour(plain, GREEN).sum() == has_colour(framed, GREEN).sum() == 6 * 32 * 32
    accent = numpy.argwhere(has_colour(framed, ImageColor.getrgb(ACCENT)))
    columns = numpy.flatnonzero(has_colour(framed, GREEN).any(0))
    assert columns[31] < accent[:, 1].min() < columns[32] and columns[63] < accent[:, 1].max() < columns[64]


@pytest.mark.parametrize(
    ("rows", "columns", "message"),
    [
        ([], (), "no picture for a sheet"),
        ([[]], (), "no picture for a sheet"),
        ([[flat(RED)]], ("a", "b"), "2 titles for 1 columns"),
    ],
)
def test_impossible_sheets_are_refused(
    rows: list[list[torch.Tensor]], columns: tuple[str, ...], message: str
) -> None:
    with pytest.raises(SettingError, match=message):
        sheet(rows, columns)


def test_wrapped_lines_fit_and_lose_nothing_unless_they_must() -> None:
    text = "a brown background with a grey triangle"
    lines = wrapped(text, TITLE_SIZE, 120, 5).split("\n")
    assert len(lines) > 1 and " ".join(lines) == text
    short = wrapped(f"{text} {'x' * 99}", TITLE_SIZE, 120, 2).split("\n")
    assert len(short) == 2 and short[-1].endswith("…")
    assert max(font(TITLE_SIZE).getlength(line) for line in (*lines, *short, wrapped("x" * 99, 15, 120, 1))) <= 120


def test_write_png_makes_the_folder_and_leaves_one_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "picture.png"
    for colour in (RED, BLUE):
        write_png(to_image(flat(colour)), path)
        with Image.open(path) as image:
            assert has_colour(image, colour).all()
    assert list(path.parent.iterdir()) == [path]


def test_what_cannot_be_written_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "folder.png").mkdir()
    for path in (tmp_path / "file" / "picture.png", tmp_path / "folder.png"):
        with pytest.raises(WriteError, match="cannot be written") as caught:
            write_png(to_image(flat(RED)), path)
        assert str(path) in str(caught.value)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "folder.png"]


def test_an_earlier_picture_survives_a_failed_write(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    write_png(to_image(flat(RED)), path)
    before = path.read_bytes()
    with pytest.raises(WriteError):
        write_png(Image.new("HSV", (8, 8)), path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
