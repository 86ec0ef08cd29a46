"""The cache of encoded pairs: what it holds, what a change of the data encodes again, and what interruptions leave."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from controlnet_core.base import Base, TextEmbeddings
from controlnet_core.data.cache import EncodedDataset, encode_dataset
from controlnet_core.data.dataset import PairDataset
from controlnet_core.data.folder.folder_dataset import FolderDataset
from controlnet_core.data.held_out import Subset
from controlnet_core.data.in_memory import InMemoryDataset
from controlnet_core.data.shards import CacheWarning
from controlnet_core.data.shuffled import ShuffledHints
from controlnet_core.errors import CheckpointError, WriteError
from controlnet_core.model.autoencoder import LatentDistribution
from controlnet_core.pictures import read
from controlnet_core.toy.shapes_dataset import ShapesDataset
from tests.support.bases import SmallBase, small_base

PAIRS = ShapesDataset(40, 32, seed=3)
CAPTIONS = len({"", *PAIRS.captions(range(40))})
TOTAL = 40 + CAPTIONS


@dataclass(frozen=True, eq=False)
class Counting(SmallBase):
    """A base that notes how many pictures are in each batch, and which captions it encodes."""

    pictures: list[int] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)
    scale: float = 1.0
    vectors: int | None = None

    def encode_images(self, images: Tensor) -> LatentDistribution:
        """Encode."""
        self.pictures.append(len(images))
        return super().encode_images(images)

    def encode_text(self, prompts: Sequence[str], size: tuple[int, int]) -> TextEmbeddings:
        """Encode, with vectors that depend on the size if there are any."""
        self.captions.extend(prompts)
        text = super().encode_text(prompts, size).context * self.scale
        vector = None if self.vectors is None else torch.full((len(prompts), self.vectors), size[0] / 3e5)
        return TextEmbeddings(text, vector)


def counting(base: Base | None = None, **changes: object) -> Counting:
    return Counting(**{**vars(base or small_base()), **changes})


def encoded(dataset: PairDataset, folder: Path, base: Counting | None = None) -> tuple[int, int]:
    """Fill the cache of a dataset; how many pictures and how many captions were encoded."""
    base = base or counting()
    before = sum(base.pictures), len(base.captions)
    encode_dataset(base, dataset, folder)
    return sum(base.pictures) - before[0], len(base.captions) - before[1]


def difference(one: EncodedDataset, other: EncodedDataset, rows: Sequence[int]) -> float:
    """The largest difference of what two caches hold of some pairs."""
    kept = [False] * len(rows)
    pairs = [(encoded.distribution(rows), encoded.text(rows, kept)) for encoded in (one, other)]
    values = [(latents.mean, latents.log_variance, text.context) for latents, text in pairs]
    return max(float((a - b).abs().max()) for a, b in zip(*values, strict=True))


def test_what_is_encoded_once_is_read_back(tmp_path: Path) -> None:
    base, seen = counting(), list[tuple[int, int]]()
    encode_dataset(base, PAIRS, tmp_path, lambda done, total: seen.append((done, total)))
    captions = [min(40 + 16 * number, TOTAL) for number in range(1, 2 + (CAPTIONS - 1) // 16)]
    assert seen == [(done, TOTAL) for done in (16, 32, 40, *captions)], "pictures and captions are told together"
    assert base.pictures == [16, 16, 8] and sorted(base.captions) == sorted({"", *PAIRS.captions(range(40))})
    pairs = encode_dataset(base, PAIRS, tmp_path, lambda done, total: pytest.fail("encoded again"))
    assert pairs.latent_shape == (4, 4, 4) and pairs.hints([0]) is None

    rows = [39, 0, 17]
    wanted = base.encode_images(PAIRS.images(rows))
    given = pairs.distribution(rows)
    for ours, theirs in ((given.mean, wanted.mean), (given.log_variance, wanted.log_variance)):
        worst = ((ours - theirs).abs().max() / theirs.abs().max()).item()
        assert worst <= 1e-3, f"float16 is off by {worst}"
    captions_of_rows = ["", *(PAIRS[row].caption for row in rows[1:])]
    text = pairs.text(rows, [True, False, False])
    assert text.context.dtype == torch.float32
    assert torch.equal(text.context, base.encode_text(captions_of_rows, (32, 32)).context.half().float())


def test_latents_are_bit_for_bit_those_of_whole_batches(tmp_path: Path) -> None:
    pairs, base = encode_dataset(small_base(), PAIRS, tmp_path), small_base()
    for start in (0, 16, 32):
        rows = range(start, min(start + 16, 40))
        given, wanted = pairs.distribution(rows), base.encode_images(PAIRS.images(rows))
        assert torch.equal(given.mean, wanted.mean.half().float())
        assert torch.equal(given.log_variance, wanted.log_variance.half().float())


@pytest.mark.parametrize("done", [16, 40, 56])
def test_an_interrupted_encoding_resumes(tmp_path: Path, done: int) -> None:
    def stop(count: int, total: int) -> None:
        if count == done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode_dataset(small_base(), PAIRS, tmp_path / "cache", stop)
    base, seen = counting(), list[int]()
    resumed = encode_dataset(base, PAIRS, tmp_path / "cache", lambda done, total: seen.append(done))
    assert seen[0] > done and sum(base.pictures) + len(base.captions) == TOTAL - done
    whole = encode_dataset(small_base(), PAIRS, tmp_path / "whole")
    assert difference(resumed, whole, range(40)) == 0
    assert not list((tmp_path / "cache").glob(".*")), "a claim is left"


def test_more_pairs_encode_only_the_new_ones(tmp_path: Path) -> None:
    assert encoded(PAIRS, tmp_path) == (40, CAPTIONS)
    longer = replace(PAIRS, count=43)
    new = set(longer.captions(range(43))) - set(PAIRS.captions(range(40)))
    assert encoded(longer, tmp_path) == (3, len(new))
    assert encoded(Subset(longer, [42, 3, 7]), tmp_path) == (0, 0)


def test_another_kind_of_hint_encodes_nothing(tmp_path: Path) -> None:
    encoded(PAIRS, tmp_path)
    assert encoded(replace(PAIRS, hint="colour_map"), tmp_path) == (0, 0)
    assert encoded(ShuffledHints(PAIRS, seed=0), tmp_path) == (0, 0)
    assert encoded(replace(PAIRS, size=40), tmp_path)[0] == 40, "another size is other pictures"


def test_equal_pictures_and_captions_are_encoded_once(tmp_path: Path) -> None:
    images = PAIRS.images(range(3))
    twice = InMemoryDataset(images[[0, 1, 0, 2, 1]], images[[2, 2, 2, 1, 1]], ["a", "b", "a", "", "b"])
    base = counting()
    assert encoded(twice, tmp_path, base) == (3, 3) and base.pictures == [3]
    pairs = encode_dataset(base, twice, tmp_path)
    mean = pairs.distribution(range(5)).mean
    assert torch.equal(mean[[0, 1]], mean[[2, 4]]) and not torch.equal(mean[0], mean[3])
    assert encoded(InMemoryDataset(images[[2]], images[[0]], "b"), tmp_path) == (0, 0)


def test_bases_share_an_autoencoder_and_keep_their_texts_apart(tmp_path: Path) -> None:
    encoded(PAIRS, tmp_path)
    assert encoded(PAIRS, tmp_path, counting(fingerprint="another base")) == (0, CAPTIONS)
    assert encoded(PAIRS, tmp_path, counting(small_base(seed=5), fingerprint="small random base 0")) == (40, 0)
    half = counting(small_base().to(dtype=torch.float16))
    assert encoded(PAIRS, tmp_path, half) == (0, CAPTIONS), "the autoencoder keeps its dtype"
    family = replace(small_base().family, autoencoder=replace(small_base().family.autoencoder, latent_scale=1.0))
    assert encoded(PAIRS, tmp_path, counting(family=family)) == (40, 0)


def test_a_vector_condition_is_kept_exactly_and_for_each_size(tmp_path: Path) -> None:
    family = small_base().family
    base = counting(family=replace(family, unet=replace(family.unet, vector_dim=7)), vectors=7)
    encoded(PAIRS, tmp_path, base)
    text = encode_dataset(base, PAIRS, tmp_path).text([0, 1], [False, True])
    assert text.y is not None and torch.equal(text.y, torch.full((2, 7), 32 / 3e5)), "float32"
    assert encoded(replace(PAIRS, size=40), tmp_path, base) == (40, CAPTIONS), "the text is told the size"
    encoded(PAIRS, tmp_path)
    assert encoded(replace(PAIRS, size=40), tmp_path) == (0, 0), "other texts are not"


def test_a_context_that_float16_cannot_hold_is_refused(tmp_path: Path) -> None:
    assert encoded(PAIRS, tmp_path / "large", counting(scale=1e4))[1] == CAPTIONS
    with pytest.raises(CheckpointError, match=r"embedding of the caption '.*' that is not finite in float16"):
        encoded(PAIRS, tmp_path / "too large", counting(scale=1e5))
    assert not list((tmp_path / "too large").iterdir())


def folder_of(path: Path, side: int = 64) -> Path:
    """Five pairs: hints of 8 bits, and at last one of 16 bits and one of floats."""
    rng = np.random.default_rng(0)
    for place in ("images", "hints"):
        (path / place).mkdir(parents=True)
        for number in range(5):
            name = path / place / f"{number}.png"
            Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(name)
            name.with_suffix(".txt").write_text(f"caption {number}")
    deep = rng.integers(0, 2**16, (side, side), dtype=np.uint16)
    Image.fromarray(deep).save(path / "hints" / "3.png")
    (path / "hints" / "4.png").unlink()
    Image.fromarray(rng.random((side, side), dtype=np.float32)).save(path / "hints" / "4.tiff")
    return path


@pytest.mark.parametrize("size", [64, 32])
@pytest.mark.parametrize("hint", ["files", "blur", "grey", "canny"])
def test_kept_hints_are_those_of_the_dataset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, hint: str
) -> None:
    dataset = FolderDataset(folder_of(tmp_path / "data"), size, hint)  # type: ignore[arg-type]
    wanted, alone = dataset.hints(range(5)), [dataset[row].hint for row in range(5)]
    encode_dataset(small_base(), dataset, tmp_path / "cache")
    kept = encode_dataset(small_base(), dataset, tmp_path / "cache")
    monkeypatch.setattr(read, "open_picture", lambda path: pytest.fail(f"{path} is decoded"))
    found = kept.hints([4, 0, 3, 1, 2])
    assert found is not None and torch.equal(found, wanted[[4, 0, 3, 1, 2]]) and torch.equal(torch.stack(alone), wanted)
    assert kept.kept_hints is not None
    dtypes = [str(record["hint"].dtype) for record in kept.kept_hints.read(range(5))]
    assert dtypes == (["uint8"] * 3 + ["uint16", "float32"] if hint == "files" else ["uint8"] * 5)


def test_a_folder_encodes_only_what_changed(tmp_path: Path) -> None:
    data, cache = folder_of(tmp_path / "data"), tmp_path / "cache"
    assert encoded(FolderDataset(data, 32), cache) == (5, 6)
    before = sorted((cache / "hints").iterdir())
    moved = Path(shutil.copytree(data, tmp_path / "moved"))
    os.utime(moved / "images" / "0.png")
    assert encoded(FolderDataset(moved, 32), cache) == (0, 0), "a path and a time are no content"
    assert sorted((cache / "hints").iterdir()) == before

    Image.new("RGB", (64, 64), "red").save(moved / "hints" / "1.png")
    assert encoded(FolderDataset(moved, 32), cache) == (0, 0), "another hint"
    assert len(list((cache / "hints").iterdir())) == len(before) + 1
    for place in ("images", "hints"):
        Image.new("RGB", (64, 64), "blue").save(moved / place / "5.png")
    (moved / "images" / "5.txt").write_text("caption 0")
    assert encoded(FolderDataset(moved, 32), cache) == (1, 0), "another pair, of a known caption"
    assert encoded(FolderDataset(moved, 32, "grey"), cache) == (0, 0), "another kind of hint"
    (moved / "images" / "2.txt").write_text("another caption")
    assert encoded(FolderDataset(moved, 32), cache) == (0, 1)
    assert encoded(FolderDataset(moved, 64), cache) == (6, 0), "another size"


def test_a_damaged_file_is_named_and_what_it_held_is_encoded_again(tmp_path: Path) -> None:
    whole = encode_dataset(small_base(), PAIRS, tmp_path)
    latents, texts = (next(tmp_path.glob(f"{kind}-*/*")) for kind in ("latents", "texts"))
    os.truncate(latents, latents.stat().st_size - 1)
    content = bytearray(texts.read_bytes())
    content[-100] ^= 1
    texts.write_bytes(content)
    base = counting()
    with pytest.warns(CacheWarning) as told:
        again = encode_dataset(base, PAIRS, tmp_path)
    assert [latents.name in str(told[0].message), texts.name in str(told[1].message)] == [True, True]
    assert sum(base.pictures) == 40 and len(base.captions) == CAPTIONS
    assert difference(again, whole, range(40)) == 0


def test_caches_of_earlier_versions_are_named(tmp_path: Path) -> None:
    (tmp_path / "0123456789ab").mkdir()
    (tmp_path / "0123456789ab" / "latents.npy").touch()
    with pytest.warns(CacheWarning, match="another format and are not used: delete 0123456789ab"):
        encode_dataset(small_base(), PAIRS, tmp_path)


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
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
