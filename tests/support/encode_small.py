"""Encodes pairs in a process of its own and prints what it encodes: `python encode_small.py CACHE START [HANGS_AT]`.

It begins when the file START exists. It hangs in the batch of pictures counted by HANGS_AT, from 0.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from controlnet_core.base import TextEmbeddings
from controlnet_core.data.cache import encode_dataset
from controlnet_core.keyed import digest
from controlnet_core.model.autoencoder import LatentDistribution
from controlnet_core.toy.shapes_dataset import ShapesDataset
from tests.support.bases import SmallBase, small_base

PAIRS = ShapesDataset(200, 32, seed=3)
SECONDS, HANGING = 0.2, 1000.0
"""How long a batch of pictures takes at least, so that processes take turns even on one core."""


def picture_name(image: Tensor) -> str:
    """A name of a picture, without spaces."""
    return digest(image.numpy().tobytes().hex())


class Counting(SmallBase):
    """A base that prints what it encodes."""

    hangs_at = -1
    """The batch of pictures in which it hangs, counted from this one; negative for none."""

    def encode_images(self, images: Tensor) -> LatentDistribution:
        """Encode, slowly."""
        print("pictures", *map(picture_name, images), flush=True)
        time.sleep(HANGING if Counting.hangs_at == 0 else SECONDS)
        Counting.hangs_at -= 1
        return super().encode_images(images)

    def encode_text(self, prompts: Sequence[str], size: tuple[int, int]) -> TextEmbeddings:
        """Encode."""
        print("captions", *map(digest, prompts), flush=True)
        return super().encode_text(prompts, size)


if __name__ == "__main__":
    torch.set_num_threads(1)
    base = Counting(**vars(small_base()))
    Counting.hangs_at = int(sys.argv[3]) if len(sys.argv) > 3 else -1
    print("ready", flush=True)
    while not Path(sys.argv[2]).exists():
        time.sleep(0.005)
    encode_dataset(base, PAIRS, Path(sys.argv[1]))
