"""Pictures to look at: tensors as images, contact sheets, and PNG files written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..errors import SettingError
from ..expect import expect
from ..whole_file import whole_file

Picture = Tensor | Image.Image

INK, MUTED, HAIRLINE, ACCENT, PAPER = "#20262e", "#66707c", "#e2e6ea", "#d1541f", "#ffffff"
"""Colours of text, secondary text, thin lines, highlights and the background."""
TITLE_SIZE = 15
COLUMN_TITLE_LINES = 3
ROW_TITLE_WIDTH = 120
LINE_SPACING = 5
"""Pixels between two lines of text."""
PADDING = 12
"""Pixels between a title and its pictures."""
FRAME = 3
"""Width in pixels of the frame around a highlighted column."""


def to_image(picture: Tensor) -> Image.Image:
    """Turn a tensor (3, H, W) in [0, 1] into an RGB image; values beyond are cut off, and NaN is black.

    Raises:
        TensorShapeError: If the tensor has another shape.
    """
    expect(picture, "3 H W", "the picture")
    levels = picture.detach().float().nan_to_num(0.0, 1.0, 0.0).clamp(0, 1).mul(255).round().byte()
    return Image.fromarray(levels.permute(1, 2, 0).cpu().contiguous().numpy())


def fit_picture(picture: Picture, cell: int) -> Image.Image:
    """Fit a picture into a square of `cell` pixels: enlarged by the largest whole factor that fits, or reduced."""
    image = picture.convert("RGB") if isinstance(picture, Image.Image) else to_image(picture)
    longest = max(image.size)
    if longest > cell:
        width, height = (max(1, round(side * cell / longest)) for side in image.size)
        return image.resize((width, height), Image.Resampling.LANCZOS)
    factor = cell // longest
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.BICUBIC)


def sheet(
    rows: Sequence[Sequence[Picture]],
    column_titles: Sequence[str] = (),
    row_titles: Sequence[str] = (),
    cell: int = 192,
    gap: int = 12,
    highlighted: int | None = None,
) -> Image.Image:
    """Lay pictures out in rows and columns, a contact sheet.

    Arguments:
        rows: The pictures, tensors (3, H, W) in [0, 1] or images, of any sizes; rows may differ in length.
        column_titles: A title above each column, or none at all.
        row_titles: A title to the left of each row, or none at all. Long titles are wrapped, very long ones cut.
        cell: The largest side of a picture in pixels; see `fit_picture`.
        gap: Pixels between two pictures.
        highlighted: The column to frame in the accent colour.

    Raises:
        SettingError: If there is no picture, or the titles do not fit the rows or columns.
        TensorShapeError: If a tensor has another shape.
    """
    fitted = [[fit_picture(picture, cell) for picture in row] for row in rows]
    columns = max(map(len, fitted), default=0)
    _check_titles("rows", len(rows), row_titles)
    _check_titles("columns", columns, column_titles)
    if columns == 0:
        raise SettingError("no picture for a sheet", "at least one", "give a row with a picture")
    # A frame extends half a gap beyond its column, also at the outer edges.
    edge = 0 if highlighted is None else gap // 2
    widths = _column_widths(fitted, columns)
    titles = zip(column_titles, widths, strict=False)
    column_titles = [wrapped(title, TITLE_SIZE, width, COLUMN_TITLE_LINES) for title, width in titles]
    grid = _Grid(
        fitted,
        left=_starts(edge + (ROW_TITLE_WIDTH + PADDING) * bool(row_titles), widths, gap),
        top=_starts(edge + _titles_height(column_titles), [_height(row) for row in fitted], gap),
        gap=gap,
    )
    image = Image.new("RGB", (grid.left[-1] - gap + edge, grid.top[-1] - gap + edge), PAPER)
    draw = ImageDraw.Draw(image)
    _paste_pictures(image, draw, grid)
    _write_column_titles(draw, grid, column_titles, highlighted)
    _write_row_titles(draw, grid, row_titles)
    if highlighted is not None:
        right = grid.left[highlighted + 1] - gap + edge - 1
        box = (grid.left[highlighted] - edge, grid.top[0] - edge, right, image.height - 1)
        draw.rectangle(box, outline=ACCENT, width=FRAME)
    return image


def font(size: float) -> ImageFont.FreeTypeFont:
    """Load the font that comes with Pillow, in pixels."""
    return ImageFont.load_default(size)  # type: ignore[return-value]  # a bitmap font only where FreeType is missing


def write(
    draw: ImageDraw.ImageDraw, place: tuple[float, float], text: str, size: float, colour: str, anchor: str
) -> None:
    """Write lines of text at `place`, anchored as Pillow names it: "la" is the upper left, "mm" the middle."""
    align = {"l": "left", "m": "center", "r": "right"}[anchor[0]]
    draw.multiline_text(place, text, colour, font(size), anchor, spacing=LINE_SPACING, align=align)


def wrapped(text: str, size: float, width: float, lines: int) -> str:
    """Break text into at most `lines` lines of at most `width` pixels; what is left out becomes an ellipsis."""
    letters = font(size)
    wrapped_lines: list[str] = []
    for word in text.split():
        longer = f"{wrapped_lines[-1]} {word}" if wrapped_lines else word
        if wrapped_lines and letters.getlength(longer) <= width:
            wrapped_lines[-1] = longer
        else:
            wrapped_lines.append(word)
    kept = wrapped_lines[:lines]
    if len(wrapped_lines) > lines:
        kept[-1] += "…"
    return "\n".join(_cut(line, letters, width) for line in kept)


def write_png(image: Image.Image, path: str | os.PathLike[str]) -> None:
    """Write a PNG file, whole or not at all.

    Arguments:
        image: What to write.
        path: Where to write; its folder is made, and a file there is replaced.

    Raises:
        WriteError: If it cannot be written; what was at `path` stays.
    """
    with whole_file(path) as temporary:
        image.save(temporary, format="png")


def _check_titles(name: str, count: int, titles: Sequence[str]) -> None:
    if len(titles) not in (0, count):
        raise SettingError(f"{len(titles)} titles for {count} {name}", f"{count} or none", "give one for each or none")


@dataclass(frozen=True)
class _Grid:
    """Fitted pictures and their positions: the starts of columns and rows, and one more after the last."""

    rows: Sequence[Sequence[Image.Image]]
    left: Sequence[int]
    top: Sequence[int]
    gap: int


def _column_widths(rows: Sequence[Sequence[Image.Image]], columns: int) -> list[int]:
    return [max(row[column].width for row in rows if column < len(row)) for column in range(columns)]


def _height(row: Sequence[Image.Image]) -> int:
    return max((picture.height for picture in row), default=0)


def _starts(first: int, sizes: Sequence[int], gap: int) -> list[int]:
    """Where each of the sizes starts when they are set side by side, and where the next one would."""
    return list(accumulate((size + gap for size in sizes), initial=first))


def _paste_pictures(image: Image.Image, draw: ImageDraw.ImageDraw, grid: _Grid) -> None:
    for row, y in zip(grid.rows, grid.top, strict=False):
        for picture, x in zip(row, grid.left, strict=False):
            # A picture with white borders would have no edge on white paper.
            draw.rectangle((x - 1, y - 1, x + picture.width, y + picture.height), outline=HAIRLINE)
            image.paste(picture, (x, y))


def _titles_height(titles: Sequence[str]) -> int:
    """The height of wrapped titles above columns."""
    lines = max((title.count("\n") + 1 for title in titles), default=0)
    return lines * (TITLE_SIZE + LINE_SPACING) - LINE_SPACING + PADDING if lines else 0


def _write_column_titles(
    draw: ImageDraw.ImageDraw, grid: _Grid, titles: Sequence[str], highlighted: int | None
) -> None:
    for column, (title, (left, right)) in enumerate(zip(titles, pairwise(grid.left), strict=False)):
        place = (left + right - grid.gap) / 2, grid.top[0] - PADDING + LINE_SPACING
        write(draw, place, title, TITLE_SIZE, ACCENT if column == highlighted else INK, "md")


def _write_row_titles(draw: ImageDraw.ImageDraw, grid: _Grid, titles: Sequence[str]) -> None:
    for title, (top, bottom) in zip(titles, pairwise(grid.top), strict=False):
        lines = max(1, (bottom - top) // (TITLE_SIZE + LINE_SPACING))
        place = (0, (top + bottom - grid.gap) / 2)
        write(draw, place, wrapped(title, TITLE_SIZE, ROW_TITLE_WIDTH, lines), TITLE_SIZE, MUTED, "lm")


def _cut(line: str, letters: ImageFont.FreeTypeFont, width: float) -> str:
    """Shorten one line until it fits, ending in an ellipsis."""
    kept = line
    while letters.getlength(kept) > width and len(kept) > 1:
        kept = kept.rstrip("…")[:-1] + "…"
    return kept
