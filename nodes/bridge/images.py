"""Pictures in ComfyUI's form."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def host_images(pictures: Sequence[Tensor]) -> Tensor:
    """Pictures (3, H, W) as an IMAGE, (B, H, W, 3)."""
    return torch.stack(list(pictures)).movedim(1, -1).contiguous()
