"""Latents and text embeddings of a dataset, computed once and kept on disk, named by their content.

An encoding that is interrupted or killed resumes after its last chunk, bit for bit.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor

from ..base import Base, TextEmbeddings, pictures_at_once
from ..errors import CheckpointError, WriteError
from ..keyed import digest
from ..model.autoencoder import LatentDistribution
from ..whole_file import writing
from .dataset import Pair, PairDataset, Progress

FORMAT = 3
"""The format number of a cache; raise it with any change that an older version would misread."""
CHUNK = 16
"""The most pairs, or captions, that are encoded between two writes."""
ABANDONED = 7 * 24 * 3600
"""Seconds without a new chunk after which an unfinished cache counts as abandoned."""
LATENTS, CAPTIONS, ABOUT = "latents.npy", "captions.jsonl", "cache.json"


class CacheWarning(UserWarning):
    """A cache that is not used."""


@dataclass(frozen=True, eq=False)
class EncodedDataset:
    """The encoded pairs of a dataset, read from disk when needed.

    Attributes:
        latents: Mean and log-variance, shape (N, 2, C, h, w), float16.
        contexts: The text embedding of each distinct caption, the empty one first, (K, L, context_dim), float32.
        vectors: Their vector conditions, (K, vector_dim), for families that have one.
        caption_rows: The row of each pair's caption.
    """

    latents: np.ndarray
    contexts: np.ndarray
    vectors: np.ndarray | None
    caption_rows: Sequence[int]

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """(C, h, w)."""
        return tuple(self.latents.shape[2:])

    def distribution(self, pairs: Sequence[int]) -> LatentDistribution:
        """The latent distributions of some pairs, float32 on the CPU."""
        mean, log_variance = torch.from_numpy(self.latents[list(pairs)].astype(np.float32)).unbind(1)
        return LatentDistribution(mean, log_variance)

    def text(self, pairs: Sequence[int], dropped: Sequence[bool]) -> TextEmbeddings:
        """The embedded captions of some pairs; the empty caption where the prompt is dropped."""
        rows = [0 if drop else self.caption_rows[pair] for pair, drop in zip(pairs, dropped, strict=True)]
        context = torch.from_numpy(self.contexts[rows])
        return TextEmbeddings(context, None if self.vectors is None else torch.from_numpy(self.vectors[rows]))


def encode_dataset(base: Base, dataset: PairDataset, folder: Path, progress: Progress | None = None) -> EncodedDataset:
    """Encode a dataset with a base, or read its cache.

    Arguments:
        base: Its autoencoder and text encoders.
        dataset: The pairs.
        folder: The folder of caches; each is a folder named by a hash of base, the dtype it computes in, and data.
        progress: Told how many pairs are encoded.

    Raises:
        CheckpointError: If the base encodes a pair to numbers that are not finite; then nothing is kept.
        WriteError: If the folder cannot be written.
    """
    name = digest(FORMAT, base.fingerprint, str(base.dtype), dataset.fingerprint, size=12)
    cache, partial = folder / name, folder / f".{name}.partial"
    progress = progress or (lambda done, total: None)
    if not cache.is_dir():
        with _writing_cache(folder, partial), _locked(folder / f".{name}.lock", lambda: progress(0, len(dataset))):
            _fill(cache, partial, base, dataset, progress)
    vectors = cache / "vectors.npy"
    return EncodedDataset(
        latents=np.load(cache / LATENTS, mmap_mode="r"),
        contexts=np.load(cache / "contexts.npy", mmap_mode="r"),
        vectors=np.load(vectors, mmap_mode="r") if vectors.exists() else None,
        caption_rows=json.loads((cache / "caption_rows.json").read_text(encoding="utf-8")),
    )


@contextmanager
def _writing_cache(folder: Path, partial: Path) -> Iterator[None]:
    """Make the folder of caches; a failed write leaves no unfinished cache."""
    try:
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            yield
    except WriteError:
        shutil.rmtree(partial, ignore_errors=True)
        raise


@contextmanager
def _locked(lock_file: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold a lock; call `waiting` every second while another process holds it."""
    lock = FileLock(lock_file)
    while not lock.is_locked:
        try:
            lock.acquire(timeout=1)
        except Timeout:
            waiting()
    try:
        yield
    finally:
        with suppress(PermissionError):  # Windows keeps files that are open
            lock_file.unlink(missing_ok=True)
        lock.release()


def _fill(cache: Path, partial: Path, base: Base, dataset: PairDataset, progress: Progress) -> None:
    """Write a cache, unless another process has written it meanwhile."""
    if not cache.is_dir():
        partial.mkdir(exist_ok=True)
        os.utime(partial)
        _remove_abandoned(cache.parent)
        _warn_of_others(cache.parent)
        try:
            _encode(base, dataset, partial, progress)
        except CheckpointError:
            shutil.rmtree(partial)
            raise
        dtype = str(base.dtype).removeprefix("torch.")
        about = {"format": FORMAT, "base": base.fingerprint, "dtype": dtype, "data": dataset.fingerprint}
        (partial / ABOUT).write_text(json.dumps(about), encoding="utf-8")
        os.replace(partial, cache)


def _remove_abandoned(folder: Path) -> None:
    """Remove abandoned caches."""
    for partial in folder.glob(".*.partial"):
        with suppress(FileNotFoundError):  # its process may just have finished it
            if time.time() - partial.stat().st_mtime > ABANDONED:
                shutil.rmtree(partial, ignore_errors=True)


def _warn_of_others(folder: Path) -> None:
    """Warn about caches of another format, which take up space and are not used."""
    others = [path.name for path in sorted(folder.iterdir()) if path.is_dir() and _format(path) != FORMAT]
    if others:
        message = f"{len(others)} caches in {folder} have another format and are not used: delete {', '.join(others)}"
        warnings.warn(message, CacheWarning, stacklevel=2)


