"""The cache of encoded pairs: what stands in it, and what happens when it cannot be finished."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy
import pytest

from controlnet_core.data.cache import ABANDONED, encode_pairs
from controlnet_core.data.pairs import ShapesDataset
from controlnet_core.errors import RunFolderError
from tests.support.bases import small_base

PAIRS = ShapesDataset(40, 32, seed=3)


def test_what_is_encoded_once_is_read_back(tmp_path: Path) -> None:
    base, seen = small_base(), list[tuple[int, int]]()
    encode_pairs(base, PAIRS, tmp_path, lambda done, total: seen.append((done, total)))
    assert seen == [(16, 40), (32, 40), (40, 40)]
    pairs = encode_pairs(base, PAIRS, tmp_path, lambda done, total: pytest.fail("encoded again"))

    rows = [39, 0, 17]
    wanted = base.encode_images(PAIRS.images(rows))
    given = pairs.distribution(rows)
    for ours, theirs in ((given.mean, wanted.mean), (given.log_variance, wanted.log_variance)):
        worst = ((ours - theirs).abs().max() / theirs.abs().max()).item()
        assert worst <= 1e-3, f"float16 is off by {worst}"
    words = ["", *(PAIRS[row].caption for row in rows[1:])]
    text = pairs.text(rows, [True, False, False])
    worst = (text.context - base.encode_text(words, (32, 32)).context).abs().max().item()
    assert worst <= 1e-5, f"largest difference {worst}"


def test_a_cache_takes_no_room_that_it_has_not_written(tmp_path: Path) -> None:
    """A file that is longer than what was written has holes, and to fill them on a full disk ends a process."""
    sizes: list[int] = []

    def progress(done: int, total: int) -> None:
        sizes.append(next(tmp_path.glob("*.partial/latents.npy")).stat().st_size)

    encode_pairs(small_base(), ShapesDataset(400, 32, seed=3), tmp_path, progress)
    finished = next(tmp_path.glob("*/latents.npy"))
    assert sizes[0] < sizes[-1] <= finished.stat().st_size
    assert numpy.load(finished, mmap_mode="r").shape[0] == 400


@pytest.mark.skipif(os.name == "nt", reason="Windows has no limit on the size of files")
def test_a_cache_that_cannot_be_written_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    import resource

    base, (soft, hard) = small_base(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        with pytest.raises(RunFolderError, match="room for the cache"):
            encode_pairs(base, PAIRS, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())


def test_what_a_killed_process_left_is_swept_and_what_another_is_writing_is_not(tmp_path: Path) -> None:
    abandoned, fresh = tmp_path / ".a.1.partial", tmp_path / ".b.2.partial"
    for folder in (abandoned, fresh):
        folder.mkdir()
        (folder / "latents.npy").touch()
    long_ago = time.time() - 2 * ABANDONED
    os.utime(abandoned, (long_ago, long_ago))
    encode_pairs(small_base(), PAIRS, tmp_path)
    assert not abandoned.exists() and fresh.is_dir()
