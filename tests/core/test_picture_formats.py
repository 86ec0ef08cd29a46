"""Pictures are opened as one of a list of formats, so that no file starts another program."""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections import Counter
from pathlib import Path

import numpy
import pytest
import torch
from PIL import EpsImagePlugin, Image, PngImagePlugin

from controlnet_core.data.folder.examine import examine
from controlnet_core.data.folder.folder_dataset import load_picture
from controlnet_core.errors import DatasetError, HintError
from controlnet_core.pictures.read import FORMATS, decoded_picture, load_image, picture_extensions, read_header
from controlnet_core.pictures.sheet import to_image, write_png

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
    assert decoded_picture(path).size == (64, 64)
    colour = torch.tensor([200, 100, 50])[:, None, None] / 255
    assert (load_image(path)[0] - colour).abs().max() < 0.05


def test_extensions_are_those_of_the_formats() -> None:
    extensions = picture_extensions()
    assert {".png", ".jpg", ".jpeg", ".webp", ".tif", ".bmp"} <= extensions
    assert not {".eps", ".ps", ".wmf", ".emf", ".mpg", ".h5"} & extensions
    assert len(set(FORMATS)) == len(FORMATS)


@pytest.mark.parametrize("kind", ["zTXt", "iTXt", "iCCP"])
@pytest.mark.parametrize("place", ["before", "after"])
def test_a_png_with_a_long_text_or_profile_is_read(kind: str, place: str, tmp_path: Path) -> None:
    colours = torch.rand(1, 3, 16, 24, generator=torch.Generator().manual_seed(0)).mul(255).round().div(255)
    write_png(to_image(colours[0]), tmp_path / "plain.png")
    text = zlib.compress(b"a word " * 400_000)
    heads = {"zTXt": b"prompt\0\0", "iTXt": b"prompt\0\1\0\0\0", "iCCP": b"profile\0\0"}
    body = kind.encode() + heads[kind] + text
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    plain = (tmp_path / "plain.png").read_bytes()
    at = 33 if place == "before" else len(plain) - 12  # after the header, or before the end
    path = tmp_path / "long.png"
    path.write_bytes(plain[:at] + chunk + plain[at:])
    assert torch.equal(load_image(path), colours)
    assert read_header(path) == read_header(tmp_path / "plain.png")


def test_a_picture_of_too_many_pixels_is_to_be_made_smaller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "images" / "large.png"
    path.parent.mkdir()
    Image.new("RGB", (64, 64)).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 64 // 2 - 1)
    with pytest.raises(HintError, match=r"large\.png, which is too large .*at most 4,094 pixels; make it smaller"):
        load_image(path)
    with pytest.raises(DatasetError, match=r"large\.png.*make it smaller"):
        load_picture(path)


@pytest.mark.parametrize("raised", [IndexError, KeyError, struct.error, zlib.error, EOFError, MemoryError, TypeError])
def test_whatever_a_decoder_raises_names_the_file(
    raised: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "odd.png"
    Image.new("RGB", (64, 64)).save(path)

    def fail(*_: object, **__: object) -> None:
        raise raised("inside")

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load_read", fail)
    with pytest.raises(HintError, match=r"odd\.png, which cannot be decoded \("):
        load_image(path)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_damaged_pictures_of_every_format_end_in_one_error(tmp_path: Path) -> None:
    generator = numpy.random.default_rng(0)
    outcomes = Counter[str]()
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "TGA", "ICO", "PCX", "SGI", "DDS", "QOI", "XBM"):
        buffer = io.BytesIO()
        Image.effect_noise((24, 16), 90).convert("1" if kind == "XBM" else "RGB").save(buffer, kind)
        whole = numpy.frombuffer(buffer.getvalue(), dtype=numpy.uint8)
        for number in range(40):
            content = whole[: generator.integers(1, len(whole) + 1)] if number % 4 == 0 else whole.copy()
            if number % 4:
                places = generator.integers(0, min(len(content), 200), size=4)
                content[places] = generator.integers(0, 256, size=4)
            path = tmp_path / "damaged"
            path.write_bytes(content.tobytes())
            try:
                assert load_image(path).isfinite().all()
                outcomes["read"] += 1
            except HintError as error:
                assert "damaged" in error.found or "pixels" in error.found
                outcomes["refused"] += 1
    print(f"\n{dict(outcomes)}")
    assert outcomes["refused"] > 50 and outcomes["read"] > 50
