"""Pictures are opened as one of a list of formats, so that no file starts another program."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import EpsImagePlugin, Image

from controlnet_core.data.folder.examine import examine
from controlnet_core.errors import HintError
from controlnet_core.pictures.read import FORMATS, load_image, open_picture, picture_extensions

POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\nshowpage\n%%EOF\n"


@pytest.fixture(autouse=True)
def started(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The files that Ghostscript was started with."""
    files: list[object] = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *arguments: files.append(arguments))
    return files


@pytest.mark.parametrize("name", ["a.png", "a.eps", "a.ps", "a"])
def test_postscript_starts_nothing(name: str, tmp_path: Path, started: list[object]) -> None:
    path = tmp_path / name
    path.write_bytes(POSTSCRIPT)
    with Image.open(path) as image:  # what Pillow itself makes of it
        assert image.format == "EPS"
    with pytest.raises(HintError, match=f"{name}, which is no image that can be read; expected .* such as PNG"):
        load_image(path)
    assert not started


def test_postscript_in_a_dataset_starts_nothing(tmp_path: Path, started: list[object]) -> None:
    for folder in ("source", "target"):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (64, 64)).save(tmp_path / folder / "good.png")
        (tmp_path / folder / "bad.png").write_bytes(POSTSCRIPT)
    names = ("good.png", "bad.png")
    lines = [{"source": f"source/{name}", "target": f"target/{name}", "prompt": "x"} for name in names]
    (tmp_path / "prompt.json").write_text("\n".join(map(json.dumps, lines)))
    report = examine(tmp_path)
    assert "bad.png" in str(report) and not started


@pytest.mark.parametrize(
    ("kind", "name"),
    [("PNG", "a.jpg"), ("JPEG", "a"), ("WEBP", "a.webp"), ("GIF", "a.gif"), ("BMP", "a.bmp"), ("TIFF", "a.tif"),
     ("PPM", "a.ppm"), ("TGA", "a.tga"), ("JPEG2000", "a.jp2"), ("AVIF", "a.avif"), ("ICO", "a.ico"), ("MPO", "a.mpo")],
)  # fmt: skip
def test_common_formats_are_read_whatever_their_name(kind: str, name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    Image.new("RGB", (64, 64), (200, 100, 50)).save(path, format=kind, **({"save_all": True} if kind == "MPO" else {}))
    with open_picture(path) as image:
        assert image.size == (64, 64)
    colour = torch.tensor([200, 100, 50])[:, None, None] / 255
    assert (load_image(path)[0] - colour).abs().max() < 0.05


def test_extensions_are_those_of_the_formats() -> None:
    extensions = picture_extensions()
    assert {".png", ".jpg", ".jpeg", ".webp", ".tif", ".bmp"} <= extensions
    assert not {".eps", ".ps", ".wmf", ".emf", ".mpg", ".h5"} & extensions
    assert len(set(FORMATS)) == len(FORMATS)
