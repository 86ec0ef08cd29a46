"""A folder is examined without training: every fault is reported at once, and none is raised."""

from __future__ import annotations

import json
import threading
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
from PIL import Image

from controlnet_core.data.folder.examine import FolderReport, examine
from controlnet_core.data.folder.folder_dataset import FolderDataset
from controlnet_core.errors import DatasetError

Spoiler = Callable[[Path], object]


def pixels(seed: int, height: int = 64, width: int = 64) -> Image.Image:
    return Image.fromarray(numpy.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=numpy.uint8))


def pairs(folder: Path, count: int = 4) -> Path:
    for place in ("images", "hints"):
        (folder / place).mkdir(parents=True)
        for number in range(count):
            pixels(number + 100 * (place == "hints")).save(folder / place / f"{number:03}.png")
            (folder / "images" / f"{number:03}.txt").write_text(f"picture {number}", encoding="utf-8")
    return folder


def listed(folder: Path, *lines: str) -> Path:
    (folder / "metadata.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder


def test_a_good_folder_has_only_facts(tmp_path: Path) -> None:
    report = examine(pairs(tmp_path, 100), 64)
    assert report.pairs == 100
    assert report.problems == report.warnings == ()
    assert report.text.splitlines() == [
        "100 pairs",
        "Facts:",
        "  - layout: images/NAME, hints/NAME and captions/NAME.txt",
        "  - 10 pairs are held out to measure the training",
        "  - smallest picture: 64 x 64 pixels; largest: 64 x 64 pixels",
        "  - most frequent: 64 x 64 pixels (100 times)",
    ]


def cut_in_half(name: str) -> Spoiler:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:4000])


def removed(*names: str) -> Spoiler:
    def remove(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return remove


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (removed("hints/001.png", "images/002.png"), "unpaired files (2): images/001.png, hints/002.png"),
        (lambda folder: pixels(0).save(folder / "hints" / "001.bmp"), "both hints/001.bmp and hints/001.png"),
        (cut_in_half("images/003.png"), "cannot be decoded (1): images/003.png, which cannot be decoded"),
        (lambda folder: (folder / "hints/000.png").write_text("no picture"), "hints/000.png, which is no image"),
        (lambda folder: (folder / "hints/000.png").write_bytes(b""), "hints/000.png, which is empty"),
        (lambda folder: pixels(0, 64, 128).save(folder / "hints/000.png"), "hints/000.png (128 x 64 pixels)"),
        (lambda folder: (folder / "images/001.txt").write_bytes("Gruß".encode("latin-1")), "images/001.txt: 'utf-8'"),
        (lambda folder: (folder / "images/001.txt").write_bytes("Gruß".encode("utf-16")), "images/001.txt: 'utf-8'"),
        (lambda folder: (folder / "hints").rename(folder / "hnts"), "no prompt.json, no metadata.jsonl"),
        (lambda folder: listed(folder, "{"), "line 1 of metadata.jsonl"),
        (lambda folder: listed(folder, "[" * 100_000), "broken lines (1): line 1 of metadata.jsonl"),
    ],
)
def test_each_fault_is_reported_and_stops_the_dataset_as_well(tmp_path: Path, spoil: Spoiler, problem: str) -> None:
    folder = pairs(tmp_path)
    spoil(folder)
    report = examine(folder, 64)
    assert len(report.problems) == 1 and problem in report.problems[0]
    assert f"  - {report.problems[0]}" in report.text.splitlines()
    with pytest.raises(DatasetError):
        dataset = FolderDataset(folder, 64)
        for index in range(len(dataset)):
            dataset[index]


