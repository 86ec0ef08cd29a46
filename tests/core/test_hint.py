"""Hint images: every layout is one tensor, crops are the centre, broken input is named."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy
import pytest
import torch
from kornia.filters import canny
from PIL import Image

from controlnet_core.control.hint import fit_hint, read_hint, read_mask
from controlnet_core.control.notes import crop_note
from controlnet_core.data.hints import blur_hint, canny_hint
from controlnet_core.errors import HintError
from controlnet_core.pictures.read import HintImage, load_image

PIXELS = numpy.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=numpy.uint8)
EXPECTED = torch.from_numpy(PIXELS).permute(2, 0, 1)[None] / 255


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(PIXELS),
        PIXELS,
        PIXELS[None],
        PIXELS.astype(numpy.float64) / 255,
        torch.from_numpy(PIXELS).permute(2, 0, 1),
        EXPECTED[0],
        EXPECTED.double(),
    ],
    ids=["pil", "numpy", "numpy batch", "numpy float", "torch uint8", "torch float", "torch double"],
)
def test_every_layout_is_one_tensor(image: HintImage) -> None:
    hint = read_hint(image)
    assert hint.dtype == torch.float32 and hint.shape == (1, 3, 16, 24)
    worst = float((hint - EXPECTED).abs().max())
    assert worst < 1e-6, f"largest difference {worst}"


@pytest.mark.parametrize("image", [PIXELS[..., 0], PIXELS[..., :1], Image.fromarray(PIXELS[..., 0]), EXPECTED[0, 0]])
def test_grey_fills_the_channels_the_net_reads(image: HintImage) -> None:
    worst = float((read_hint(image, 3) - EXPECTED[:, :1].expand(1, 3, 16, 24)).abs().max())
    assert worst < 1e-6, f"largest difference {worst}"
    assert read_hint(image, 1).shape == (1, 1, 16, 24)


@pytest.mark.parametrize("upright", [False, True])
def test_hint_is_cut_around_its_centre_then_resized(upright: bool) -> None:
    hint = torch.zeros(1, 1, 32, 96)
    hint[..., 32:64] = torch.rand(1, 1, 1, 32, generator=torch.Generator().manual_seed(0)).round()
    centre = hint[..., 32:64]
    if upright:
        hint, centre = hint.mT, centre.mT
    message = f"another aspect than the picture's 64 x 64: 64 {'rows' if upright else 'columns'} at its borders"
    assert message in (crop_note(hint, 64, 64) or "")
    square = fit_hint(hint, 64, 64)
    worst = float((square - fit_hint(centre, 64, 64)).abs().max())
    assert worst == 0, f"largest difference {worst}: something besides the centre was kept"
    assert float(fit_hint(square, 32, 32).mean()) == pytest.approx(float(centre.mean()), abs=0.02)


def test_same_aspect_is_fitted_without_a_note_and_same_size_is_kept() -> None:
    for given, height, width in ((EXPECTED, 32, 48), (torch.rand(1, 3, 341, 512), 512, 768)):
        assert crop_note(given, height, width) is None
        assert fit_hint(given, height, width).shape == (1, 3, height, width)
    assert fit_hint(EXPECTED, 16, 24) is EXPECTED


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.rand(3, 1, 1), "1 x 1 pixels; expected at least 8 x 8"),
        (torch.full((3, 16, 16), float("nan")), "NaN"),
        (torch.full((3, 16, 16), 255.0), "from 255 to 255; expected values from 0 to 1; divide by 255"),
        (2 * EXPECTED - 1, r"\(x \+ 1\) / 2"),
        (torch.rand(1, 16, 24, 3), r"image.movedim\(-1, -3\)"),
        (torch.rand(4, 16, 16), "with 3 channels, or 1; convert"),
        (torch.zeros(3, 16, 16, dtype=torch.int64), "torch.int64"),
        (numpy.full((16, 16), "x"), "an array of <U1"),
        ("hint.png", "found a str; expected a PIL image"),
        (torch.zeros(16), r"a Tensor of shape \(16,\)"),
        (torch.zeros(0, 3, 16, 16), r"shape \(0, 3, 16, 16\)"),
    ],
)
def test_what_cannot_steer_is_an_error(image: HintImage, message: str) -> None:
    with pytest.raises(HintError, match=message):
        read_hint(image, 3)


def test_masks_are_grey_and_one_for_each_picture() -> None:
    masks = torch.rand(2, 4, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(read_mask(masks), masks[:, None])
    assert torch.equal(read_mask(masks[:, None]), masks[:, None])
    assert torch.equal(read_mask(masks[0].numpy()), masks[:1, None])
    with pytest.raises(HintError, match="a mask of shape"):
        read_mask(Image.fromarray(PIXELS))


def test_transparency_lies_over_black_and_the_camera_turns(tmp_path: Path) -> None:
    colours = Image.fromarray(PIXELS).convert("RGBA")
    colours.putalpha(128)
    colours.save(tmp_path / "half.png")
    worst = float((load_image(tmp_path / "half.png") - EXPECTED * 128 / 255).abs().max())
    assert worst < 1 / 255, f"largest difference {worst}"

    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned by 90 degrees
    Image.fromarray(PIXELS).save(tmp_path / "turned.png", exif=exif)
    worst = float((load_image(tmp_path / "turned.png") - EXPECTED.rot90(-1, (2, 3))).abs().max())
    assert worst < 1e-6, f"largest difference {worst}"


def test_depth_of_16_bits_keeps_its_precision(tmp_path: Path) -> None:
    depth = numpy.linspace(0, 65535, 16 * 16).reshape(16, 16).astype(numpy.uint16)
    Image.fromarray(depth).save(tmp_path / "depth.png")
    expected = torch.from_numpy(depth / 65535).float().expand(1, 3, 16, 16)
    for image in (load_image(tmp_path / "depth.png"), read_hint(depth)):
        worst = float((image - expected).abs().max())
        assert worst < 1e-6, f"largest difference {worst}"


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    Image.fromarray(PIXELS.repeat(8, 0).repeat(8, 1)).save(tmp_path / "whole.png")
    whole = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("no picture")
    faults = {
        "missing.png": "no file",
        "cut.png": "cannot be decoded",
        "empty.png": "empty",
        "text.png": "no image",
        ".": "a folder",
    }
    for name, fault in faults.items():
        with pytest.raises(HintError) as caught:
            load_image(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value) and fault in str(caught.value), str(caught.value)


def test_canny_draws_the_outline_of_a_square() -> None:
    image = torch.zeros(1, 3, 32, 32)
    image[..., 8:24, 8:24] = 1
    edges = canny_hint(image)
    assert edges.shape == (1, 3, 32, 32) and set(edges.unique().tolist()) == {0.0, 1.0}
    distance = (torch.arange(32) - 15.5).abs()
    rim = torch.maximum(distance[:, None], distance)
    assert rim[edges[0, 0] == 1].sub(8).abs().max() <= 1, "an edge far from the outline"
    assert edges[0, 0, 7:9, 10:22].amax(0).min() == 1, "a gap in the upper side"
    assert canny_hint(image, low=3.9, high=4.1).max() == 0, "no step is steeper than black to white"


@pytest.mark.parametrize("deviation", [0.0, 0.6, 1.0])
def test_canny_keeps_the_weak_edges_that_kornia_keeps(deviation: float) -> None:
    generator = torch.Generator().manual_seed(5)
    shades = torch.rand(1, 3, 61, 90, generator=generator)
    image = blur_hint(shades, deviation) if deviation else shades
    _, wanted = canny(image, 0.05, 0.5, (5, 5), (1.0, 1.0))
    _, before = canny(image, 0.05, 0.5, (5, 5), (1.0, 1.0), hysteresis=False)
    found = canny_hint(image, 0.05, 0.5)
    assert torch.equal(found, wanted.expand(-1, 3, -1, -1))
    kept = found[:, :1] == 1
    assert (kept & (before == 0.5)).any() and (~kept & (before == 0.5)).any(), "weak edges of both kinds"


@pytest.mark.parametrize(("module", "package"), [("kornia.filters", "kornia"), ("scipy", "scipy")])
def test_canny_without_a_package_says_what_to_install(
    module: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(HintError, match=f"pip install {package}`"):
        canny_hint(EXPECTED)


def test_canny_refuses_thresholds_in_the_wrong_order() -> None:
    with pytest.raises(HintError, match="0 < low < high"):
        canny_hint(EXPECTED, low=0.3, high=0.2)
