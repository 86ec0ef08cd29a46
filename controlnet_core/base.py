"""A text-to-image base: UNet, autoencoder, text encoders and tokenizers, as sampling and training use it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from .config import Family, Prediction
from .model.autoencoder import Autoencoder, LatentDistribution
from .model.layers import sinusoidal_encoding
from .model.text_encoder import TextEncoder
from .model.unet import UNet
from .schedule import NoiseSchedule
from .tokenizer import PromptTokenizer

SIZE_ENCODING = 256
PIXELS_AT_ONCE = 1024 * 1024
"""The most pixels of one batch of the autoencoder, which in float32 takes 2.5 KiB for each while it encodes."""


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
        autoencoder: The autoencoder, in float32 whatever the UNet's dtype: in half precision SDXL's overflows.
        text_encoders: The text encoders; their contexts are joined along the width.
        tokenizers: One for each text encoder.
        schedule: The noise schedule it was trained with.
        prediction: What its UNet predicts.
        fingerprint: A hash of the weights, which names the base in caches and run folders.
        place: Where it comes from, for messages.
    """

    family: Family
    unet: UNet
    autoencoder: Autoencoder
    text_encoders: tuple[TextEncoder, ...]
    tokenizers: tuple[PromptTokenizer, ...]
    schedule: NoiseSchedule
    prediction: Prediction
    fingerprint: str
    place: str = "the base"

    @property
    def device(self) -> torch.device:
        """Where the UNet's weights are."""
        return next(self.unet.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the UNet's weights, in which UNet and text encoders compute."""
        return self.unet.dtype

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Base:
        """Move all weights, in place, as torch modules do; the autoencoder keeps its dtype. Returns the base itself."""
        for module in (self.unet, *self.text_encoders):
            module.to(device=device, dtype=dtype)
        self.autoencoder.to(device=device)
        return self

    @contextmanager
    def encoders_on(self, device: torch.device | str) -> Iterator[None]:
        """Keep autoencoder and text encoders on a device, and move them back to where they were.

        They work wherever they are, and what they give is on the UNet's device.
        """
        encoders = (self.autoencoder, *self.text_encoders)
        before = [_weight(encoder).device for encoder in encoders]
        try:
            for encoder in encoders:
                encoder.to(device)
            yield
        finally:
            for encoder, place in zip(encoders, before, strict=True):
                encoder.to(place)

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
            tokens, device = tokenizer(prompts), _weight(encoder).device
            features = encoder(tokens.ids.to(device), tokens.ends.to(device))
            contexts.append(features.context)
            pooled = features.pooled
        context = torch.cat(contexts, dim=-1)
        if self.family.unet.vector_dim is None or pooled is None:
            return TextEmbeddings(context).to(self.device, self.dtype)
        return TextEmbeddings(context, vector_condition(pooled, size)).to(self.device, self.dtype)

    @torch.no_grad()
    def encode_images(self, images: Tensor) -> LatentDistribution:
        """Encode images (B, 3, H, W) from 0 to 1 to the distribution of their latents (B, 4, H/8, W/8), float32.

        Images that are too many for one batch of the autoencoder are encoded in several.
        """
        parts, weight = images.split(pictures_at_once(*images.shape[-2:])), _weight(self.autoencoder)
        encoded = [self.autoencoder.encode(2 * part.to(weight) - 1) for part in parts]
        return LatentDistribution(
            torch.cat([part.mean for part in encoded]).to(self.device),
            torch.cat([part.log_variance for part in encoded]).to(self.device),
        )

    @torch.no_grad()
    def decode_latents(self, latents: Tensor) -> Tensor:
        """Decode latents (B, 4, h, w) to images (B, 3, 8h, 8w) from 0 to 1, float32, in batches as above."""
        scale = self.family.autoencoder.downscale
        height, width = (scale * side for side in latents.shape[-2:])
        parts, weight = latents.split(pictures_at_once(height, width)), _weight(self.autoencoder)
        pixels = torch.cat([self.autoencoder.decode(part.to(weight)) for part in parts])
        return (pixels.to(self.device).float() / 2 + 0.5).clamp(0, 1)


def pictures_at_once(height: int, width: int) -> int:
    """How many pictures of a size in pixels go into one batch of the autoencoder."""
    return max(1, PIXELS_AT_ONCE // (height * width))


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


def _weight(module: nn.Module) -> Tensor:
    """Any weight of a module, which has its device and dtype."""
    return next(module.parameters())
