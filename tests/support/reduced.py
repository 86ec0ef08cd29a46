"""Models of full structure and reduced width, and random weights that leave nothing at zero."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor, nn

from controlnet_core.config import (
    CLIP_L,
    CLIP_L_SDXL,
    OPENCLIP_BIGG,
    OPENCLIP_H,
    SD15,
    SD21,
    SDXL,
    AutoencoderConfig,
    Family,
    TextEncoderConfig,
)

Module = TypeVar("Module", bound=nn.Module)

POOLED_WIDTH = 64


def narrow(config: TextEncoderConfig) -> TextEncoderConfig:
    """A text encoder of three narrow layers."""
    return replace(config, width=64, num_heads=4, vocabulary=300, layers=3)


REDUCED: dict[str, Family] = {
    "SD1.5": Family(
        replace(SD15, family="SD1.5-like", model_channels=32, context_dim=64),
        AutoencoderConfig(base_channels=32),
        (narrow(CLIP_L),),
    ),
    "SD2.1": Family(
        replace(SD21, family="SD2.1-like", model_channels=32, head_channels=16, context_dim=64),
        AutoencoderConfig(base_channels=32),
        (narrow(OPENCLIP_H),),
        prediction="v",
        image_size=768,
    ),
    "SDXL": Family(
        replace(
            SDXL,
            family="SDXL-like",
            model_channels=32,
            head_channels=16,
            context_dim=128,
            vector_dim=POOLED_WIDTH + 6 * 256,
        ),
        AutoencoderConfig(base_channels=32, latent_scale=0.13025),
        (
            narrow(CLIP_L_SDXL),
            replace(narrow(OPENCLIP_BIGG), projection_dim=POOLED_WIDTH),
        ),
        image_size=1024,
    ),
}


def randomised(module: Module, seed: int = 0) -> Module:
    """Draw all weights in place so that the variance passes through; none is zero, and no norm is the identity."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                parameter.copy_(noise / math.sqrt(parameter[0].numel()))
            else:
                parameter.copy_(0.2 * noise + (1.0 if name.endswith("weight") else 0.0))
    return module.eval()


def noise(*shape: int, seed: int) -> Tensor:
    """Standard normal numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def difference(ours: Tensor, reference: Tensor) -> float:
    """The largest absolute difference, as a fraction of the reference's largest value."""
    assert ours.shape == reference.shape, f"{tuple(ours.shape)} is not {tuple(reference.shape)}"
    return ((ours - reference).abs().max() / reference.abs().max()).item()
