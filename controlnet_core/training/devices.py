"""What depends on the device that a net is trained on: number formats, and how much memory there is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ..base import Base
from ..errors import SettingError
from .memory import Precision


def usual_precision(device: torch.device) -> Precision:
    """The precision of a run that names none: bfloat16 on cards that compute in it, float32 elsewhere."""
    if device.type != "cuda" or not torch.cuda.is_available():
        return "float32"
    with torch.cuda.device(device):
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"


def autocast_dtype(precision: Precision, weights: Precision, device: torch.device) -> torch.dtype | None:
    """In what a net's forward pass computes, where that is not the dtype of its weights.

    Raises:
        SettingError: If the device cannot do so.
    """
    if precision == "float32" or weights == "bfloat16":
        return None
    if not torch.amp.is_autocast_available(device.type):
        raise SettingError(
            found=f'precision = "bfloat16" on the device {device}',
            expected="a device on which torch computes in bfloat16 over float32 weights, such as cuda or cpu",
            do='set precision = "float32", or another device',
        )
    return torch.bfloat16


@contextmanager
def unet_in(base: Base, precision: Precision) -> Iterator[None]:
    """Keep the UNet's weights in bfloat16 if that is the precision; its own wait on the CPU meanwhile."""
    if precision == "float32":
        yield
        return
    weights = list(base.unet.parameters())
    own, device = [weight.data for weight in weights], base.device
    try:
        for number, weight in enumerate(weights):
            weight.data = own[number].to(torch.bfloat16)
            own[number] = own[number].cpu()
        yield
    finally:
        for weight, data in zip(weights, own, strict=True):
            weight.data = data.to(device)


@contextmanager
def unet_on(base: Base, device: torch.device | str) -> Iterator[None]:
    """Keep the UNet on a device, and move it back to where it was."""
    before = base.device
    base.unet.to(device)
    try:
        yield
    finally:
        base.unet.to(before)


def free_memory(device: torch.device) -> int | None:
    """The bytes of a device that a run can have: what is free and what torch holds; None where nothing tells."""
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device)
