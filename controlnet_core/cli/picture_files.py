"""The files of drawn pictures: their names, and their settings inside them."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import SettingError
from ..whole_file import whole_file, writing

if TYPE_CHECKING:
    from torch import Tensor

CHUNK = "controlnet_core"
"""The PNG text chunk that holds the settings as JSON."""
OTHER_FORMATS = {".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"}


def picture_files(out: Path, count: int) -> list[Path]:
    """Name the files to write.

    Arguments:
        out: A file that ends in .png, or a folder, where pictures are numbered after those already there.
        count: How many.

    Raises:
        SettingError: If it is another format, or one file for several pictures.
    """
    if count < 1:
        raise SettingError(f"count = {count}", "1 or more", "say how many pictures to draw")
    suffix = "" if out.is_dir() else out.suffix.lower()
    if suffix in OTHER_FORMATS:
        raise SettingError(f"out = {out}", "a file that ends in .png, or a folder", f"use {out.with_suffix('.png')}")
    if suffix == ".png" and count > 1:
        raise SettingError(f"count = {count} and one file, {out}", "a folder", f"use for example {out.with_suffix('')}")
    if suffix == ".png":
        return [out]
    first = 1 + max((int(path.stem) for path in out.glob("*.png") if path.stem.isdecimal()), default=0)
    return [out / f"{number:05d}.png" for number in range(first, first + count)]


def check_writable(folder: Path) -> None:
    """Create a folder and check that it can be written, before any long work.

    Raises:
        WriteError: If it cannot.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass


def write_picture(picture: Tensor, file: Path, settings: Mapping[str, Any]) -> None:
    """Write a picture, whole or not at all, with its settings inside.

    Arguments:
        picture: Shape (3, H, W), values 0 to 1.
        file: Where to; a file there is replaced.
        settings: What it was drawn with.

    Raises:
        WriteError: If it cannot be written.
    """
    from PIL.PngImagePlugin import PngInfo

    from ..pictures.sheet import to_image

    chunks = PngInfo()
    chunks.add_text(CHUNK, json.dumps(settings))
    with whole_file(file) as temporary:
        to_image(picture).save(temporary, format="png", pnginfo=chunks)
