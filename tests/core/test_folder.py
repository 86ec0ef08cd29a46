"""Pairs from a folder: the layouts, one crop for picture and hint, and every fault named."""

from __future__ import annotations

import json
import os
import unicodedata
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image

from controlnet_core.data.folder.folder_dataset import DatasetWarning, FolderDataset
from controlnet_core.data.hints import HintMaker, blur_hint, canny_hint
from controlnet_core.errors import DatasetError, HintError
from controlnet_core.pictures.read import load_image

NAMES = ["a b", "dots.v1.2", "z", "ünïcödé ☃"]
Spoiler = Callable[[Path], None]
CAPTIONS = dict(zip(NAMES, ["two words", 'a "quoted" one', "the last letter", "naïve schneemänner"], strict=True))


def pixels(seed: int, height: int = 64, width: int = 64) -> Image.Image:
    return Image.fromarray(numpy.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=numpy.uint8))


def by_name(folder: Path, height: int = 64, width: int = 64) -> Path:
    """Write four pairs; each hint is its picture, so that any difference in cropping is seen."""
    for place in ("images", "hints", "captions"):
        (folder / place).mkdir(parents=True)
    for seed, name in enumerate(NAMES):
        pixels(seed, height, width).save(folder / "images" / f"{name}.png")
        pixels(seed, height, width).save(folder / "hints" / f"{name}.bmp")
        (folder / "captions" / f"{name}.txt").write_text(f"{CAPTIONS[name]}\n", encoding="utf-8")
    return folder


def by_list(folder: Path, height: int = 64, width: int = 64) -> Path:
    lines = []
    for place in ("source", "target"):
        (folder / place).mkdir(parents=True)
    for seed, name in enumerate(NAMES):
        files = {place: f"{place}/{name}.png" for place in ("source", "target")}
        for file in files.values():
            pixels(seed, height, width).save(folder / file)
        lines.append(json.dumps({**files, "prompt": CAPTIONS[name]}, ensure_ascii=False))
    (folder / "prompt.json").write_text("\n".join(lines) + "\n\n", encoding="utf-8")
    return folder


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    assert a.shape == b.shape
    return float((a - b).abs().max())


