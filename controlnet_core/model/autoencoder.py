"""The KL autoencoder between pixels and latents: 512x512x3 to 64x64x4 (Rombach et al. 2022, section 3.1)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from ..config import AutoencoderConfig
from ..expect import expect
from .blocks import ResidualBlock
from .layers import AttentionFunction, LayerFactory, Operations, Upsample, scaled_dot_product_attention

EPS = 1e-6


@dataclass(frozen=True)
class LatentDistribution:
    """The diagonal normal distribution that the encoder gives for an image.

    Attributes:
        mean: Shape (B, latent_channels, H/8, W/8).
        log_variance: The same shape.
    """

    mean: Tensor
    log_variance: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """The latents that standard normal `noise`, of the mean's shape, gives."""
        return self.mean + torch.exp(0.5 * self.log_variance) * noise


class PixelAttention(nn.Module):
    """Self-attention with one head over all positions."""

    def __init__(self, channels: int, layers: LayerFactory) -> None:
        super().__init__()
        self.attention = layers.attention
        self.norm = layers.group_norm(channels, EPS)
        self.query = layers.linear(channels, channels)
        self.key = layers.linear(channels, channels)
        self.value = layers.linear(channels, channels)
        self.output = layers.linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, h, w) to (B, C, h, w)."""
        sequence = rearrange(self.norm(x), "b c h w -> b (h w) c")
        attended = self.attention(self.query(sequence), self.key(sequence), self.value(sequence), 1)
        output: Tensor = x + rearrange(self.output(attended), "b (h w) c -> b c h w", h=x.shape[-2])
        return output


class PixelMiddle(nn.Module):
    """Residual block, attention, residual block at the lowest resolution."""

    def __init__(self, channels: int, layers: LayerFactory) -> None:
        super().__init__()
        self.residual1 = ResidualBlock(channels, channels, layers, None, EPS)
        self.attention = PixelAttention(channels, layers)
        self.residual2 = ResidualBlock(channels, channels, layers, None, EPS)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, h, w) to (B, C, h, w)."""
        output: Tensor = self.residual2(self.attention(self.residual1(x)))
        return output


class PixelDownsample(nn.Module):
    """Halve the resolution by a convolution of stride 2 that is padded at the right and bottom only."""

    def __init__(self, channels: int, layers: LayerFactory) -> None:
        super().__init__()
        self.convolution = layers.convolution(channels, channels, stride=2, padding=0)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, 2h, 2w) to (B, C, h, w)."""
        output: Tensor = self.convolution(functional.pad(x, (0, 1, 0, 1)))
        return output


class PixelStage(nn.Module):
    """The residual blocks of one resolution, and the step down (encoder) or up (decoder) to the next."""

    def __init__(self, inputs: int, outputs: int, count: int, resample: nn.Module | None, layers: LayerFactory) -> None:
        super().__init__()
        widths = [inputs] + [outputs] * count
        self.blocks = nn.ModuleList(
            ResidualBlock(before, after, layers, None, EPS) for before, after in pairwise(widths)
        )
        self.resample = resample

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, h, w) to (B, outputs, ., .) at the next stage's resolution."""
        for block in self.blocks:
            x = block(x)
        if isinstance(self.resample, Upsample):
            x = self.resample(x, (2 * x.shape[-2], 2 * x.shape[-1]))
        elif self.resample is not None:
            x = self.resample(x)
        return x


