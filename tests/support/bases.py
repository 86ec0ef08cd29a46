"""A small random base that is made in memory: real UNet and autoencoder, and text that needs no vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from controlnet_core.base import Base, TextEmbeddings
from controlnet_core.config import FAMILIES, TINY, AutoencoderConfig
from controlnet_core.keyed import keyed_generator
from controlnet_core.model.autoencoder import Autoencoder
from controlnet_core.model.unet import UNet
from controlnet_core.schedule import NoiseSchedule
from tests.support.reduced import randomised

SMALL = replace(
    FAMILIES["TINY"],
    unet=replace(TINY, family="small", model_channels=32, head_channels=32, context_dim=8),
    autoencoder=AutoencoderConfig(base_channels=32, channel_mult=(1, 1, 1, 1), num_res_blocks=1),
    text_encoders=(),
    image_size=32,
)


class SmallBase(Base):
    """A base whose text embeddings are random numbers, five tokens for each prompt, always the same for one prompt."""

    def encode_text(self, prompts: Sequence[str], size: tuple[int, int]) -> TextEmbeddings:
        """Encode prompts; the size has no say."""
        width = self.family.unet.context_dim
        contexts = [torch.randn(5, width, generator=keyed_generator("text", prompt)) for prompt in prompts]
        return TextEmbeddings(torch.stack(contexts))


def small_base(seed: int = 0) -> SmallBase:
    """A base of random weights; equal seeds make equal bases."""
    return SmallBase(
        family=SMALL,
        unet=randomised(UNet(SMALL.unet), seed).requires_grad_(False),
        autoencoder=randomised(Autoencoder(SMALL.autoencoder), seed + 1).requires_grad_(False),
        text_encoders=(),
        tokenizers=(),
        schedule=NoiseSchedule.scaled_linear(),
        prediction=SMALL.prediction,
        fingerprint=f"small random base {seed}",
    )