def _format(cache: Path) -> int | None:
    """The format number of a cache, or None if it has none; `FORMAT` for what is no cache."""
    if cache.name.startswith(".") or not (cache / LATENTS).exists():
        return FORMAT
    try:
        about = json.loads((cache / ABOUT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    number: int | None = about.get("format") if isinstance(about, dict) else None
    return number


def _encode(base: Base, dataset: PairDataset, cache: Path, progress: Progress) -> None:
    """Write the files of a cache, starting after the pairs that are already encoded."""
    height, width = dataset.hints([0]).shape[-2:]
    chunk = min(CHUNK, pictures_at_once(height, width))
    captions = _encoded_before(cache, chunk)
    with _ArrayFile(cache / LATENTS, len(dataset)) as latents, (cache / CAPTIONS).open("a", encoding="utf-8") as lines:
        for start in range(len(captions), len(dataset), chunk):
            pairs = [dataset[index] for index in range(start, min(start + chunk, len(dataset)))]
            latents.append(_encode_images(base, pairs, start))
            lines.writelines(json.dumps(pair.caption) + "\n" for pair in pairs)
            lines.flush()
            captions += [pair.caption for pair in pairs]
            os.utime(cache)
            progress(len(captions), len(dataset))
    rows = {caption: row for row, caption in enumerate(dict.fromkeys(["", *captions]))}
    _encode_captions(base, list(rows), (height, width), cache)
    (cache / "caption_rows.json").write_text(json.dumps([rows[caption] for caption in captions]), encoding="utf-8")


def _encode_images(base: Base, pairs: Sequence[Pair], start: int) -> Tensor:
    """The latents of some pictures, of which the first is that of pair `start`, (N, 2, C, h, w), float16."""
    encoded = base.encode_images(torch.stack([pair.image for pair in pairs]))
    latents = torch.stack([encoded.mean, encoded.log_variance], dim=1).half()
    for number, (pair, row) in enumerate(zip(pairs, latents, strict=True), start=start):
        if not row.isfinite().all():
            raise CheckpointError(
                found=f"latents of {pair.name or f'pair {number}'} that are not finite in float16, from the "
                f"autoencoder of {base.place}",
                expected="latents with a standard deviation of about 1",
                do="use a base whose autoencoder is sound; no pair is kept",
            )
    return latents


def _encoded_before(cache: Path, chunk: int) -> list[str]:
    """The captions of the pairs in an unfinished cache, which is cut off after its last whole chunk."""
    latents, captions = cache / LATENTS, cache / CAPTIONS
    try:
        lines = captions.read_text(encoding="utf-8").splitlines(keepends=True)
        with latents.open("r+b") as file:
            np.lib.format.read_magic(file)
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
            header, row = file.tell(), dtype.itemsize * math.prod(shape[1:])
            whole = min((latents.stat().st_size - header) // row, sum(line.endswith("\n") for line in lines))
            whole -= whole % chunk
            file.truncate(header + whole * row)
    except (FileNotFoundError, ValueError):  # interrupted before the first chunk
        latents.unlink(missing_ok=True)
        captions.unlink(missing_ok=True)
        return []
    captions.write_text("".join(lines[:whole]), encoding="utf-8")
    return [json.loads(line) for line in lines[:whole]]


def _encode_captions(base: Base, captions: list[str], size: tuple[int, int], cache: Path) -> None:
    """Write the embeddings of the distinct captions."""
    contexts_path, vectors_path = cache / "contexts.npy", cache / "vectors.npy"
    for path in (contexts_path, vectors_path):
        path.unlink(missing_ok=True)
    with _ArrayFile(contexts_path, len(captions)) as contexts, _ArrayFile(vectors_path, len(captions)) as vectors:
        for start in range(0, len(captions), CHUNK):
            text = base.encode_text(captions[start : start + CHUNK], size)
            _check_finite(base, captions[start : start + CHUNK], text)
            contexts.append(text.context.float())
            if text.y is not None:
                vectors.append(text.y.float())


def _check_finite(base: Base, captions: Sequence[str], text: TextEmbeddings) -> None:
    """Check that captions are embedded as finite numbers."""
    for row, caption in enumerate(captions):
        one = text[row : row + 1]
        if not one.context.isfinite().all() or (one.y is not None and not one.y.isfinite().all()):
            raise CheckpointError(
                found=f"an embedding of the caption {caption!r} that is not finite, from the text encoders of "
                f"{base.place} in {base.dtype}",
                expected="finite numbers",
                do="load the base in float32, or use one whose text encoders are sound; no pair is kept",
            )


class _ArrayFile:
    """A .npy file that is written part by part; without a part there is no file.

    A memory map would be simpler, but on a full disk it ends the process without an error.

    Arguments:
        path: The file; an existing one is appended to.
        count: Rows in total.
    """

    def __init__(self, path: Path, count: int) -> None:
        self._path = path
        self._count = count
        self._file: BinaryIO | None = None

    def __enter__(self) -> _ArrayFile:
        return self

    def __exit__(self, *raised: object) -> None:
        if self._file is not None:
            self._file.close()

    def append(self, rows: Tensor) -> None:
        """Write the next rows and flush them to disk."""
        array = rows.cpu().contiguous().numpy()
        if self._file is None:
            self._file = self._path.open("ab")
            if self._file.tell() == 0:
                descr = np.lib.format.dtype_to_descr(array.dtype)
                header = {"descr": descr, "fortran_order": False, "shape": (self._count, *array.shape[1:])}
                np.lib.format.write_array_header_1_0(self._file, header)
        self._file.write(array.data)
        self._file.flush()
        os.fsync(self._file.fileno())
