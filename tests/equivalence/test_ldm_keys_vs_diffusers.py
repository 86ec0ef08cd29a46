"""Our LDM keys, converted by diffusers' own single-file code, are our diffusers keys: no one here wrote that list."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from diffusers.loaders.single_file_utils import (
    convert_controlnet_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from torch import Tensor

from controlnet_core.model.autoencoder import Autoencoder
from controlnet_core.model.controlnet import ControlNet
from controlnet_core.model.text_encoder import TextEncoder
from controlnet_core.model.unet import UNet
from controlnet_core.weights.layouts import diffusers, ldm, openclip, transformers
from controlnet_core.weights.layouts.kinds import ControlNetConfig
from tests.support.reduced import REDUCED, randomised
from tests.support.references import encoder_arguments

Tensors = dict[str, Tensor]


def unet(name: str) -> tuple[Tensors, Tensors]:
    config = REDUCED[name].unet
    state = randomised(UNet(config)).state_dict()
    theirs = ldm.unet_keymap(config).prefixed("model.diffusion_model.").to_theirs(state)
    converted = convert_ldm_unet_checkpoint(theirs, encoder_arguments(config))
    return converted, diffusers.unet_keymap(config).to_theirs(state)


def controlnet(name: str) -> tuple[Tensors, Tensors]:
    config = REDUCED[name].unet
    state = randomised(ControlNet(config)).state_dict()
    theirs = ldm.controlnet_keymap(ControlNetConfig(config)).prefixed("control_model.").to_theirs(state)
    converted = convert_controlnet_checkpoint(theirs, encoder_arguments(config))
    expected = diffusers.controlnet_keymap(ControlNetConfig(config)).to_theirs(state)
    # That function leaves out the vector embedding of SDXL, which is named as the UNet's.
    return converted, {key: tensor for key, tensor in expected.items() if not key.startswith("add_embedding.")}


def autoencoder(name: str) -> tuple[Tensors, Tensors]:
    config = REDUCED[name].autoencoder
    state = randomised(Autoencoder(config)).state_dict()
    theirs = ldm.autoencoder_keymap(config).prefixed("first_stage_model.").to_theirs(state)
    converted = convert_ldm_vae_checkpoint(theirs, {"down_block_types": (None,) * 4, "up_block_types": (None,) * 4})
    return converted, diffusers.autoencoder_keymap(config).to_theirs(state)


def text_encoder(name: str) -> tuple[Tensors, Tensors]:
    config = REDUCED[name].text_encoders[-1]
    state = randomised(TextEncoder(config)).state_dict()
    prefix = "conditioner.embedders.1.model."
    theirs = openclip.text_encoder_keymap(config).prefixed(prefix).to_theirs(state)
    model = SimpleNamespace(config=SimpleNamespace(hidden_size=config.width))
    converted = convert_open_clip_checkpoint(model, theirs, prefix)
    return converted, transformers.text_encoder_keymap(config).to_theirs(state)


@pytest.mark.parametrize("name", REDUCED)
@pytest.mark.parametrize("part", [unet, controlnet, autoencoder, text_encoder])
def test_converted_keys_are_ours(part: Callable[[str], tuple[Tensors, Tensors]], name: str) -> None:
    converted, ours = part(name)
    assert converted.keys() == ours.keys(), f"{sorted(converted.keys() ^ ours.keys())[:5]}"
    differing = [key for key, tensor in ours.items() if not torch.equal(converted[key], tensor)]
    assert not differing, f"{len(differing)} tensors differ: {differing[:5]}"
