"""Several processes fill one cache: nothing is encoded twice, and one that dies holds up nobody."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch

from controlnet_core.data import filling
from controlnet_core.data.cache import ABANDONED, encode_dataset
from controlnet_core.data.filling import Filling
from controlnet_core.data.shard_file import Record
from controlnet_core.data.shards import Shards
from controlnet_core.errors import CheckpointError, WriteError
from controlnet_core.keyed import digest
from tests.core.test_shards import keys
from tests.support.bases import small_base
from tests.support.encode_small import PAIRS, picture_name

ROOT = Path(__file__).parents[2]
ROWS = range(len(PAIRS))
Process = subprocess.Popen[str]


def start(cache: Path, go: Path, *arguments: str) -> Process:
    """A process that is ready to encode and waits for `go`."""
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "tests" / "support" / "encode_small.py"), str(cache), str(go), *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


def encoded_by(process: Process) -> Counter[str]:
    """What a process encoded, once it has ended well."""
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    return Counter(f"{line.split()[0]} {name}" for line in output.splitlines() for name in line.split()[1:])


def everything() -> Counter[str]:
    """What there is to encode, each once."""
    captions = dict.fromkeys(["", *PAIRS.captions(ROWS)])
    names = [f"pictures {picture_name(image)}" for image in PAIRS.images(ROWS)]
    return Counter([*names, *(f"captions {digest(caption)}" for caption in captions)])


def assert_complete(cache: Path) -> None:
    """A cache holds all pairs, as one process alone encodes them, and no claim or unfinished file is left."""
    told: list[int] = []
    both = [encode_dataset(small_base(), PAIRS, cache, lambda done, total: told.append(done))]
    both.append(encode_dataset(small_base(), PAIRS, cache.with_name("alone")))
    assert not told, "something was missing"
    for found, wanted in (
        (both[0].latents.read(ROWS), both[1].latents.read(ROWS)),
        (both[0].texts.read(range(len(PAIRS) + 1)), both[1].texts.read(range(len(PAIRS) + 1))),
    ):
        for one, other in zip(found, wanted, strict=True):
            assert all(np.array_equal(one[name], other[name]) for name in other), "other bits"
    assert not [path for path in cache.rglob(".*") if path.is_file()]


def test_four_processes_encode_everything_once(tmp_path: Path) -> None:
    cache, go = tmp_path / "cache", tmp_path / "go"
    processes = [start(cache, go) for _ in range(4)]
    go.touch()
    done = [encoded_by(process) for process in processes]
    print("\nrecords encoded by each:", [one.total() for one in done])
    assert sum(done, Counter()) == everything()
    assert all(done), "one did nothing"
    assert_complete(cache)


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_what_a_killed_process_had_claimed_is_encoded_by_another(tmp_path: Path) -> None:
    cache, go = tmp_path / "cache", tmp_path / "go"
    go.touch()
    hung = start(cache, go, "2")
    assert hung.stdout is not None
    claimed = [name for _ in range(3) for name in hung.stdout.readline().split()[1:]]
    other = start(cache, go)
    seen: list[str] = []
    assert other.stdout is not None
    while len(seen) < everything().total() - len(claimed):  # and now it can only wait
        seen += other.stdout.readline().split()[1:]
    assert len(claimed) == 48 and not set(claimed) & set(seen)
    time.sleep(0.5)
    assert other.poll() is None, "it did not wait"
    hung.kill()
    hung.communicate()
    rest = encoded_by(other)
    assert rest == Counter(f"pictures {name}" for name in claimed)
    assert_complete(cache)


def test_two_threads_encode_everything_once(tmp_path: Path) -> None:
    folder, parts = tmp_path, [Numbers(tmp_path, 100) for _ in range(2)]
    threads = [Thread(target=Filling(folder, [part], lambda *counts: None).run) for part in parts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(parts[0].encoded + parts[1].encoded) == list(range(100))
    assert not list(tmp_path.glob(".*"))


@dataclass(eq=False)
class Numbers:
    """Records that hold their own number, 4 in a batch."""

    folder: Path
    count: int
    batch: int = 4
    wrong: int = -1
    seconds: float = 0.0
    encoded: list[int] = field(default_factory=list)
    batches: list[list[int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.shards = Shards(self.folder / "numbers", keys(*range(self.count)))

    def encode(self, indices: Sequence[int]) -> list[Record]:
        """Encode; the wrong number is refused."""
        if self.wrong in indices:
            raise CheckpointError("a wrong number", "another", "use another")
        time.sleep(self.seconds)
        self.encoded += indices
        self.batches.append(list(indices))
        return [{"number": np.array([index], np.uint32)} for index in indices]

    def fill(self, stop_at: int = -1) -> list[tuple[int, int]]:
        """Encode what is missing, until so many are done; what was told of it."""
        told: list[tuple[int, int]] = []

        def progress(done: int, total: int) -> None:
            told.append((done, total))
            if done == stop_at:
                raise KeyboardInterrupt

        with suppress(KeyboardInterrupt):
            Filling(self.folder, [self], progress).run()
        return told


def on_disk(folder: Path, count: int = 100) -> int:
    return Numbers(folder, count).shards.found


def test_an_interruption_keeps_what_is_encoded(tmp_path: Path) -> None:
    assert Numbers(tmp_path, 100).fill(stop_at=24)[-1] == (24, 100)
    assert on_disk(tmp_path) == 24 and not list(tmp_path.glob(".*"))
    again = Numbers(tmp_path, 100)
    assert again.fill()[0] == (28, 100)
    assert again.encoded == list(range(24, 100)) and {len(batch) for batch in again.batches} == {4}
    assert [int(record["number"][0]) for record in again.shards.read(range(100))] == list(range(100))


def test_claims_are_given_up_when_what_an_interruption_leaves_cannot_be_written(tmp_path: Path) -> None:
    part = Numbers(tmp_path, 100)

    def progress(done: int, total: int) -> None:
        (tmp_path / "numbers").touch()  # no folder can be made there any more
        raise KeyboardInterrupt

    held = Filling(tmp_path, [part], progress)
    with pytest.raises(WriteError, match="numbers"):
        held.run()
    (tmp_path / "numbers").unlink()
    assert not list(tmp_path.iterdir())
    assert Numbers(tmp_path, 100).fill()[-1] == (100, 100)


def test_what_is_refused_is_not_kept(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="wrong number"):
        Numbers(tmp_path, 100, wrong=31).fill()
    assert on_disk(tmp_path) == 0 and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("limit", "value", "shards"), [("MOST_CLAIMS", 2, 6), ("MOST_BYTES", 4 * 40, 3), ("MOST_SECONDS", 0.0, 25)]
)
def test_much_is_written_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, value: float, shards: int
) -> None:
    monkeypatch.setattr(filling, limit, value)
    part = Numbers(tmp_path, 100)
    counts: list[int] = []

    def progress(done: int, total: int) -> None:
        counts.append(on_disk(tmp_path))

    Filling(tmp_path, [part], progress).run()
    assert len(list((tmp_path / "numbers").iterdir())) == shards
    assert counts == sorted(counts) and counts[-1] > 0 and on_disk(tmp_path) == 100
    assert part.encoded == list(range(100)) and not list(tmp_path.glob(".*"))


def test_only_the_missing_part_of_a_batch_is_encoded(tmp_path: Path) -> None:
    Numbers(tmp_path, 10).fill()
    more = Numbers(tmp_path, 13)
    assert more.fill() == [(12, 13), (13, 13)] and more.batches == [[10, 11], [12]]


def test_claims_and_files_of_dead_processes_are_removed_and_those_of_others_are_not(tmp_path: Path) -> None:
    names = (".a.lock", ".b.1.partial", "hints/.c.2.partial")
    for age in ("old", "fresh"):
        for name in names:
            path = (tmp_path / name).with_name(f".{age}{Path(name).name}")
            path.parent.mkdir(exist_ok=True)
            path.touch()
            if age == "old":
                os.utime(path, (time.time() - 2 * ABANDONED,) * 2)
    encode_dataset(small_base(), PAIRS, tmp_path)
    left = {path.name for path in tmp_path.rglob(".*")}
    assert left == {".fresh.a.lock", ".fresh.b.1.partial", ".fresh.c.2.partial"}
    assert torch.isfinite(encode_dataset(small_base(), PAIRS, tmp_path).distribution([0]).mean).all()
