"""Layers for the device "meta" that keep for the backward pass what autocast and fused attention keep on a device."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..model.layers import AttentionFunction, Operations


class AutocastLinear(nn.Linear):
    """A linear layer as autocast runs it: in bfloat16, over a copy of its weights."""

    def forward(self, x: Tensor) -> Tensor:
        """Map it."""
        bias = None if self.bias is None else self.bias.bfloat16()
        return functional.linear(x.bfloat16(), self.weight.bfloat16(), bias)


class AutocastConv2d(nn.Conv2d):
    """A convolution, likewise."""

    def forward(self, x: Tensor) -> Tensor:
        """Map it."""
        bias = None if self.bias is None else self.bias.bfloat16()
        output: Tensor = self._conv_forward(x.bfloat16(), self.weight.bfloat16(), bias)
        return output


class Float32GroupNorm(nn.GroupNorm):
    """A group norm as CUDA's autocast runs it: in float32, with an output in float32."""

    def forward(self, x: Tensor) -> Tensor:
        """Map it."""
        return super().forward(x.float())


class Float32LayerNorm(nn.LayerNorm):
    """A layer norm, likewise."""

    def forward(self, x: Tensor) -> Tensor:
        """Map it."""
        return super().forward(x.float())


class MixedGroupNorm(nn.GroupNorm):
    """A group norm as the CPU's autocast runs it: in the dtype of its input, over weights in float32."""

    def forward(self, x: Tensor) -> Tensor:
        """Map it."""
        weight, bias = (part.to(x.dtype) for part in (self.weight, self.bias))
        return functional.group_norm(x, self.num_groups, weight, bias, self.eps)


class MixedLayerNorm(nn.LayerNorm):
    """A layer norm, likewise."""

    def forward(self, x: Tensor) -> Tensor:
        """Map it."""
        weight, bias = (part.to(x.dtype) for part in (self.weight, self.bias))
        return functional.layer_norm(x, self.normalized_shape, weight, bias, self.eps)


class FusedAttention(torch.autograd.Function):
    """What fused kernels allocate and keep: query, key, value, output and a logarithm for each row."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:  # noqa: ANN401 - torch's
        """Attend."""
        output = torch.empty_like(query)
        rows = query.new_empty((query.shape[0], heads, query.shape[1]), dtype=torch.float32)
        ctx.save_for_backward(query, key, value, output, rows)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401 - torch's
        """The gradients of query, key and value."""
        query, key, value, *_ = ctx.saved_tensors
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value), None


def counted_operations(autocast: bool, device_type: str) -> Operations:
    """The layers of a net on a kind of device, under autocast to bfloat16 or not."""
    plain = SimpleNamespace(
        Linear=nn.Linear, Conv2d=nn.Conv2d, GroupNorm=nn.GroupNorm, LayerNorm=nn.LayerNorm, Embedding=nn.Embedding
    )
    if autocast:
        on_cpu = device_type == "cpu"
        plain.Linear, plain.Conv2d = AutocastLinear, AutocastConv2d
        plain.GroupNorm, plain.LayerNorm = (
            (MixedGroupNorm, MixedLayerNorm) if on_cpu else (Float32GroupNorm, Float32LayerNorm)
        )
    return plain


def counted_attention(autocast: bool) -> AttentionFunction:
    """Attention by a fused kernel, under autocast to bfloat16 or not."""

    def attention(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
        if autocast:
            query, key, value = query.bfloat16(), key.bfloat16(), value.bfloat16()
        output: Tensor = FusedAttention.apply(query, key, value, heads)  # type: ignore[no-untyped-call] # torch's
        return output

    return attention
