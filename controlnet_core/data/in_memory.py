"""Pairs in memory, and a preview of pairs."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from ..errors import DatasetError
from ..keyed import digest
from ..pictures.read import ROUNDING
from ..pictures.sheet import sheet
from .dataset import Content, Pair, PairDataset
from .folder.folder_dataset import SIDE_STEP


class InMemoryDataset:
    """Pairs of tensors in memory, such as those of a node graph.

    Arguments:
        images: The pictures, (N, 3, H, W) in [0, 1]; H and W are multiples of 8.
        hints: Their hints, of the same shape, in [0, 1].
        captions: One for each pair, or one for all.

    Attributes:
        fingerprint: A hash of all pixels and captions.

    Raises:
        DatasetError: If there is no pair, the shapes or the captions do not fit, or a pixel is not from 0 to 1.
    """

    def __init__(self, images: Tensor, hints: Tensor, captions: str | Sequence[str]) -> None:
        self._images = _checked(images, "pictures")
        self._hints = _checked(hints, "hints")
        if images.shape != hints.shape:
            raise DatasetError(
                found=f"pictures of shape {tuple(images.shape)} and hints of {tuple(hints.shape)}",
                expected="as many hints as pictures, in the same size",
                do="resize the hints, or leave out images without a partner",
            )
        self._captions = [captions] * len(images) if isinstance(captions, str) else list(captions)
        if len(self._captions) != len(images):
            raise DatasetError(
                found=f"{len(self._captions)} captions for {len(images)} pictures",
                expected="one for each, or one for all",
                do="give each picture its caption",
            )
        self.fingerprint = _fingerprint(self._images, self._hints, self._captions)

    def __len__(self) -> int:
        return len(self._captions)

    def __getitem__(self, index: int) -> Pair:
        """Return pair `index`, counted from 0.

        Raises:
            IndexError: If the index is negative or beyond the last pair.
        """
        self._check(index)
        return Pair(self._images[index], self._hints[index], self._captions[index])

    def images(self, indices: Sequence[int]) -> Tensor:
        """Return the pictures of many pairs, (N, 3, H, W) in [0, 1]; raises IndexError as indexing does."""
        self._check(*indices)
        return self._images[list(indices)]

    def hints(self, indices: Sequence[int]) -> Tensor:
        """Return the hints of many pairs, (N, 3, H, W) in [0, 1]; raises IndexError as indexing does."""
        self._check(*indices)
        return self._hints[list(indices)]

    def contents(self, indices: Sequence[int]) -> list[Content]:
        """Name the parts of many pairs: pictures by their pixels."""
        self._check(*indices)
        return [Content(_picture_name(self._images[index]), self._captions[index]) for index in indices]

    def _check(self, *indices: int) -> None:
        for index in indices:
            if not 0 <= index < len(self):
                raise IndexError(f"pair {index} of {len(self)}")


def preview(dataset: PairDataset, count: int = 6) -> Image.Image:
    """Draw some pairs, evenly spaced from the first to the last: a row holds caption, picture and hint.

    Arguments:
        dataset: The pairs.
        count: How many at most.

    Raises:
        DatasetError: If a pair cannot be read, or `count` is below 1.
    """
    if count < 1:
        raise DatasetError(f"a preview of {count} pairs", "at least 1", "ask for more pairs")
    shown, last = min(count, len(dataset)), len(dataset) - 1
    pairs = [dataset[round(row * last / max(1, shown - 1))] for row in range(shown)]
    captions = [" ".join(pair.caption.split()) for pair in pairs]
    return sheet([[pair.image, pair.hint] for pair in pairs], ("picture", "hint"), captions if any(captions) else ())


def _checked(pixels: Tensor, name: str) -> Tensor:
    """Check that pixels are pictures that can be encoded, and return them as float32 on the CPU."""
    sides = pixels.shape[2:]
    if pixels.ndim != 4 or pixels.shape[1] != 3 or not pixels.numel() or any(side % SIDE_STEP for side in sides):
        raise DatasetError(
            found=f"{name} of shape {tuple(pixels.shape)}",
            expected=f"(N, 3, H, W) with at least 1 of them, and sides that are multiples of {SIDE_STEP} pixels",
            do=f"crop or resize the {name}",
        )
    pixels = pixels.detach().to("cpu", torch.float32).contiguous()
    low, high = (float(bound) for bound in pixels.aminmax())
    if not (low >= -ROUNDING and high <= 1 + ROUNDING):
        raise DatasetError(
            found=f"{name} with pixels from {low:.4g} to {high:.4g}",
            expected="values from 0 to 1",
            do="divide by 255, or map -1..1 with (x + 1) / 2; NaN comes from a broken source",
        )
    return pixels if low >= 0 and high <= 1 else pixels.clamp(0, 1)


def _picture_name(image: Tensor) -> str:
    """Name a picture by its pixels."""
    pixels = hashlib.blake2b(image.numpy().data, digest_size=16).hexdigest()
    return digest("pixels", tuple(image.shape), pixels)


def _fingerprint(images: Tensor, hints: Tensor, captions: Sequence[str]) -> str:
    content = hashlib.blake2b(repr(("pictures", tuple(images.shape), list(captions))).encode(), digest_size=16)
    for pixels in (images, hints):
        content.update(pixels.numpy().data)
    return content.hexdigest()
