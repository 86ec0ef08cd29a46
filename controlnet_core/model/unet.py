"""The UNet of Stable Diffusion: an encoder, and a decoder that takes its skips and a ControlNet's residuals."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..config import UNetConfig
from ..errors import FamilyMismatchError, ResidualShapeError
from ..expect import expect
from .blocks import Block
from .encoder import Encoder
from .layers import AttentionFunction, LayerFactory, Operations, Upsample, scaled_dot_product_attention
from .residuals import Residuals


@dataclass(frozen=True)
class Features:
    """What the encoder passes to the decoder.

    Attributes:
        skips: The output of each encoder block, shallowest first.
        middle: The output of the middle block.
        embedding: The time embedding, shape (B, embedding_dim).
    """

    skips: tuple[Tensor, ...]
    middle: Tensor
    embedding: Tensor

    def plus(self, residuals: Residuals) -> Features:
        """Add residuals out of place: 12 to the skips, one to the middle (Zhang et al. 2023, section 3.2)."""
        if len(residuals.skips) > len(self.skips):
            raise ResidualShapeError(
                found=f"{len(residuals.skips)} skip residuals",
                expected=f"at most {len(self.skips)}",
                do="apply a ControlNet of the base's own family",
            )
        total = Residuals(self.skips, self.middle) + residuals
        return Features(total.skips, self.middle if total.middle is None else total.middle, self.embedding)


class DecoderStage(nn.Module):
    """The blocks of one resolution, each reading one skip, and the step up to the next."""

    def __init__(self, level: int, config: UNetConfig, layers: LayerFactory) -> None:
        super().__init__()
        outputs = config.level_channels[level]
        inputs = config.level_channels[min(level + 1, config.block_levels.middle)]
        depth = config.transformer_depth[level]
        # Each encoder level gives one skip more than it has blocks: first that of the input convolution or of the step
        # down to it, then those of its blocks. The decoder reads them from the last to the first.
        count = config.num_res_blocks + 1
        skips = config.skip_channels[level * count : (level + 1) * count][::-1]
        widths = [inputs] + [outputs] * config.num_res_blocks
        self.blocks = nn.ModuleList(
            Block(width + skip, outputs, depth, config, layers) for width, skip in zip(widths, skips, strict=True)
        )
        self.upsample = Upsample(outputs, layers) if level else None


class Decoder(nn.Module):
    """12 decoder blocks that read the skips from the deepest to the shallowest, and the output convolution."""

    def __init__(self, config: UNetConfig, layers: LayerFactory) -> None:
        super().__init__()
        levels = reversed(range(len(config.channel_mult)))
        self.stages = nn.ModuleList(DecoderStage(level, config, layers) for level in levels)
        self.norm = layers.group_norm(config.model_channels)
        self.output_convolution = layers.convolution(config.model_channels, config.out_channels)

    def forward(self, features: Features, context: Tensor) -> Tensor:
        """Map the encoder's features to the prediction, (B, out_channels, h, w)."""
        hidden, skips = features.middle, list(features.skips)
        for stage in cast(Iterable[DecoderStage], self.stages):
            for block in stage.blocks:
                hidden = block(torch.cat([hidden, skips.pop()], dim=1), features.embedding, context)
            if stage.upsample is not None:
                hidden = stage.upsample(hidden, skips[-1].shape[-2:])
        output: Tensor = self.output_convolution(functional.silu(self.norm(hidden)))
        return output


class UNet(nn.Module):
    """The denoising UNet of Stable Diffusion (Rombach et al. 2022).

    Arguments:
        config: The family's sizes.
        operations: Where Linear, Conv2d, GroupNorm, LayerNorm and Embedding come from.
        device: Where to make the weights ("meta" makes none).
        dtype: Their dtype.
        attention: `attention(query, key, value, heads)`.
    """

    def __init__(
        self,
        config: UNetConfig,
        *,
        operations: Operations = nn,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        attention: AttentionFunction = scaled_dot_product_attention,
    ) -> None:
        super().__init__()
        layers = LayerFactory(operations, device, dtype, attention)
        self.config = config
        self.encoder = Encoder(config, layers)
        self.decoder = Decoder(config, layers)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of its weights."""
        return next(self.parameters()).dtype

    def encode(self, x: Tensor, timesteps: Tensor, context: Tensor, y: Tensor | None = None) -> Features:
        """Run the encoder; arguments as in `forward`."""
        embedding = self.encoder.embed(timesteps, y, x.dtype)
        *skips, middle = self.encoder.walk(x, embedding, context)
        return Features(tuple(skips), middle, embedding)

    def decode(self, features: Features, context: Tensor, residuals: Residuals | None = None) -> Tensor:
        """Add the residuals, if any, to the features and run the decoder; gives (B, out_channels, h, w)."""
        output: Tensor = self.decoder(features if residuals is None else features.plus(residuals), context)
        return output

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor,
        y: Tensor | None = None,
        residuals: Residuals | None = None,
    ) -> Tensor:
        """Predict the noise (or v) in noisy latents.

        Arguments:
            x: Noisy latents, shape (B, in_channels, h, w).
            timesteps: Shape (B,), 0 to 999, fractions allowed.
            context: Text embedding, shape (B, L, context_dim).
            y: Vector condition, shape (B, vector_dim), for families that have one.
            residuals: What a ControlNet adds.

        Returns:
            Shape (B, out_channels, h, w).

        Raises:
            TensorShapeError: If a shape does not fit.
            FamilyMismatchError: If the text embedding or vector is another family's.
        """
        check_inputs(self.config, x, timesteps, context, y)
        return self.decode(self.encode(x, timesteps, context, y), context, residuals)


def check_inputs(config: UNetConfig, x: Tensor, timesteps: Tensor, context: Tensor, y: Tensor | None) -> None:
    """Check the inputs of a UNet or ControlNet of that family; raises as `UNet.forward` says."""
    expect(x, "B C h w", "the latents", C=config.in_channels)
    expect(timesteps, "B", "the timesteps", B=x.shape[0])
    expect(context, "B L width", "the context", B=x.shape[0], width=context.shape[-1])
    if context.shape[-1] != config.context_dim:
        raise FamilyMismatchError(
            found=f"a text embedding of width {context.shape[-1]}",
            expected=f"{config.context_dim}, the width of {config.family}",
            do="use a net, a base and a text encoder of the same family",
        )
    if (y is None) != (config.vector_dim is None):
        raise FamilyMismatchError(
            found="no vector condition y" if y is None else "a vector condition y",
            expected=f"{'one' if y is None else 'none'} for {config.family}",
            do="use a net, a base and a text encoder of the same family",
        )
    if y is not None and config.vector_dim is not None:
        expect(y, "B V", "the vector condition y", B=x.shape[0], V=config.vector_dim)