def test_faults_are_reported_together_and_long_lists_cut(tmp_path: Path) -> None:
    folder = pairs(tmp_path, 24)
    for number in range(10):
        (folder / "hints" / f"{number:03}.png").unlink()
        (folder / "images" / f"{number + 10:03}.png").write_bytes(b"x")
    (folder / "images" / "023.txt").write_bytes(b"\xff")
    report = examine(folder, 64)
    assert report.pairs == 14 and len(report.problems) == 3
    assert report.problems[0].startswith("unpaired files (10): images/000.png, ")
    assert "images/007.png and 2 more; add what is missing" in report.problems[0]
    with pytest.raises(DatasetError, match=r"images/004\.png and 5 more; expected for every images/NAME\.png"):
        FolderDataset(folder, 64)


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda folder: folder / "nowhere", "no such folder"),
        (lambda folder: folder, "no prompt.json"),
        (lambda folder: pairs(folder, 0), "no pair;"),
        (lambda folder: listed(folder, ""), "no pair;"),
        (lambda folder: pairs(folder, 1) / "images" / "000.png", "no such folder"),
        (lambda folder: listed(folder, '{"file_name": "a", "hint": "../b"}'), "line 1 of metadata.jsonl: ../b"),
        (lambda folder: listed(folder, '{"file_name": "/a", "hint": "b"}'), "line 1 of metadata.jsonl: /a"),
        (lambda folder: listed(folder, '{"file_name": "a", "hint": "b"}'), "missing files (2): a, b"),
        (lambda folder: listed(folder, '{"file_name": "a"}', "[]"), "lines that lack a value (2): line 1"),
    ],
)
def test_a_folder_without_pairs_is_no_error(tmp_path: Path, make: Callable[[Path], Path], problem: str) -> None:
    report = examine(make(tmp_path), 64)
    assert report.pairs == 0 and len(report.problems) == 1 and problem in report.problems[0]
    assert report.text.startswith("0 pairs\nProblems:\n")


def test_a_list_of_hugging_face_is_read(tmp_path: Path) -> None:
    folder = pairs(tmp_path, 3)
    listed(
        folder,
        json.dumps({"file_name": "images/000.png", "conditioning_image": "hints/000.png", "text": "größer"}),
        "",
        json.dumps({"image": "images/../images/002.png", "hint": "hints/001.png", "caption": None, "id": 7}),
    )
    report = examine(folder, 64)
    assert (report.pairs, report.problems) == (2, ())
    assert report.warnings[0].startswith("pictures without a caption (1): images/")
    listed(folder, json.dumps({"image": "images/001.png", "hint": "hints/000.png", "prompt": "one"}))
    assert FolderDataset(folder, 64)[0].caption == "one"
    entry = {"target": "images/002.png", "source": "hints/002.png", "prompt": "of prompt.json"}
    (folder / "prompt.json").write_text(json.dumps(entry), encoding="utf-8")
    assert FolderDataset(folder, 64)[0].caption == "of prompt.json"


def test_without_a_size_all_pictures_have_the_size_of_the_first(tmp_path: Path) -> None:
    folder = pairs(tmp_path)
    for place in ("images", "hints"):
        pixels(0, 64, 128).save(folder / place / "002.png")
    assert examine(folder, 64).problems == ()
    assert "(1): images/002.png (128 x 64 pixels); set a size" in examine(folder).problems[0]
    for place in ("images", "hints"):
        pixels(0, 40, 64).save(folder / place / "000.png")
    assert [" multiples of 64 " in problem for problem in examine(folder).problems] == [True, False]


def test_what_may_not_be_meant_is_warned_about(tmp_path: Path) -> None:
    folder = pairs(tmp_path)
    (folder / "images" / "001.txt").unlink()
    for number in range(4):
        Image.new("L", (64, 64)).save(folder / "hints" / f"{number:03}.png")
    Image.new("1", (9000, 9000)).save(folder / "images" / "002.png")
    report = examine(folder, 72)
    assert report.problems == ()
    assert [warning.split(";")[0] for warning in report.warnings] == [
        "pictures without a caption (1): images/001.png",
        "pictures smaller than the training size (3): "
        + ", ".join(f"images/{number:03}.png (64 x 64 pixels)" for number in (0, 1, 3)),
        "pictures of over 64 million pixels (1): images/002.png (9000 x 9000 pixels)",
        "only 4 pairs: a net needs hundreds at least",
        "all hints are the same picture: a net learns nothing from them",
    ]
    assert "smallest picture: 64 x 64 pixels; largest: 9000 x 9000 pixels" in report.facts


def sixteen_bits(path: Path) -> None:
    Image.fromarray(numpy.arange(4096, dtype=numpy.uint16).reshape(64, 64) * 16).save(path)


