"""Saves a ControlNet in either layout, and a base in the LDM layout."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..config import Family, TextEncoderConfig, UNetConfig
from ..errors import CheckpointError
from ..model.controlnet import ControlNet
from . import diffusers_keys, ldm_keys
from .keymap import KeyMap
from .sizes import Layout
from .source import METADATA_KEY, write_tensor_file
from .text_keys import openclip_keymap, transformers_keymap

State = Mapping[str, Tensor]


def save_controlnet(
    net: ControlNet,
    path: str | os.PathLike[str],
    layout: Layout = "ldm",
    dtype: torch.dtype | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Save a ControlNet to a safetensors file.

    Arguments:
        net: The net to save.
        path: Where to; a file there is replaced once the new one is whole.
        layout: "ldm", which ComfyUI and most programs read, or "diffusers".
        dtype: The file's dtype; None keeps the net's.
        metadata: More words to store in the file.

    Raises:
        CheckpointError: If it cannot be written, or the layout knows no such hint encoder.
    """
    tensors = controlnet_keymap(net, layout).to_theirs(net.state_dict())
    facts = {**unet_facts(net.config), "hint_encoder": net.hint_encoder_kind}
    write_tensor_file(path, _cast(tensors, dtype), {**_stored(facts), **(metadata or {})})


def controlnet_keymap(net: ControlNet, layout: Layout) -> KeyMap:
    """The key map of a net in a layout; raises CheckpointError if the layout has no name for its hint encoder."""
    if layout == "ldm":
        return ldm_keys.controlnet_keymap(net.config, net.hint_channels, net.hint_encoder_kind)
    if net.hint_encoder_kind == "reference":
        return diffusers_keys.controlnet_keymap(net.config, net.hint_channels)
    raise CheckpointError(
        found=f"a net with the hint encoder {net.hint_encoder_kind!r}",
        expected="the hint encoder 'reference' for the diffusers layout, which knows no other",
        do="save it in the LDM layout, which this package can read again",
    )


def save_base(
    path: str | os.PathLike[str],
    family: Family,
    *,
    unet: State,
    autoencoder: State,
    text_encoders: Sequence[State],
    dtype: torch.dtype | None = torch.float16,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Save a whole base to one safetensors file in the LDM layout.

    Arguments:
        path: Where to; a file there is replaced once the new one is whole.
        family: All its sizes and what it predicts; what shapes cannot say is stored in the metadata.
        unet: The UNet's state dict.
        autoencoder: The autoencoder's state dict.
        text_encoders: Their state dicts, in the family's order.
        dtype: The file's dtype; None keeps that of the tensors.
        metadata: More words to store in the file.

    Raises:
        CheckpointError: If a state dict does not fit its config, or the file cannot be written.
    """
    unet_map = ldm_keys.unet_keymap(family.unet).prefixed(ldm_keys.UNET_PREFIX)
    autoencoder_map = ldm_keys.autoencoder_keymap(family.autoencoder).prefixed(ldm_keys.AUTOENCODER_PREFIX)
    tensors = {**unet_map.to_theirs(unet), **autoencoder_map.to_theirs(autoencoder)}
    for keymap, state in zip(text_keymaps(family), text_encoders, strict=True):
        tensors.update(keymap.to_theirs(state))
    write_tensor_file(path, _cast(tensors, dtype), {**_stored(base_facts(family)), **(metadata or {})})


def text_keymaps(family: Family) -> tuple[KeyMap, ...]:
    """Where the LDM layout keeps a family's text encoders."""
    if len(family.text_encoders) == 2:
        first, second = family.text_encoders
        return (
            transformers_keymap(first).prefixed("conditioner.embedders.0.transformer."),
            openclip_keymap(second).prefixed("conditioner.embedders.1.model."),
        )
    (encoder,) = family.text_encoders
    if family.unet.context_dim == 1024:
        return (openclip_keymap(encoder).prefixed("cond_stage_model.model."),)
    return (transformers_keymap(encoder).prefixed("cond_stage_model.transformer."),)


def base_facts(family: Family) -> dict[str, Any]:
    """What the shapes of a base's file cannot say."""
    return {
        **unet_facts(family.unet),
        "prediction": family.prediction,
        "image_size": family.image_size,
        "latent_scale": family.autoencoder.latent_scale,
        "text_encoders": [text_facts(config) for config in family.text_encoders],
    }


def unet_facts(config: UNetConfig) -> dict[str, Any]:
    """What the shapes of a UNet or ControlNet cannot say."""
    names = ("family", "num_heads", "head_channels", "float32_attention")
    return {name: getattr(config, name) for name in names}


def text_facts(config: TextEncoderConfig) -> dict[str, Any]:
    """What the shapes of a text encoder cannot say."""
    names = ("layers", "num_heads", "activation", "skipped_layers", "normalise_context", "pad_token")
    return {name: getattr(config, name) for name in names}


def _stored(facts: Mapping[str, Any]) -> dict[str, str]:
    return {METADATA_KEY: json.dumps(facts)}


def _cast(tensors: State, dtype: torch.dtype | None) -> dict[str, Tensor]:
    return {key: tensor.to(dtype or tensor.dtype) for key, tensor in tensors.items()}