@pytest.mark.parametrize("write", [by_name, by_list])
def test_both_layouts_give_the_same_pairs(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset = FolderDataset(write(tmp_path))
    assert len(dataset) == 4
    assert [files.image.stem for files in dataset.files] == NAMES
    for index, name in enumerate(NAMES):
        pair, expected = dataset[index], torch.from_numpy(numpy.array(pixels(index))).permute(2, 0, 1) / 255
        assert pair.caption == CAPTIONS[name]
        worst = max(difference(pair.image, expected), difference(pair.hint, expected))
        assert worst < 1e-6, f"pixels of {name} differ by {worst}"
    assert torch.equal(dataset.hints([3, 0]), torch.stack([dataset[3].hint, dataset[0].hint]))
    for index in (-1, 4):
        with pytest.raises(IndexError):
            dataset[index]
        with pytest.raises(IndexError):
            dataset.hints([index])


@pytest.mark.parametrize("upright", [False, True])
def test_the_middle_square_is_kept_of_picture_and_hint(tmp_path: Path, upright: bool) -> None:
    height, width = (80, 32) if upright else (32, 80)
    folder = by_name(tmp_path, height, width)
    pair, whole = FolderDataset(folder, 32)[0], load_image(folder / "images" / "a b.png")[0]
    middle = whole[:, 24:56] if upright else whole[:, :, 24:56]
    worst = max(difference(pair.image, middle), difference(pair.hint, middle))
    assert worst == 0, f"differs by {worst} from the middle"


def test_a_hint_of_half_the_size_shows_the_same_part(tmp_path: Path) -> None:
    folder = by_name(tmp_path, 64, 128)
    ramp = Image.fromarray(numpy.arange(128, dtype=numpy.uint8)[None].repeat(64, 0))
    ramp.save(folder / "images" / "z.png")
    ramp.resize((64, 32), Image.Resampling.BOX).save(folder / "hints" / "z.bmp")
    pair = FolderDataset(folder, 16)[2]
    middle = (torch.arange(32, 96).view(16, 4).float().mean(1) / 255).expand(3, 16, 16)
    worst = max(difference(found[..., 1:-1], middle[..., 1:-1]) for found in (pair.image, pair.hint))
    assert worst < 1.5 / 255, f"a ramp is off by {worst}"
    pixels(0, 64, 64).save(folder / "hints" / "z.bmp")
    with pytest.raises(DatasetError, match=r"z\.bmp of 64 x 64 pixels for a picture of 128 x 64"):
        FolderDataset(folder, 16)[2]


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA"])
def test_every_kind_of_picture_is_rgb(tmp_path: Path, mode: str) -> None:
    folder = by_name(tmp_path)
    image = pixels(7)
    if mode == "RGBA":
        image.putalpha(100)
    image.convert(mode).save(folder / "images" / "a b.png")
    found = FolderDataset(folder, 64)[0].image
    worst = difference(found, load_image(folder / "images" / "a b.png")[0])
    assert found.shape == (3, 64, 64) and worst == 0, f"differs by {worst}"


def test_the_camera_turns_picture_and_crop(tmp_path: Path) -> None:
    folder, exif = by_name(tmp_path), Image.Exif()
    exif[0x0112] = 6  # the camera was turned by 90 degrees
    pixels(9, 32, 80).save(folder / "images" / "z.png", exif=exif)
    pixels(9, 32, 80).rotate(-90, expand=True).save(folder / "hints" / "z.bmp")
    pair = FolderDataset(folder, 32)[2]
    assert difference(pair.image, pair.hint) < 1e-6


def test_missing_captions_are_counted_and_empty(tmp_path: Path) -> None:
    folder = by_name(tmp_path)
    (folder / "captions" / "a b.txt").unlink()
    (folder / "captions" / "z.txt").unlink()
    (folder / "images" / "z.txt").write_text("next to the picture", encoding="utf-8")
    with pytest.warns(DatasetWarning, match="1 of 4 pictures have no caption, such as .*a b.png"):
        dataset = FolderDataset(folder)
    assert [dataset[0].caption, dataset[2].caption] == ["", "next to the picture"]


def test_accents_may_be_stored_in_two_ways(tmp_path: Path) -> None:
    folder = by_name(tmp_path)
    name = unicodedata.normalize("NFC", NAMES[3])
    hint = folder / "hints" / f"{NAMES[3]}.bmp"
    hint.rename(hint.with_name(unicodedata.normalize("NFD", name) + ".bmp"))
    assert len(FolderDataset(folder)) == 4


def without(*names: str) -> Spoiler:
    def spoil(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return spoil


def written(name: str, content: bytes) -> Spoiler:
    def spoil(folder: Path) -> None:
        (folder / name).write_bytes(content)

    return spoil


def listed(**entry: object) -> Spoiler:
    return written("prompt.json", json.dumps(entry).encode())


def misspelt(folder: Path) -> None:
    (folder / "hints").rename(folder / "hnts")


@pytest.mark.parametrize(
    ("write", "spoil", "message"),
    [
        (by_name, without("hints/a b.bmp", "images/z.png"), r"\(2\): images/a b.png, hints/z.bmp; expected"),
        (by_name, written("images/a b.jpg", b"x"), "both .*a b.jpg and images/a b.png; expected one file of each"),
        (by_name, misspelt, "no prompt.json, no metadata.jsonl, and no images with hints"),
        (by_name, written("captions/z.txt", b"\xff\xfe\x00"), "captions/z.txt: .* expected a text in UTF-8"),
        (by_list, without("source/z.png"), r"missing files \(1\): source/z.png; expected every file that"),
        (by_list, written("prompt.json", b"{"), "line 1 of prompt.json: .* expected one JSON object a line"),
        (by_list, listed(source="source/z.png"), 'line 1 of prompt.json: .* expected {"target": "picture'),
        (by_list, listed(source="source/z.png", target="target/z.png", prompt=3), '"prompt": 3'),
        (by_list, written("prompt.json", b"\n\n"), "no pair; expected at least 1 picture"),
    ],
)
def test_faults_are_named_at_construction(
    tmp_path: Path, write: Callable[[Path], Path], spoil: Spoiler, message: str
) -> None:
    folder = write(tmp_path)
    spoil(folder)
    with pytest.raises(DatasetError, match=message):
        FolderDataset(folder)


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("nowhere", None, "nowhere: no such folder"),
        ("images/z.png", None, "z.png: no such folder"),
        (".", 20, "size 20; expected a multiple of 8 pixels"),
        ("images", 64, "images: no prompt.json"),
    ],
)
def test_impossible_arguments_are_named(tmp_path: Path, name: str, size: int | None, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        FolderDataset(by_name(tmp_path) / name, size)


def test_a_broken_picture_is_an_error_when_its_pair_is_indexed(tmp_path: Path) -> None:
    folder = by_name(tmp_path)
    for name in ("images/z.png", "hints/a b.bmp"):
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[: len(whole) // 2])
    dataset = FolderDataset(folder, 64)
    assert dataset[1].caption == CAPTIONS[NAMES[1]]
    for index, name in ((2, "z.png"), (0, "a b.bmp")):
        with pytest.raises(DatasetError, match=f"{name}, which cannot be decoded"):
            dataset[index]
    with pytest.raises(DatasetError, match=r"a b\.bmp"):
        dataset.hints([0])


def test_without_a_size_all_pictures_have_one(tmp_path: Path) -> None:
    folder = by_name(tmp_path / "even", 64, 128)
    pixels(0, 128, 64).save(folder / "images" / "z.png")
    dataset = FolderDataset(folder)
    assert dataset[0].image.shape == (3, 64, 128)
    with pytest.raises(DatasetError, match=r"z\.png of 64 x 128 pixels; expected 128 x 64 pixels, as .*a b.png has"):
        dataset[2]
    with pytest.raises(DatasetError, match=r"a b\.png of 48 x 64 pixels; expected without a size, .* multiples of 64"):
        FolderDataset(by_name(tmp_path / "odd", 64, 48))


def test_the_fingerprint_names_the_content(tmp_path: Path) -> None:
    folder = by_name(tmp_path / "data")
    first = FolderDataset(folder, 64).fingerprint
    seen = {first, FolderDataset(folder, 32).fingerprint, FolderDataset(folder).fingerprint}
    folder = folder.rename(tmp_path / "moved")
    os.utime(folder / "hints" / "z.bmp", ns=(0, 1))
    os.replace(folder / "images" / "z.png", folder / "images" / "z.webp")
    assert FolderDataset(folder, 64).fingerprint == first, "a path, a time and a name are no content"
    changes: list[Spoiler] = [
        written("captions/z.txt", b"another caption"),
        lambda folder: pixels(99).save(folder / "images" / "z.webp", format="png"),
        lambda folder: pixels(98).save(folder / "hints" / "z.bmp"),
        without("images/a b.png", "hints/a b.bmp"),
    ]
    for change in changes:
        change(folder)
        seen.add(FolderDataset(folder, 64).fingerprint)
    assert len(seen) == 3 + len(changes)


def directly(folder: Path) -> Path:
    for seed, name in enumerate(NAMES):
        pixels(seed).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(CAPTIONS[name], encoding="utf-8")
    return folder


def listed_without_hints(folder: Path) -> Path:
    lines = [json.dumps({"file_name": f"{name}.png", "text": CAPTIONS[name]}) for name in NAMES]
    (directly(folder) / "metadata.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder


@pytest.mark.parametrize("write", [by_name, by_list, directly, listed_without_hints])
def test_made_hints_need_no_hint_files(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    dataset = FolderDataset(write(tmp_path), 32, "grey")
    assert [dataset[index].caption for index in range(len(dataset))] == [CAPTIONS[name] for name in NAMES]
    for pair in (dataset[0], dataset[3]):
        luma = (0.299 * pair.image[0] + 0.587 * pair.image[1] + 0.114 * pair.image[2]).expand(3, -1, -1)
        assert difference(pair.hint, luma) <= 0.5 / 255 + 1e-6, "a hint has 8 bits"
    assert torch.equal(dataset.hints([3, 0]), torch.stack([dataset[3].hint, dataset[0].hint]))


def test_made_edges_are_those_of_the_resized_picture(tmp_path: Path) -> None:
    pair = FolderDataset(directly(tmp_path), 32, "canny", canny=(0.01, 0.3))[0]
    assert pair.hint.any() and torch.equal(pair.hint, canny_hint(pair.image[None], 0.01, 0.3)[0])


@pytest.mark.parametrize("deviation", [0.5, 2.0, 30.0])
def test_a_blur_is_a_gaussian_of_its_deviation(deviation: float) -> None:
    image = torch.zeros(1, 3, 201, 7)
    image[:, 1, 100] = 1
    profile = blur_hint(image, deviation)[0, 1, :, 3]
    distances = torch.arange(-100, 101)
    expected = torch.exp(-((distances / deviation) ** 2) / 2)
    inside = (distances.abs() <= 3 * deviation).float()
    assert difference(profile, expected * inside / (expected * inside).sum()) < 1e-3
    flat = torch.full((1, 3, 16, 24), 0.7)
    assert difference(blur_hint(flat, deviation), flat) < 1e-6


def test_the_fingerprint_names_how_hints_are_made(tmp_path: Path) -> None:
    folder, makers = by_name(tmp_path), [HintMaker("grey"), HintMaker("canny"), HintMaker("blur")]
    makers += [HintMaker("canny", (0.1, 0.3)), HintMaker("blur", blur=9)]
    prints = [FolderDataset(folder, 64, maker.kind, maker.canny, maker.blur).fingerprint for maker in makers]
    assert len({FolderDataset(folder, 64).fingerprint, *prints}) == 6
    assert FolderDataset(folder, 64, "grey", (0.3, 0.4), 1).fingerprint == prints[0]
    os.utime(folder / "hints" / "z.bmp", ns=(0, 1))
    assert FolderDataset(folder, 64, "grey").fingerprint == prints[0]


@pytest.mark.parametrize("maker", [HintMaker("canny", (0.2, 0.1)), HintMaker("blur", blur=float("nan"))])
def test_hints_that_cannot_be_made_are_named_at_construction(tmp_path: Path, maker: HintMaker) -> None:
    with pytest.raises(HintError, match="above 0"):
        FolderDataset(directly(tmp_path), 64, maker.kind, maker.canny, maker.blur)
