"""A text-to-image base: UNet, autoencoder, text encoders and tokenizers, as sampling and training use it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .config import Family, Prediction
from .model.autoencoder import Autoencoder, LatentDistribution
from .model.layers import sinusoidal_encoding
from .model.text_encoder import TextEncoder
from .model.unet import UNet
from .schedule import NoiseSchedule
from .tokenizer import PromptTokenizer

SIZE_ENCODING = 256


@dataclass(frozen=True)
class TextEmbeddings:
    """Embedded prompts, as the UNet takes them.

    Attributes:
        context: Shape (B, L, context_dim).
        y: The vector condition, shape (B, vector_dim), for families that have one.
    """

    context: Tensor
    y: Tensor | None = None

    def __getitem__(self, rows: slice | Tensor | list[int]) -> TextEmbeddings:
        """Select prompts."""
        return TextEmbeddings(self.context[rows], None if self.y is None else self.y[rows])

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> TextEmbeddings:
        """Move to a device."""
        return TextEmbeddings(
            self.context.to(device, dtype), None if self.y is None else self.y.to(device, dtype)
        )


class EncodesText(Protocol):
    """Anything that encodes text: the base, or a host's text encoders."""

    def encode_text(self, prompts: Sequence[str], size: tuple[int, int]) -> TextEmbeddings:
        """Encode prompts for pictures of `size` (height, width) pixels."""
        ...


class EncodesImages(Protocol):
    """Anything that encodes images: the base, or a host's autoencoder."""

    def encode_images(self, images: Tensor) -> LatentDistribution:
        """Encode images (B, 3, H, W) from 0 to 1."""
        ...

    def decode_latents(self, latents: Tensor) -> Tensor:
        """Decode latents (B, 4, H/8, W/8) to images (B, 3, H, W) from 0 to 1."""
        ...


@dataclass(frozen=True, eq=False)
class Base:
    """A text-to-image base.

    Attributes:
        family: The sizes of everything.
        unet: The UNet.
        autoencoder: The autoencoder.
        text_encoders: The text encoders; their contexts are joined along the width.
        tokenizers: One for each text encoder.
        schedule: The noise schedule it was trained with.
        prediction: What its UNet predicts.
        fingerprint: A hash of the weights, which names the base in caches and run folders.
    """

    family: Family
    unet: UNet
    autoencoder: Autoencoder
    text_encoders: tuple[TextEncoder, ...]
    tokenizers: tuple[PromptTokenizer, ...]
    schedule: NoiseSchedule
    prediction: Prediction
    fingerprint: str

    @property
    def device(self) -> torch.device:
        """Where the UNet's weights are."""
        return next(self.unet.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the UNet's weights."""
        return next(self.unet.parameters()).dtype

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Base:
        """Move all weights, in place, as torch modules do; returns the base itself."""
        for module in (self.unet, self.autoencoder, *self.text_encoders):
            module.to(device=device, dtype=dtype)
        return self

    @torch.no_grad()
    def encode_text(self, prompts: Sequence[str], size: tuple[int, int]) -> TextEmbeddings:
        """Encode prompts.

        Arguments:
            prompts: B prompts.
            size: Height and width in pixels of the picture to draw, which SDXL is told.

        Returns:
            Context (B, L, context_dim) and, for families that have one, y (B, vector_dim).
        """
        contexts, pooled = [], None
        for tokenizer, encoder in zip(self.tokenizers, self.text_encoders, strict=True):
            tokens = tokenizer(prompts)
            features = encoder(tokens.ids.to(self.device), tokens.ends.to(self.device))
            contexts.append(features.context)
            pooled = features.pooled
        context = torch.cat(contexts, dim=-1).to(self.dtype)
        if self.family.unet.vector_dim is None or pooled is None:
            return TextEmbeddings(context)
        return TextEmbeddings(context, vector_condition(pooled, size))

    @torch.no_grad()
    def encode_images(self, images: Tensor) -> LatentDistribution:
        """Encode images (B, 3, H, W) from 0 to 1 to the distribution of their latents (B, 4, H/8, W/8)."""
        distribution: LatentDistribution = self.autoencoder.encode((2 * images - 1).to(self.device, self.dtype))
        return distribution

    @torch.no_grad()
    def decode_latents(self, latents: Tensor) -> Tensor:
        """Decode latents (B, 4, h, w) to images (B, 3, 8h, 8w) from 0 to 1, float32."""
        pixels = self.autoencoder.decode(latents.to(self.device, self.dtype))
        return (pixels.float() / 2 + 0.5).clamp(0, 1)


def vector_condition(pooled: Tensor, size: tuple[int, int]) -> Tensor:
    """SDXL's vector condition: pooled text and six encoded sizes (Podell et al. 2023, section 2.2).

    Arguments:
        pooled: Shape (B, 1280).
        size: Height and width in pixels: taken as the original and the target size, with no crop.

    Returns:
        Shape (B, 1280 + 6 * 256).
    """
    height, width = size
    sizes = torch.tensor([height, width, 0, 0, height, width], device=pooled.device)
    encoded = sinusoidal_encoding(sizes, SIZE_ENCODING).flatten().to(pooled.dtype)
    return torch.cat([pooled, encoded.expand(len(pooled), -1)], dim=-1)
