"""Pictures in ComfyUI's form."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from ....controlnet_core.control.hint import read_hint
from ....controlnet_core.errors import HintError


def host_images(pictures: Sequence[Tensor]) -> Tensor:
    """Pictures (3, H, W) as an IMAGE, (B, H, W, 3)."""
    return torch.stack(list(pictures)).movedim(1, -1).contiguous()


def host_picture(picture: Image.Image) -> Tensor:
    """A PIL picture as an IMAGE, (1, H, W, 3)."""
    return read_hint(picture).movedim(1, -1).contiguous()


def with_channels(hints: Tensor, channels: int, net: str) -> Tensor:
    """Hints (B, C, H, W) with as many channels as a net reads: grey is repeated, further ones are left out.

    Raises:
        HintError: If there are fewer channels than it reads, and more than one; the message calls it `net`.
    """
    if hints.shape[1] == 1:
        return hints.expand(-1, channels, -1, -1)
    if hints.shape[1] < channels:
        raise HintError(
            found=f"a hint with {hints.shape[1]} channels for {net} that reads {channels}",
            expected=f"{channels} channels, or 1",
            do="use the image that belongs to this net",
        )
    return hints[:, :channels]
