"""Equality to the last bit."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors agree in every bit, the sign of a zero included."""
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(_bytes(a), _bytes(b))


def differing(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> list[str]:
    """The names under which two state dicts do not agree in every bit."""
    assert a.keys() == b.keys(), f"one alone has {sorted(a.keys() ^ b.keys())[:5]}"
    return [name for name in a if not same_bits(a[name], b[name])]


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)
