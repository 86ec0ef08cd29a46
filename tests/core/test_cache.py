"""The cache of encoded pairs: what it holds, and what happens when it cannot be finished."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from threading import Thread

import numpy
import pytest

from controlnet_core.data.cache import ABANDONED, encode_dataset
from controlnet_core.errors import WriteError
from controlnet_core.toy.shapes_dataset import ShapesDataset
from tests.support.bases import small_base

PAIRS = ShapesDataset(40, 32, seed=3)


def test_what_is_encoded_once_is_read_back(tmp_path: Path) -> None:
    base, seen = small_base(), list[tuple[int, int]]()
    encode_dataset(base, PAIRS, tmp_path, lambda done, total: seen.append((done, total)))
    assert seen == [(16, 40), (32, 40), (40, 40)]
    pairs = encode_dataset(base, PAIRS, tmp_path, lambda done, total: pytest.fail("encoded again"))

    rows = [39, 0, 17]
    wanted = base.encode_images(PAIRS.images(rows))
    given = pairs.distribution(rows)
    for ours, theirs in ((given.mean, wanted.mean), (given.log_variance, wanted.log_variance)):
        worst = ((ours - theirs).abs().max() / theirs.abs().max()).item()
        assert worst <= 1e-3, f"float16 is off by {worst}"
    captions = ["", *(PAIRS[row].caption for row in rows[1:])]
    text = pairs.text(rows, [True, False, False])
    worst = (text.context - base.encode_text(captions, (32, 32)).context).abs().max().item()
    assert worst <= 1e-5, f"largest difference {worst}"


def contents(folder: Path) -> dict[str, bytes]:
    """The files of the only cache in a folder."""
    (cache,) = [path for path in folder.iterdir() if not path.name.startswith(".")]
    return {path.name: path.read_bytes() for path in cache.iterdir()}


def interrupted_at(count: int, folder: Path) -> None:
    """Encode until `count` pairs are done."""

    def stop(done: int, total: int) -> None:
        if done == count:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode_dataset(small_base(), PAIRS, folder, stop)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a cache that was written in one go."""
    folder = tmp_path_factory.mktemp("whole")
    encode_dataset(small_base(), PAIRS, folder)
    return contents(folder)


@pytest.mark.parametrize(
    ("done", "cut", "left"),
    [
        (16, "nothing", [32, 40]),
        (40, "nothing", [40]),
        (32, "a row and a half", [40]),
        (32, "half a caption", [40]),
        (32, "the header", [16, 32, 40]),
        (32, "no caption", [16, 32, 40]),
    ],
)
def test_an_interrupted_encoding_resumes(
    whole: dict[str, bytes], tmp_path: Path, done: int, cut: str, left: list[int]
) -> None:
    interrupted_at(done, tmp_path)
    (partial,) = tmp_path.glob(".*.partial")
    latents, captions = partial / "latents.npy", partial / "captions.jsonl"
    if cut == "a row and a half":  # written by a process that was killed before it wrote the captions
        latents.write_bytes(latents.read_bytes() + bytes(3 * latents.stat().st_size // (2 * done)))
    elif cut == "half a caption":
        captions.write_text(captions.read_text() + '"a red')
    elif cut == "the header":
        latents.write_bytes(latents.read_bytes()[:7])
    elif cut == "no caption":
        captions.unlink()
    seen: list[int] = []
    encode_dataset(small_base(), PAIRS, tmp_path, lambda done, total: seen.append(done))
    assert seen == left
    assert contents(tmp_path) == whole
    assert len(list(tmp_path.iterdir())) == 1, "lock and unfinished cache are gone"


def test_two_processes_do_not_encode_the_same(tmp_path: Path) -> None:
    seen: list[tuple[str, int]] = []

    def encode(name: str) -> None:
        encode_dataset(small_base(), PAIRS, tmp_path, lambda done, total: seen.append((name, done)))

    threads = [Thread(target=encode, args=(name,)) for name in ("first", "second")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(done for _, done in seen if done) == [16, 32, 40]
    assert len(contents(tmp_path)["caption_rows.json"]) > 0 and len(list(tmp_path.iterdir())) == 1


def test_a_cache_takes_no_space_that_it_has_not_written(tmp_path: Path) -> None:
    """A file that is longer than what was written has holes, and filling them on a full disk ends the process."""
    sizes: list[int] = []

    def progress(done: int, total: int) -> None:
        sizes.append(next(tmp_path.glob("*.partial/latents.npy")).stat().st_size)

    encode_dataset(small_base(), ShapesDataset(400, 32, seed=3), tmp_path, progress)
    finished = next(tmp_path.glob("*/latents.npy"))
    assert sizes[0] < sizes[-1] <= finished.stat().st_size
    assert numpy.load(finished, mmap_mode="r").shape[0] == 400


def test_a_cache_that_cannot_be_written_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    # The limit stands for a full disk, which a test cannot make; Windows has no module `resource`.
    if sys.platform == "win32":
        pytest.skip("Windows has no limit on the size of files")
    import resource

    base, (soft, hard) = small_base(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        with pytest.raises(WriteError, match="a disk with room"):
            encode_dataset(base, PAIRS, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())


def test_an_abandoned_cache_is_removed_and_one_that_is_being_written_is_not(tmp_path: Path) -> None:
    abandoned, fresh = tmp_path / ".a.1.partial", tmp_path / ".b.2.partial"
    for folder in (abandoned, fresh):
        folder.mkdir()
        (folder / "latents.npy").touch()
    long_ago = time.time() - 2 * ABANDONED
    os.utime(abandoned, (long_ago, long_ago))
    encode_dataset(small_base(), PAIRS, tmp_path)
    assert not abandoned.exists() and fresh.is_dir()
