"""Attention, the transformer block and the spatial transformer around it."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from ..config import UNetConfig
from .layers import LayerFactory


class Attention(nn.Module):
    """Multi-head attention of a sequence to a context, or to itself."""

    def __init__(self, channels: int, context_dim: int, config: UNetConfig, layers: LayerFactory) -> None:
        super().__init__()
        self.heads = config.heads(channels)
        self.in_float32 = config.float32_attention
        self.attention = layers.attention
        self.query = layers.linear(channels, channels, bias=False)
        self.key = layers.linear(context_dim, channels, bias=False)
        self.value = layers.linear(context_dim, channels, bias=False)
        self.output = layers.linear(channels, channels)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """Let `x` (B, L, C) attend to `context` (B, S, context_dim); gives (B, L, C)."""
        query, key, value = self.query(x), self.key(context), self.value(context)
        if self.in_float32 and query.dtype in (torch.float16, torch.bfloat16):
            query, key, value = query.float(), key.float(), value.float()
        output: Tensor = self.output(self.attention(query, key, value, self.heads).to(x.dtype))
        return output


class FeedForward(nn.Module):
    """A perceptron whose hidden layer is gated by a GELU."""

    def __init__(self, channels: int, layers: LayerFactory) -> None:
        super().__init__()
        self.gated = layers.linear(channels, 8 * channels)
        self.output = layers.linear(4 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, L, C) to (B, L, C)."""
        hidden, gate = self.gated(x).chunk(2, dim=-1)
        output: Tensor = self.output(hidden * functional.gelu(gate))
        return output


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention to the text and a perceptron, each after a layer norm."""

    def __init__(self, channels: int, config: UNetConfig, layers: LayerFactory) -> None:
        super().__init__()
        self.norm1 = layers.layer_norm(channels)
        self.self_attention = Attention(channels, channels, config, layers)
        self.norm2 = layers.layer_norm(channels)
        self.cross_attention = Attention(channels, config.context_dim, config, layers)
        self.norm3 = layers.layer_norm(channels)
        self.feed_forward = FeedForward(channels, layers)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """Map `x` (B, L, C) with `context` (B, S, context_dim) to (B, L, C)."""
        normalised = self.norm1(x)
        x = x + self.self_attention(normalised, normalised)
        x = x + self.cross_attention(self.norm2(x), context)
        output: Tensor = x + self.feed_forward(self.norm3(x))
        return output


class SpatialTransformer(nn.Module):
    """Transformer blocks over the positions of an image."""

    def __init__(self, channels: int, depth: int, config: UNetConfig, layers: LayerFactory) -> None:
        super().__init__()
        self.linear = config.linear_projection
        self.norm = layers.group_norm(channels, eps=1e-6)
        self.project_in = self._projection(channels, layers)
        self.blocks = nn.ModuleList(TransformerBlock(channels, config, layers) for _ in range(depth))
        self.project_out = self._projection(channels, layers)

    def _projection(self, channels: int, layers: LayerFactory) -> nn.Module:
        return layers.linear(channels, channels) if self.linear else layers.convolution(channels, channels, size=1)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """Map `x` (B, C, h, w) with `context` (B, S, context_dim) to (B, C, h, w)."""
        height, width = x.shape[-2:]
        hidden = self.norm(x)
        if self.linear:
            hidden = self.project_in(rearrange(hidden, "b c h w -> b (h w) c"))
        else:
            hidden = rearrange(self.project_in(hidden), "b c h w -> b (h w) c")
        for block in self.blocks:
            hidden = block(hidden, context)
        if self.linear:
            hidden = rearrange(self.project_out(hidden), "b (h w) c -> b c h w", h=height, w=width)
        else:
            hidden = self.project_out(rearrange(hidden, "b (h w) c -> b c h w", h=height, w=width))
        output: Tensor = x + hidden
        return output
