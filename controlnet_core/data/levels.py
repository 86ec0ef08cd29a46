"""Pixels as whole numbers: how a file of 8 or 16 bits is kept in as many bits, exactly."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

WHOLE = (np.uint8, np.uint16)


def rounded(pixels: Tensor, levels: int | None) -> Tensor:
    """Round pixels in [0, 1] to multiples of 1/levels; None leaves them as they are."""
    return pixels if levels is None else (pixels * levels).round() / levels


def packed(pixels: Tensor) -> NDArray[Any]:
    """Pixels as uint8 or uint16, if all are multiples of the largest one's inverse, or else as they are."""
    for dtype in WHOLE:
        levels = int(np.iinfo(dtype).max)
        whole = (pixels * levels).round()
        if torch.equal(whole / levels, pixels) and pixels.min() >= 0:
            return whole.numpy().astype(dtype)
    return pixels.numpy()


def unpacked(array: NDArray[Any]) -> Tensor:
    """The pixels that were packed, float32, bit for bit."""
    if array.dtype in WHOLE:
        return torch.from_numpy(array.astype(np.float32)) / int(np.iinfo(array.dtype).max)
    return torch.from_numpy(array.copy())
