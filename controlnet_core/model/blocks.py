"""The residual block and the unit that encoder and decoder repeat: residual block, then transformer."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from ..config import UNetConfig
from .attention import SpatialTransformer
from .layers import LayerFactory
from .recompute import Recomputable


class ResidualBlock(nn.Module):
    """Two convolutions around a shortcut, with the time embedding added between them where there is one.

    Arguments:
        inputs: Channels of the input.
        outputs: Channels of the output.
        layers: Makes its layers.
        embedding_dim: Width of the time embedding; None in the autoencoder, which has no time.
        eps: Keeps the group norms from dividing by zero.
    """

    def __init__(
        self, inputs: int, outputs: int, layers: LayerFactory, embedding_dim: int | None, eps: float = 1e-5
    ) -> None:
        super().__init__()
        self.norm1 = layers.group_norm(inputs, eps)
        self.convolution1 = layers.convolution(inputs, outputs)
        self.time_projection = layers.linear(embedding_dim, outputs) if embedding_dim else None
        self.norm2 = layers.group_norm(outputs, eps)
        self.convolution2 = layers.convolution(outputs, outputs)
        self.shortcut = layers.convolution(inputs, outputs, size=1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor | None = None) -> Tensor:
        """Map `x` (B, inputs, h, w) with the time `embedding` (B, E) to (B, outputs, h, w)."""
        hidden = self.convolution1(functional.silu(self.norm1(x)))
        if self.time_projection is not None and embedding is not None:
            hidden = hidden + self.time_projection(functional.silu(embedding))[:, :, None, None]
        hidden = self.convolution2(functional.silu(self.norm2(hidden)))
        output: Tensor = self.shortcut(x) + hidden
        return output


class Block(Recomputable):
    """A residual block and, where the level has any, the transformer after it."""

    def __init__(self, inputs: int, outputs: int, depth: int, config: UNetConfig, layers: LayerFactory) -> None:
        super().__init__()
        self.residual = ResidualBlock(inputs, outputs, layers, config.embedding_dim)
        self.attention = SpatialTransformer(outputs, depth, config, layers) if depth else None

    def forward(self, x: Tensor, embedding: Tensor, context: Tensor) -> Tensor:
        """Map `x` (B, inputs, h, w) with time `embedding` and text `context` to (B, outputs, h, w)."""
        hidden: Tensor = self.residual(x, embedding)
        return hidden if self.attention is None else self.attention(hidden, context)


class MiddleBlock(Recomputable):
    """Residual block, transformer, residual block at the lowest resolution."""

    def __init__(self, config: UNetConfig, layers: LayerFactory) -> None:
        super().__init__()
        channels, depth = config.level_channels[-1], config.transformer_depth_middle
        self.residual1 = ResidualBlock(channels, channels, layers, config.embedding_dim)
        self.attention = SpatialTransformer(channels, depth, config, layers)
        self.residual2 = ResidualBlock(channels, channels, layers, config.embedding_dim)

    def forward(self, x: Tensor, embedding: Tensor, context: Tensor) -> Tensor:
        """Map `x` (B, C, h, w) with time `embedding` and text `context` to (B, C, h, w)."""
        output: Tensor = self.residual2(self.attention(self.residual1(x, embedding), context), embedding)
        return output
