"""Loads a ControlNet of any layout."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from ..hint_statistics import expected_hints
from ..model.controlnet import ControlNet
from ..model.layers import AttentionFunction, Operations, scaled_dot_product_attention
from .layouts.kinds import ControlNetConfig
from .parts.controlnet_part import controlnet_part
from .parts.part import Part
from .safetensors_file import open_tensor_file


def load_controlnet(
    path: str | os.PathLike[str],
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    operations: Operations = nn,
    attention: AttentionFunction = scaled_dot_product_attention,
    pooled: bool | None = None,
) -> ControlNet:
    """Load a ControlNet.

    Arguments:
        path: A safetensors file in the LDM layout, with or without the prefix `control_model.`, or in the
            diffusers layout; or a diffusers folder.
        device: Where to put it; the CPU by default.
        dtype: Its dtype; None keeps the file's.
        operations: Where its layers come from, `torch.nn` or a host's.
        attention: `attention(query, key, value, heads)`, torch's or a host's.
        pooled: Whether its residuals are averaged over the picture; None goes by what the file or the config.json
            beside it states, else by "shuffle" in its name.

    Returns:
        The net, in evaluation mode. The file is not held open.

    Raises:
        CheckpointError: If the file is no such net, or a tensor is missing, unknown or of another shape.
    """
    found = controlnet_part(open_tensor_file(path))
    if pooled is not None:
        found = replace(found, config=replace(found.config, pooled=pooled))
    return read_controlnet(found, device=device, dtype=dtype, operations=operations, attention=attention)


def read_controlnet(
    found: Part[ControlNetConfig],
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    operations: Operations = nn,
    attention: AttentionFunction = scaled_dot_product_attention,
) -> ControlNet:
    """Build the ControlNet that was found in a source and read its weights; the rest is as `load_controlnet` says."""
    found.require()
    config = found.config
    net = ControlNet(
        config.unet,
        config.hint_channels,
        config.hint_encoder,
        operations=operations,
        device="meta",
        dtype=dtype,
        attention=attention,
        pooled=config.pooled,
    )
    net.load_state_dict(found.state_dict(device=device, dtype=dtype), assign=True)
    net.hint_statistics = expected_hints(found.source.metadata, Path(found.source.place).name)
    return net.train(False)
