"""Files of the cache: what is written is read back bit for bit, and a damaged file is named and never believed."""

from __future__ import annotations

import hashlib
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from controlnet_core.data import shard_file
from controlnet_core.data.shard_file import KEY, Record, Shard
from controlnet_core.data.shards import CacheWarning, Shards
from controlnet_core.errors import DatasetError, WriteError

Damage = Callable[[Path], None]


def keys(*names: object) -> NDArray[np.bytes_]:
    return np.frombuffer(b"".join(hashlib.blake2b(repr(name).encode(), digest_size=16).digest() for name in names), KEY)


def record(seed: int, dtype: str = "float16", shape: tuple[int, ...] = (2, 3)) -> Record:
    values = np.random.default_rng(seed).integers(0, 200, shape)
    return {"latents": values.astype(dtype), "vector": values[0].astype("float32") / 7}


def same(one: Record, other: Record) -> bool:
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and np.array_equal(one[name], other[name]) for name in one
    )


def three(folder: Path) -> Path:
    """A shard of three records; its path."""
    Shards(folder, keys("a", "b", "c")).write([0, 1, 2], [record(0), record(1), record(2)])
    (path,) = folder.iterdir()
    return path


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    written = Shards(tmp_path, keys("a", "b", "a", "c", "d"))
    assert written.firsts.tolist() == [0, 1, 3, 4] and written.found == 0
    written.write([1, 0], [record(1), record(0)])
    written.write([3], [record(2)])
    read = Shards(tmp_path, keys("c", "unknown", "a", "b", "a"))
    for found, wanted in zip(read.read([3, 0, 4, 2]), (1, 2, 0, 0), strict=True):
        assert same(found, record(wanted))
    assert read.missing(np.arange(5)) == [1] and read.found == 3
    assert written.missing(np.arange(5)) == [4] and len(list(tmp_path.iterdir())) == 2


def test_records_of_several_kinds_are_written_together(tmp_path: Path) -> None:
    kinds = [record(0), record(1, "uint8"), record(2, "uint16", (4, 3)), record(3, "float32"), record(4, "uint8")]
    for _ in range(2):
        records = Shards(tmp_path, keys(*range(5)))
        if not records.found:
            records.write(range(5), kinds)
        assert all(same(found, wanted) for found, wanted in zip(records.read(range(5)), kinds, strict=True))
    assert len(list(tmp_path.iterdir())) == 4


def test_another_process_sees_what_is_written(tmp_path: Path) -> None:
    mine, other = (Shards(tmp_path, keys("a", "b")) for _ in range(2))
    other.write([1], [record(1)])
    assert mine.missing(np.arange(2)) == [0, 1]
    mine.refresh()
    assert mine.missing(np.arange(2)) == [0] and same(mine.read([1])[0], record(1))


def test_a_shard_is_a_safetensors_file(tmp_path: Path) -> None:
    content = load_file(three(tmp_path))
    assert np.array_equal(content["latents"], np.stack([record(seed)["latents"] for seed in range(3)]))


def test_no_file_is_kept_open(tmp_path: Path) -> None:
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("the system does not list open files")
    three(tmp_path)
    before = len(list(Path("/proc/self/fd").iterdir()))
    records = Shards(tmp_path, keys("a", "b"))
    records.read([0, 1])
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def cut(share: float) -> Damage:
    return lambda path: os.truncate(path, int(share * path.stat().st_size))


def appended(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def zeroed(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def without_metadata(path: Path) -> None:
    save_file(load_file(path), path)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (cut(0.99), "cut off"),
        (cut(0.5), "cut off|without an index"),
        (cut(0.01), "without an index"),
        (appended, "longer than it was"),
        (emptied, "without an index"),
        (zeroed, "without an index"),
        (without_metadata, "without an index"),
    ],
)
def test_a_damaged_shard_is_named_and_written_again(tmp_path: Path, damage: Damage, reason: str) -> None:
    path = three(tmp_path)
    damage(path)
    with pytest.warns(CacheWarning, match=rf"damaged: {path.name} \(({reason}).*encoded again"):
        records = Shards(tmp_path, keys("a", "b", "c"))
    assert records.missing(np.arange(3)) == [0, 1, 2] and not path.exists()
    records.write([0, 1, 2], [record(0), record(1), record(2)])
    assert path.exists() and same(records.read([2])[0], record(2)), "the same name is used again"


def test_no_changed_byte_is_believed(tmp_path: Path) -> None:
    path, wanted = three(tmp_path), [record(0), record(1), record(2)]
    sound, damaged = path.read_bytes(), 0
    for place in range(len(sound)):
        path.write_bytes(sound[:place] + bytes([sound[place] ^ 4]) + sound[place + 1 :])
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            records = Shards(tmp_path, keys("a", "b", "c"))
        missing = records.missing(np.arange(3))
        assert bool(told) == bool(missing), f"byte {place}"
        if not missing:
            assert all(map(same, records.read([0, 1, 2]), wanted)), f"byte {place}"
        damaged += bool(missing)
    assert damaged > 0.9 * len(sound), "only the padding of the header may be changed"


def test_a_record_that_decays_unseen_is_named_when_it_is_read(tmp_path: Path) -> None:
    path = three(tmp_path)
    time, content = path.stat().st_mtime_ns, bytearray(path.read_bytes())
    place = content.index(record(1)["latents"].tobytes())
    content[place] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(time, time))
    records = Shards(tmp_path, keys("a", "b", "c"))
    assert same(records.read([0])[0], record(0))
    with pytest.raises(DatasetError, match=rf"{path.name} \(a record of another checksum\).*start again"):
        records.read([0, 1])
    assert Shards(tmp_path, keys("b")).missing(np.arange(1)) == [0], "it is encoded again"


def test_a_shard_that_is_gone_is_named_when_it_is_read(tmp_path: Path) -> None:
    path = three(tmp_path)
    records = Shards(tmp_path, keys("a"))
    path.unlink()
    with pytest.raises(DatasetError, match=rf"{path.name} \(cannot be read"):
        records.read([0])
    with pytest.raises(KeyError, match="no record"):
        Shards(tmp_path, keys("a")).read([0])


def test_a_copied_shard_is_read_through_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = three(tmp_path)
    os.utime(path)
    whole: list[Path] = []
    check = Shard.check

    def counted(shard: Shard) -> None:
        whole.append(shard.path)
        check(shard)

    monkeypatch.setattr(Shard, "check", counted)
    Shards(tmp_path, keys("unknown"))
    assert not whole, "what is not wanted is not read"
    for _ in range(2):
        assert same(Shards(tmp_path, keys("c")).read([0])[0], record(2))
        assert whole == [path]


def test_a_shard_of_another_format_is_named_and_left_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(shard_file, "FORMAT", 99)
        path = three(tmp_path)
    with pytest.warns(CacheWarning, match=rf"another format and not used: {path.name} \(format 99\).*delete them if"):
        records = Shards(tmp_path, keys("a", "b", "c"))
    assert records.found == 0 and path.exists()
    records.write([0, 1, 2], [record(3), record(4), record(5)])
    assert same(records.read([0])[0], record(3)) and len(list(tmp_path.iterdir())) == 2


def test_a_shard_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    # The limit stands for a full disk, which a test cannot make; Windows has no module `resource`.
    if sys.platform == "win32":
        pytest.skip("Windows has no limit on the size of files")
    import resource

    records, (soft, hard) = Shards(tmp_path / "shards", keys("a")), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, hard))
    try:
        with pytest.raises(WriteError, match="a disk with room"):
            records.write([0], [record(0)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert records.found == 0 and not list((tmp_path / "shards").iterdir())
