"""The small parts: the layer factory, time encoding, resampling and the zero convolution."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

AttentionFunction = Callable[[Tensor, Tensor, Tensor, int], Tensor]
"""`attention(query, key, value, heads)`, each (B, L, heads * channels), gives (B, L, heads * channels)."""


def scaled_dot_product_attention(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """Attention over (B, L, heads * channels) tensors by torch's own kernels."""
    query, key, value = (rearrange(part, "b l (h c) -> b h l c", h=heads) for part in (query, key, value))
    return rearrange(functional.scaled_dot_product_attention(query, key, value), "b h l c -> b l (h c)")


class Operations(Protocol):
    """Where layers with weights come from: `torch.nn`, or a host's namespace of the same names."""

    @property
    def Linear(self) -> Callable[..., nn.Module]:
        """As `torch.nn.Linear`."""
        ...

    @property
    def Conv2d(self) -> Callable[..., nn.Module]:
        """As `torch.nn.Conv2d`."""
        ...

    @property
    def GroupNorm(self) -> Callable[..., nn.Module]:
        """As `torch.nn.GroupNorm`."""
        ...

    @property
    def LayerNorm(self) -> Callable[..., nn.Module]:
        """As `torch.nn.LayerNorm`."""
        ...

    @property
    def Embedding(self) -> Callable[..., nn.Module]:
        """As `torch.nn.Embedding`."""
        ...


@dataclass(frozen=True)
class LayerFactory:
    """Makes the layers that carry weights, so that a host can cast, offload and stream them.

    Attributes:
        operations: `torch.nn`, or a host's.
        device: Where the weights are made.
        dtype: Their dtype.
        attention: The attention function of every transformer block.
    """

    operations: Operations = nn
    device: torch.device | str | None = None
    dtype: torch.dtype | None = None
    attention: AttentionFunction = scaled_dot_product_attention

    def linear(self, inputs: int, outputs: int, bias: bool = True) -> nn.Module:
        """A linear layer."""
        return self.operations.Linear(inputs, outputs, bias=bias, device=self.device, dtype=self.dtype)

    def convolution(
        self, inputs: int, outputs: int, size: int = 3, stride: int = 1, padding: int | None = None
    ) -> nn.Module:
        """A square convolution that keeps the size at stride 1."""
        padding = size // 2 if padding is None else padding
        return self.operations.Conv2d(
            inputs, outputs, size, stride=stride, padding=padding, device=self.device, dtype=self.dtype
        )

    def group_norm(self, channels: int, eps: float = 1e-5) -> nn.Module:
        """Group normalisation over 32 groups."""
        return self.operations.GroupNorm(32, channels, eps=eps, device=self.device, dtype=self.dtype)

    def layer_norm(self, width: int) -> nn.Module:
        """Layer normalisation."""
        return self.operations.LayerNorm(width, device=self.device, dtype=self.dtype)

    def embedding(self, count: int, width: int) -> nn.Module:
        """A table of vectors."""
        return self.operations.Embedding(count, width, device=self.device, dtype=self.dtype)


def zero_convolution(layers: LayerFactory, inputs: int, outputs: int) -> nn.Module:
    """A 1x1 convolution, whose weight and bias `zero_` sets to zero (Zhang et al. 2023, section 3.1)."""
    return layers.convolution(inputs, outputs, size=1)


def zero_(layer: nn.Module) -> None:
    """Set all weights and biases of a layer to zero, in place."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


def sinusoidal_encoding(positions: Tensor, width: int) -> Tensor:
    """Encode numbers, such as timesteps, as cosines and sines of falling frequency.

    Arguments:
        positions: Shape (B,).
        width: Even width of the encoding.

    Returns:
        Shape (B, width), float32: first the cosines, then the sines.
    """
    half = width // 2
    exponents = torch.arange(half, dtype=torch.float32, device=positions.device) / half
    angles = positions.float()[:, None] * torch.exp(-math.log(10000.0) * exponents)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class TwoLayerPerceptron(nn.Module):
    """Linear, SiLU, linear: how the time encoding and the vector condition enter the net."""

    def __init__(self, inputs: int, outputs: int, layers: LayerFactory) -> None:
        super().__init__()
        self.linear1 = layers.linear(inputs, outputs)
        self.linear2 = layers.linear(outputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs) to (B, outputs)."""
        output: Tensor = self.linear2(functional.silu(self.linear1(x)))
        return output


class Downsample(nn.Module):
    """Halve the resolution, rounded up, by a convolution of stride 2."""

    def __init__(self, channels: int, layers: LayerFactory) -> None:
        super().__init__()
        self.convolution = layers.convolution(channels, channels, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, h, w) to (B, C, ceil(h/2), ceil(w/2))."""
        output: Tensor = self.convolution(x)
        return output


class Upsample(nn.Module):
    """Enlarge to nearest neighbours, then convolve."""

    def __init__(self, channels: int, layers: LayerFactory) -> None:
        super().__init__()
        self.convolution = layers.convolution(channels, channels)

    def forward(self, x: Tensor, size: torch.Size | tuple[int, int]) -> Tensor:
        """Map (B, C, h, w) to (B, C, *size)."""
        output: Tensor = self.convolution(functional.interpolate(x, size=tuple(size), mode="nearest"))
        return output
