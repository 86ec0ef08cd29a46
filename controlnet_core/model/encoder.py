"""The encoder of Stable Diffusion: built once, owned by the UNet and by every ControlNet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from ..config import UNetConfig
from .blocks import Block, MiddleBlock
from .layers import Downsample, LayerFactory, TwoLayerPerceptron, sinusoidal_encoding


class EncoderStage(nn.Module):
    """The blocks of one resolution and the step down to the next."""

    def __init__(self, level: int, config: UNetConfig, layers: LayerFactory) -> None:
        super().__init__()
        outputs = config.level_channels[level]
        inputs = config.level_channels[level - 1] if level else config.model_channels
        depth = config.transformer_depth[level]
        widths = [inputs] + [outputs] * config.num_res_blocks
        self.blocks = nn.ModuleList(
            Block(before, after, depth, config, layers) for before, after in pairwise(widths)
        )
        self.downsample = Downsample(outputs, layers) if level < config.block_levels.middle else None


class Encoder(nn.Module):
    """Time embedding, 12 encoder blocks and the middle block (Stable Diffusion; SDXL has 9)."""

    def __init__(self, config: UNetConfig, layers: LayerFactory) -> None:
        super().__init__()
        self.config = config
        self.time_embedding = TwoLayerPerceptron(config.model_channels, config.embedding_dim, layers)
        self.vector_embedding = (
            TwoLayerPerceptron(config.vector_dim, config.embedding_dim, layers) if config.vector_dim else None
        )
        self.input_convolution = layers.convolution(config.in_channels, config.model_channels)
        self.stages = nn.ModuleList(EncoderStage(level, config, layers) for level in range(len(config.channel_mult)))
        self.middle = MiddleBlock(config, layers)

    def embed(self, timesteps: Tensor, y: Tensor | None, dtype: torch.dtype) -> Tensor:
        """Embed the time and, where the family has one, the vector condition.

        Arguments:
            timesteps: Shape (B,), 0 to 999, fractions allowed.
            y: Shape (B, vector_dim), for families that have it.
            dtype: The dtype to compute in.

        Returns:
            Shape (B, embedding_dim).
        """
        embedding: Tensor = self.time_embedding(
            sinusoidal_encoding(timesteps, self.config.model_channels).to(dtype)
        )
        if self.vector_embedding is not None and y is not None:
            embedding = embedding + self.vector_embedding(y.to(dtype))
        return embedding

    def walk(self, x: Tensor, embedding: Tensor, context: Tensor, hint: Tensor | None = None) -> Iterator[Tensor]:
        """Yield the output of each encoder block, shallowest first, and last that of the middle block.

        A block is computed only when its output is requested, so whoever needs only the first blocks can stop early.

        Arguments:
            x: Noisy latents, shape (B, in_channels, h, w).
            embedding: What `embed` gave, shape (B, embedding_dim).
            context: Text embedding, shape (B, L, context_dim).
            hint: Embedded hint, shape (B, model_channels, h, w), added after the first convolution.
        """
        hidden = self.input_convolution(x)
        if hint is not None:
            hidden = hidden + hint
        yield hidden
        for stage in cast(Iterable[EncoderStage], self.stages):
            for block in stage.blocks:
                hidden = block(hidden, embedding, context)
                yield hidden
            if stage.downsample is not None:
                hidden = stage.downsample(hidden)
                yield hidden
        yield self.middle(hidden, embedding, context)
