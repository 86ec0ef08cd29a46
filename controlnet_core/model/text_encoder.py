"""The CLIP text transformer, whose states are the UNet's context."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from ..config import TextEncoderConfig
from ..expect import expect
from .layers import LayerFactory, Operations


@dataclass(frozen=True)
class TextFeatures:
    """The output of a text transformer.

    Attributes:
        context: The state of each token, shape (B, context_length, width).
        pooled: The projected state at the end token, shape (B, projection_dim); None without a projection.
    """

    context: Tensor
    pooled: Tensor | None


class CausalSelfAttention(nn.Module):
    """Self-attention in which a token sees itself and the tokens before it."""

    def __init__(self, config: TextEncoderConfig, layers: LayerFactory) -> None:
        super().__init__()
        self.heads = config.num_heads
        self.query = layers.linear(config.width, config.width)
        self.key = layers.linear(config.width, config.width)
        self.value = layers.linear(config.width, config.width)
        self.output = layers.linear(config.width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, L, width) to (B, L, width)."""
        query, key, value = (
            rearrange(part(x), "b l (h c) -> b h l c", h=self.heads) for part in (self.query, self.key, self.value)
        )
        attended = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        output: Tensor = self.output(rearrange(attended, "b h l c -> b l (h c)"))
        return output


class TextBlock(nn.Module):
    """Causal self-attention and a perceptron, each after a layer norm."""

    def __init__(self, config: TextEncoderConfig, layers: LayerFactory) -> None:
        super().__init__()
        self.quick = config.activation == "quick_gelu"
        self.norm1 = layers.layer_norm(config.width)
        self.attention = CausalSelfAttention(config, layers)
        self.norm2 = layers.layer_norm(config.width)
        self.hidden = layers.linear(config.width, 4 * config.width)
        self.output = layers.linear(4 * config.width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, L, width) to (B, L, width)."""
        x = x + self.attention(self.norm1(x))
        hidden = self.hidden(self.norm2(x))
        hidden = hidden * torch.sigmoid(1.702 * hidden) if self.quick else functional.gelu(hidden)
        output: Tensor = x + self.output(hidden)
        return output


class TextEncoder(nn.Module):
    """A CLIP text transformer (Radford et al. 2021).

    Arguments:
        config: Its sizes and which state is the context.
        operations: Where Linear, LayerNorm and Embedding come from.
        device: Where to make the weights ("meta" makes none).
        dtype: Their dtype.
    """

    def __init__(
        self,
        config: TextEncoderConfig,
        *,
        operations: Operations = nn,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        layers = LayerFactory(operations, device, dtype)
        self.config = config
        self.token_embedding = layers.embedding(config.vocabulary, config.width)
        self.position_embedding = layers.embedding(config.context_length, config.width)
        self.blocks = nn.ModuleList(TextBlock(config, layers) for _ in range(config.layers))
        self.norm = layers.layer_norm(config.width)
        self.projection = (
            layers.linear(config.width, config.projection_dim, bias=False) if config.projection_dim else None
        )

    def forward(self, tokens: Tensor, ends: Tensor) -> TextFeatures:
        """Encode prompts.

        Arguments:
            tokens: Token numbers, shape (B, context_length).
            ends: The position of each prompt's first end token, shape (B,).

        Returns:
            The context and, where the config has a projection, the pooled embedding.
        """
        expect(tokens, "B L", "the tokens", L=self.config.context_length)
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        hidden = self.token_embedding(tokens) + self.position_embedding(positions)
        kept = self.config.layers - self.config.skipped_layers
        for block in self.blocks[:kept]:
            hidden = block(hidden)
        context = self.norm(hidden) if self.config.normalise_context else hidden
        if self.projection is None:
            return TextFeatures(context, None)
        for block in self.blocks[kept:]:
            hidden = block(hidden)
        last = self.norm(hidden)[torch.arange(len(tokens), device=tokens.device), ends]
        return TextFeatures(context, self.projection(last))