def turned(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned by 90 degrees
    pixels(0, 64, 128).save(path, exif=exif)


def animated(path: Path) -> None:
    frames = [pixels(seed) for seed in range(3)]
    frames[0].save(path, save_all=True, append_images=frames[1:])


@pytest.mark.parametrize(
    ("name", "save"),
    [
        ("000.png", sixteen_bits),
        ("000.tif", lambda path: pixels(0).convert("CMYK").save(path)),
        ("000.jpg", lambda path: pixels(0).convert("CMYK").save(path)),
        ("000.png", lambda path: pixels(0).convert("P").save(path)),
        ("000.png", lambda path: pixels(0).convert("RGBA").save(path)),
        ("000.gif", animated),
        ("000.webp", lambda path: pixels(0).save(path)),
    ],
)
def test_every_kind_of_picture_is_read(tmp_path: Path, name: str, save: Callable[[Path], None]) -> None:
    folder = pairs(tmp_path, 2)
    (folder / "images" / "000.png").unlink()
    save(folder / "images" / name)
    assert examine(folder, 64).problems == ()
    assert FolderDataset(folder, 64)[0].image.shape == (3, 64, 64)


def test_a_turned_picture_has_the_sides_that_are_seen(tmp_path: Path) -> None:
    folder = pairs(tmp_path, 2)
    turned(folder / "images" / "000.png")
    assert "hints/000.png (64 x 64 pixels)" in examine(folder, 64).problems[0]
    pixels(0, 128, 64).save(folder / "hints" / "000.png")
    report = examine(folder, 64)
    assert report.problems == () and "largest: 64 x 128 pixels" in report.text


@pytest.mark.parametrize("name", ["a b", "two.dots.v1", "\U0001f600", "naïve", "{0}", "%s", "-rf", "'\""])
def test_strange_names_are_paired(tmp_path: Path, name: str) -> None:
    composed, apart = unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name)
    for place in ("images", "hints", "captions"):
        (tmp_path / place).mkdir()
    pixels(0).save(tmp_path / "images" / f"{composed}.png")
    pixels(0).save(tmp_path / "hints" / f"{apart}.png")
    (tmp_path / "captions" / f"{apart}.txt").write_text("a caption", encoding="utf-8")
    report = examine(tmp_path, 64)
    assert (report.pairs, report.problems) == (1, ())
    assert FolderDataset(tmp_path, 64)[0].caption == "a caption"


def test_made_hints_need_only_pictures(tmp_path: Path) -> None:
    for number in range(2):
        pixels(number).save(tmp_path / f"{number}.png")
    (tmp_path / "0.txt").write_text("the first", encoding="utf-8")
    report = examine(tmp_path, 64, "canny")
    assert (report.pairs, report.problems) == (2, ())
    assert report.warnings[0].startswith("pictures without a caption (1): 1.png")
    (tmp_path / "images").mkdir()
    assert examine(tmp_path, 64, "grey").problems[0].startswith("no picture; put pictures there")


def test_progress_is_called_in_the_main_thread_and_may_raise(tmp_path: Path) -> None:
    folder = pairs(tmp_path)
    calls: list[tuple[int, int, bool]] = []

    def progress(done: int, total: int) -> None:
        calls.append((done, total, threading.current_thread() is threading.main_thread()))

    assert isinstance(examine(folder, 64, progress=progress), FolderReport)
    assert calls == [(done, 8, True) for done in range(1, 9)]

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        examine(folder, 64, progress=stop)


def test_impossible_arguments_are_errors(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="size 20"):
        examine(tmp_path, 20)
    with pytest.raises(DatasetError, match="hint 'depth'; expected one of files, canny, blur, grey"):
        examine(tmp_path, 64, "depth")  # type: ignore[arg-type]


def test_the_report_says_how_many_pairs_are_held_out(tmp_path: Path) -> None:
    for number in range(40):
        Image.new("RGB", (64, 64), (number, 0, 0)).save(tmp_path / f"{number}.png")
    assert "4 pairs are held out to measure the training" in examine(tmp_path, 64, "grey").facts
