"""Pictures in ComfyUI's form."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from ....controlnet_core.control.hint import read_hint


def host_images(pictures: Sequence[Tensor]) -> Tensor:
    """Pictures (3, H, W) as an IMAGE, (B, H, W, 3)."""
    return torch.stack(list(pictures)).movedim(1, -1).contiguous()


def host_picture(picture: Image.Image) -> Tensor:
    """A PIL picture as an IMAGE, (1, H, W, 3)."""
    return read_hint(picture).movedim(1, -1).contiguous()