class PixelEncoder(nn.Module):
    """From pixels to the mean and log-variance of the latent distribution."""

    def __init__(self, config: AutoencoderConfig, layers: LayerFactory) -> None:
        super().__init__()
        widths = [config.base_channels * multiple for multiple in (1, *config.channel_mult)]
        self.input_convolution = layers.convolution(3, widths[0])
        self.stages = nn.ModuleList(
            PixelStage(
                before,
                after,
                config.num_res_blocks,
                PixelDownsample(after, layers) if level < len(config.channel_mult) - 1 else None,
                layers,
            )
            for level, (before, after) in enumerate(pairwise(widths))
        )
        self.middle = PixelMiddle(widths[-1], layers)
        self.norm = layers.group_norm(widths[-1], EPS)
        self.output_convolution = layers.convolution(widths[-1], 2 * config.latent_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, 2 * latent_channels, H/8, W/8)."""
        hidden = self.input_convolution(x)
        for stage in self.stages:
            hidden = stage(hidden)
        output: Tensor = self.output_convolution(functional.silu(self.norm(self.middle(hidden))))
        return output


class PixelDecoder(nn.Module):
    """From latents to pixels."""

    def __init__(self, config: AutoencoderConfig, layers: LayerFactory) -> None:
        super().__init__()
        widths = [config.base_channels * multiple for multiple in (*config.channel_mult, config.channel_mult[-1])][::-1]
        self.input_convolution = layers.convolution(config.latent_channels, widths[0])
        self.middle = PixelMiddle(widths[0], layers)
        self.stages = nn.ModuleList(
            PixelStage(
                before,
                after,
                config.num_res_blocks + 1,
                Upsample(after, layers) if level < len(config.channel_mult) - 1 else None,
                layers,
            )
            for level, (before, after) in enumerate(pairwise(widths))
        )
        self.norm = layers.group_norm(widths[-1], EPS)
        self.output_convolution = layers.convolution(widths[-1], 3)

    def forward(self, z: Tensor) -> Tensor:
        """Map (B, latent_channels, H/8, W/8) to (B, 3, H, W)."""
        hidden = self.middle(self.input_convolution(z))
        for stage in self.stages:
            hidden = stage(hidden)
        output: Tensor = self.output_convolution(functional.silu(self.norm(hidden)))
        return output


class Autoencoder(nn.Module):
    """The KL autoencoder; latents are scaled to a standard deviation of about 1.

    Arguments:
        config: Its sizes.
        operations: Where Linear, Conv2d and GroupNorm come from.
        device: Where to make the weights ("meta" makes none).
        dtype: Their dtype.
        attention: `attention(query, key, value, heads)`.
    """

    def __init__(
        self,
        config: AutoencoderConfig,
        *,
        operations: Operations = nn,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        attention: AttentionFunction = scaled_dot_product_attention,
    ) -> None:
        super().__init__()
        layers = LayerFactory(operations, device, dtype, attention)
        self.config = config
        self.encoder = PixelEncoder(config, layers)
        self.decoder = PixelDecoder(config, layers)
        self.quantise = layers.convolution(2 * config.latent_channels, 2 * config.latent_channels, size=1)
        self.unquantise = layers.convolution(config.latent_channels, config.latent_channels, size=1)

    def encode(self, pixels: Tensor) -> LatentDistribution:
        """Encode pixels.

        Arguments:
            pixels: Values from -1 to 1, shape (B, 3, H, W), H and W divisible by 8.

        Returns:
            The distribution of the scaled latents, each (B, latent_channels, H/8, W/8).

        Raises:
            TensorShapeError: If the sides are not divisible by 8 or there are not three channels.
        """
        step = self.config.downscale
        height, width = (max(1, side // step) * step for side in pixels.shape[-2:])
        expect(pixels, "B 3 H W", "the pixels", H=height, W=width)
        mean, log_variance = self.quantise(self.encoder(pixels)).chunk(2, dim=1)
        scale = self.config.latent_scale
        return LatentDistribution(mean * scale, log_variance.clamp(-30.0, 20.0) + 2 * math.log(scale))

    def decode(self, latents: Tensor) -> Tensor:
        """Decode scaled latents (B, latent_channels, h, w) to pixels (B, 3, 8h, 8w), about -1 to 1."""
        expect(latents, "B C h w", "the latents", C=self.config.latent_channels)
        pixels: Tensor = self.decoder(self.unquantise(latents / self.config.latent_scale))
        return pixels
