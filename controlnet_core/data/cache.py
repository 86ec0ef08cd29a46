"""Latents, text embeddings and hints, each computed once and kept on disk, named by its own content.

So another picture encodes one picture, another kind of hint encodes none, and two datasets share what they have in
common. What is kept lies in a folder for each autoencoder, one for each base and dtype of its texts, and one for hints.
"""

from __future__ import annotations

import hashlib
import shutil
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..base import Base, TextEmbeddings, pictures_at_once
from ..errors import CheckpointError
from ..keyed import add_weights, digest
from ..model.autoencoder import LatentDistribution
from .dataset import Content, PairDataset, Progress
from .filling import BLOCK, Filling
from .levels import packed, unpacked
from .shard_file import KEY, Record
from .shards import CacheWarning, Shards

NAMED_AT_ONCE = 1024
"""Pairs whose parts are named at once."""
ABANDONED = 24 * 3600
"""Seconds after which an unfinished file was left by a process that is dead."""


@dataclass(frozen=True, eq=False)
class EncodedDataset:
    """The encoded pairs of a dataset, read from disk when needed, and by several threads if need be.

    Attributes:
        latents: For each pair "latents", mean and log-variance, (2, C, h, w), float16.
        texts: First for the empty caption, then for that of each pair, "context", (L, context_dim), float16, and for
            families with a vector condition "vector", (vector_dim,), float32.
        kept_hints: For each pair "hint", (C, H, W), in as many bits as it needs; None if the dataset has them at hand.
    """

    latents: Shards
    texts: Shards
    kept_hints: Shards | None

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """(C, h, w)."""
        return self.latents.read([0])[0]["latents"].shape[1:]

    def distribution(self, pairs: Sequence[int]) -> LatentDistribution:
        """The latent distributions of some pairs, float32 on the CPU; raises DatasetError if one is damaged."""
        mean, log_variance = _stacked(self.latents.read(pairs), "latents").unbind(1)
        return LatentDistribution(mean, log_variance)

    def text(self, pairs: Sequence[int], dropped: Sequence[bool]) -> TextEmbeddings:
        """The embedded captions of some pairs, float32 on the CPU; the empty caption where the prompt is dropped.

        Raises:
            DatasetError: If one is damaged.
        """
        records = self.texts.read([0 if drop else pair + 1 for pair, drop in zip(pairs, dropped, strict=True)])
        vectors = _stacked(records, "vector") if "vector" in records[0] else None
        return TextEmbeddings(_stacked(records, "context"), vectors)

    def hints(self, pairs: Sequence[int]) -> Tensor | None:
        """The kept hints of some pairs, (B, C, H, W) in [0, 1], as the dataset gives them; None if none are kept.

        Raises:
            DatasetError: If one is damaged.
        """
        if self.kept_hints is None:
            return None
        return torch.stack([unpacked(record["hint"]) for record in self.kept_hints.read(pairs)])


def encode_dataset(base: Base, dataset: PairDataset, folder: Path, progress: Progress | None = None) -> EncodedDataset:
    """Encode with a base what is not yet in the cache of a dataset. Several processes may do so at once.

    Arguments:
        base: Its autoencoder and text encoders.
        dataset: The pairs.
        folder: The folder of the cache.
        progress: Told how many pictures, captions and hints are encoded, of how many; each counts once, however many
            pairs it is in. It is not called if nothing is missing. If it raises, what is encoded so far is kept.

    Raises:
        CheckpointError: If the base encodes a pair to numbers that are not finite; it is not kept.
        DatasetError: If a picture or a hint cannot be read.
        WriteError: If the folder cannot be written.
    """
    names = _Names.of(dataset)
    height, width = dataset.images([0]).shape[-2:]
    size = (height, width)
    latents = _Latents(base, dataset, folder, names.pictures, size)
    texts = _Texts(base, dataset, folder, names.captions, size)
    hints = None if names.hints is None else _Hints(dataset, folder, names.hints, size)
    filling = Filling(folder, [latents, texts, *([] if hints is None else [hints])], progress or (lambda *counts: None))
    if filling.needed:
        _remove_abandoned(folder)
        _warn_of_earlier(folder)
        filling.run()
    return EncodedDataset(latents.shards, texts.shards, None if hints is None else hints.shards)


@dataclass(frozen=True, eq=False)
class _Names:
    """The keys of the parts of all pairs; the empty caption comes before the others."""

    pictures: NDArray[Any]
    captions: NDArray[Any]
    hints: NDArray[Any] | None

    @classmethod
    def of(cls, dataset: PairDataset) -> _Names:
        pictures, captions, hints = bytearray(), bytearray(_key("")), bytearray()
        for content in _contents(dataset):
            pictures += _key(content.picture)
            captions += _key(content.caption)
            if content.hint is not None:
                hints += _key(content.hint)
        keys = [np.frombuffer(names, KEY) for names in (pictures, captions, hints)]
        return cls(keys[0], keys[1], keys[2] if len(keys[2]) else None)


