"""Loads a ControlNet from either layout."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
from torch import nn

from ..config import UNetConfig
from ..model.controlnet import ControlNet
from ..model.hint import HintEncoderKind
from ..model.layers import AttentionFunction, Operations, scaled_dot_product_attention
from . import diffusers_keys, ldm_keys
from .detect import Detected, locate, refusal
from .part import Part
from .sizes import Layout, read_hint, read_unet_config, strip
from .source import TensorFile, open_tensor_file

BESIDE_A_CONTROLNET = ("model.diffusion_model.*", "first_stage_model.*", "cond_stage_model.*")
TRAINING_LEFTOVERS = (
    "model_ema.*",
    "betas",
    "alphas_cumprod*",
    "sqrt_*",
    "log_one_minus_alphas_cumprod",
    "posterior_*",
    "lvlb_weights",
    "logvar",
    "log_vars",
    "*.log_vars",
    "scale_factor",
    "global_step",
    "denoiser.*",
    "v_pred",
    "ztsnr",
    "embedding_manager.*",
)
"""Keys that training left in published files: averaged weights, the noise schedule and counters."""


@dataclass(frozen=True)
class ControlNetPart:
    """A ControlNet inside a file.

    Attributes:
        part: Its sizes and weights.
        layout: Whose key names the file has.
        hint_channels: Channels of its hint image.
        hint_encoder: Which hint encoder it has.
    """

    part: Part[UNetConfig]
    layout: Layout
    hint_channels: int
    hint_encoder: HintEncoderKind


def load_controlnet(
    path: str | os.PathLike[str],
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    operations: Operations = nn,
    attention: AttentionFunction = scaled_dot_product_attention,
) -> ControlNet:
    """Load a ControlNet.

    Arguments:
        path: A safetensors file in the LDM layout, with or without the prefix `control_model.`, or in the
            diffusers layout; or a diffusers folder.
        device: Where to put it; the CPU by default.
        dtype: Its dtype; None keeps the file's.
        operations: Where its layers come from, `torch.nn` or a host's.
        attention: `attention(query, key, value, heads)`, torch's or a host's.

    Returns:
        The net, in evaluation mode. The file is not held open.

    Raises:
        CheckpointError: If the file is no such net, or a tensor is missing, unknown or of another shape.
    """
    found = controlnet_part(open_tensor_file(path))
    return read_controlnet(found, device=device, dtype=dtype, operations=operations, attention=attention)


def read_controlnet(
    found: ControlNetPart,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    operations: Operations = nn,
    attention: AttentionFunction = scaled_dot_product_attention,
) -> ControlNet:
    """Build the ControlNet that was found in a file and read its weights; arguments and errors as `load_controlnet`."""
    part = found.part
    part.keymap.require(part.file.shapes, str(part.file.path))
    net = ControlNet(
        part.config,
        found.hint_channels,
        found.hint_encoder,
        operations=operations,
        device="meta",
        dtype=dtype,
        attention=attention,
    )
    net.load_state_dict(part.state_dict(device=device, dtype=dtype), assign=True)
    return net.train(False)


def controlnet_part(file: TensorFile) -> ControlNetPart:
    """Find the ControlNet in a file and read its sizes; its tensors are not compared with the key map yet.

    Raises:
        CheckpointError: If there is none, or its sizes cannot be read.
    """
    detected = locate(file.shapes, "controlnet")
    if detected is None:
        raise refusal(file.shapes, "a ControlNet of Stable Diffusion 1.5, 2.1 or SDXL", str(file.path))
    return _described(file, detected)


def controlnet_config(file: TensorFile) -> UNetConfig | None:
    """The sizes of the ControlNet in a file, told by its header in milliseconds; None if there is none.

    Raises:
        CheckpointError: If its sizes cannot be read.
    """
    detected = locate(file.shapes, "controlnet")
    if detected is None:
        return None
    return read_unet_config(strip(file.shapes, detected.prefix), detected.kind.layout, file.stored_facts())


def _described(file: TensorFile, detected: Detected) -> ControlNetPart:
    layout, shapes = detected.kind.layout, strip(file.shapes, detected.prefix)
    config = read_unet_config(shapes, layout, file.stored_facts())
    channels, encoder = read_hint(shapes, layout)
    if layout == "ldm":
        keymap = ldm_keys.controlnet_keymap(config, channels, encoder)
    else:
        keymap = diffusers_keys.controlnet_keymap(config, channels)
    outer = detected.prefix.removesuffix(ldm_keys.CONTROLNET_PREFIX)
    beside = tuple(outer + pattern for pattern in (*TRAINING_LEFTOVERS, *BESIDE_A_CONTROLNET))
    part = Part(config, keymap.prefixed(detected.prefix).ignoring(*beside), file)
    return ControlNetPart(part, layout, channels, encoder)
