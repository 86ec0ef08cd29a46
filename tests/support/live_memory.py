"""The peak of a call's memory, in GiB."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from controlnet_core.training.live_memory import LiveMemory

GIB = 2**30


def peak_gib(call: Callable[[], object], before: Iterable[Tensor] = ()) -> float:
    """The peak of a call, in GiB."""
    with LiveMemory(before) as memory, torch.no_grad():
        call()
    gib: float = memory.peak / GIB
    return gib