def _contents(dataset: PairDataset) -> Iterator[Content]:
    """What names the parts of all pairs."""
    for start in range(0, len(dataset), NAMED_AT_ONCE):
        yield from dataset.contents(range(start, min(start + NAMED_AT_ONCE, len(dataset))))


def _key(name: str) -> bytes:
    return hashlib.blake2b(name.encode(), digest_size=KEY.itemsize).digest()


class _Latents:
    """The latents of pictures, in batches that the autoencoder has room for."""

    def __init__(
        self, base: Base, dataset: PairDataset, folder: Path, keys: NDArray[Any], size: tuple[int, int]
    ) -> None:
        self.batch = min(BLOCK, pictures_at_once(*size))
        self.shards = Shards(folder / f"latents-{_autoencoder_name(base)}", keys)
        self._base = base
        self._dataset = dataset

    def encode(self, indices: Sequence[int]) -> list[Record]:
        """Encode the pictures of some pairs."""
        encoded = self._base.encode_images(self._dataset.images(indices))
        latents = torch.stack([encoded.mean, encoded.log_variance], dim=1).half()
        for index, row in zip(indices, latents, strict=True):
            if not row.isfinite().all():
                raise CheckpointError(
                    found=f"latents of {self._dataset[index].name or f'pair {index}'} that are not finite in float16, "
                    f"from the autoencoder of {self._base.place}",
                    expected="latents with a standard deviation of about 1",
                    do="use a base whose autoencoder is sound; they are not kept",
                )
        return [{"latents": row} for row in latents.cpu().numpy()]


class _Texts:
    """The embeddings of captions, of which index 0 is the empty one."""

    batch = BLOCK

    def __init__(
        self, base: Base, dataset: PairDataset, folder: Path, keys: NDArray[Any], size: tuple[int, int]
    ) -> None:
        told = size if base.family.unet.vector_dim is not None else None
        name = digest(base.fingerprint, str(base.dtype), told, size=6)
        self.shards = Shards(folder / f"texts-{name}", keys)
        self._base = base
        self._dataset = dataset
        self._size = size

    def encode(self, indices: Sequence[int]) -> list[Record]:
        """Encode some captions."""
        captions = [content.caption for content in self._dataset.contents([index - 1 for index in indices if index])]
        captions = captions if indices[0] else ["", *captions]
        text = self._base.encode_text(captions, self._size)
        records: list[Record] = [{"context": context} for context in text.context.half().cpu().numpy()]
        if text.y is not None:
            vectors = text.y.float().cpu().numpy()
            records = [{**record, "vector": vector} for record, vector in zip(records, vectors, strict=True)]
        for caption, record in zip(captions, records, strict=True):
            if not all(np.isfinite(array).all() for array in record.values()):
                raise CheckpointError(
                    found=f"an embedding of the caption {caption!r} that is not finite in float16, from the text "
                    f"encoders of {self._base.place} in {self._base.dtype}",
                    expected="finite numbers",
                    do="load the base in float32, or use one whose text encoders are sound; it is not kept",
                )
        return records


class _Hints:
    """The hints of pairs, as many at once as pictures."""

    def __init__(self, dataset: PairDataset, folder: Path, keys: NDArray[Any], size: tuple[int, int]) -> None:
        self.batch = min(BLOCK, pictures_at_once(*size))
        self.shards = Shards(folder / "hints", keys)
        self._dataset = dataset

    def encode(self, indices: Sequence[int]) -> list[Record]:
        """Decode or make the hints of some pairs."""
        return [{"hint": packed(hint)} for hint in self._dataset.hints(indices)]


def _autoencoder_name(base: Base) -> str:
    """Name the autoencoder by its weights: bases that share it share latents, too."""
    content = hashlib.blake2b(digest_size=6)
    add_weights(content, base.autoencoder)
    dtype = next(base.autoencoder.parameters()).dtype
    return digest(content.hexdigest(), base.family.autoencoder.latent_scale, str(dtype), size=6)


def _stacked(records: Sequence[Record], name: str) -> Tensor:
    """One array of some records, float32."""
    return torch.from_numpy(np.stack([record[name] for record in records]).astype(np.float32))


def _remove_abandoned(folder: Path) -> None:
    """Remove what dead processes left: unfinished files, and claims, which are given up in seconds or minutes."""
    left = [path for pattern in (".*.lock", ".*.partial", "*/.*.partial") for path in folder.glob(pattern)]
    for path in left:
        with suppress(OSError):  # its process may just have finished it, or have it open
            if time.time() - path.stat().st_mtime > ABANDONED:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _warn_of_earlier(folder: Path) -> None:
    """Warn about caches of earlier versions, which take up space and are not used."""
    earlier = sorted(path.parent.name for path in folder.glob("[!.]*/latents.npy"))
    if earlier:
        message = f"{len(earlier)} caches in {folder} have another format and are not used: delete {', '.join(earlier)}"
        warnings.warn(message, CacheWarning, stacklevel=2)
