"""Key maps are complete, exact in number and shape, and lose nothing on the way there and back."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from controlnet_core.config import FAMILIES
from controlnet_core.errors import CheckpointError
from controlnet_core.model.autoencoder import Autoencoder
from controlnet_core.model.controlnet import ControlNet
from controlnet_core.model.text_encoder import TextEncoder
from controlnet_core.model.unet import UNet
from controlnet_core.weights.keymap import KeyMap
from controlnet_core.weights.layouts import diffusers, ldm, openclip, transformers
from controlnet_core.weights.layouts.kinds import ControlNetConfig
from tests.support.reduced import REDUCED, randomised

COUNTS = {
    "SD1.5": ((686, 859_520_964), (340, 361_279_120)),
    "SD2.1": ((686, 865_910_724), (340, 364_228_240)),
    "SDXL": ((1680, 2_567_463_684), (844, 1_251_014_160)),
}


def maps(name: str) -> Iterator[tuple[str, KeyMap, nn.Module]]:
    """Every key map of a family of reduced width, and a module it is for."""
    family = REDUCED[name]
    unet, net = UNet(family.unet), ControlNet(family.unet, 4)
    yield "UNet, LDM", ldm.unet_keymap(family.unet), unet
    yield "UNet, diffusers", diffusers.unet_keymap(family.unet), unet
    yield "ControlNet, LDM", ldm.controlnet_keymap(ControlNetConfig(family.unet, 4)), net
    yield "ControlNet, diffusers", diffusers.controlnet_keymap(ControlNetConfig(family.unet, 4)), net
    paper = ControlNet(family.unet, 3, "paper")
    yield "ControlNet of the paper, LDM", ldm.controlnet_keymap(ControlNetConfig(family.unet, 3, "paper")), paper
    autoencoder = Autoencoder(family.autoencoder)
    yield "autoencoder, LDM", ldm.autoencoder_keymap(family.autoencoder), autoencoder
    yield "autoencoder, diffusers", diffusers.autoencoder_keymap(family.autoencoder), autoencoder
    yield (
        "old autoencoder",
        diffusers.autoencoder_keymap(family.autoencoder, diffusers.OLD_PIXEL_ATTENTION),
        autoencoder,
    )
    for config in family.text_encoders:
        encoder = TextEncoder(config)
        yield "text encoder, transformers", transformers.text_encoder_keymap(config), encoder
        yield "text encoder, OpenCLIP", openclip.text_encoder_keymap(config), encoder


@pytest.mark.parametrize("name", COUNTS)
def test_counts_of_the_published_models(name: str) -> None:
    config = FAMILIES[name].unet
    found = []
    for keymap in (ldm.unet_keymap(config), ldm.controlnet_keymap(ControlNetConfig(config))):
        shapes = keymap.file_shapes
        found.append((len(shapes), sum(torch.Size(shape).numel() for shape in shapes.values())))
    assert tuple(found) == COUNTS[name]


@pytest.mark.parametrize("name", REDUCED)
def test_there_and_back_bitwise(name: str) -> None:
    for words, keymap, module in maps(name):
        state = randomised(module).state_dict()
        theirs = keymap.to_theirs(state)
        assert {key: tuple(tensor.shape) for key, tensor in theirs.items()} == keymap.file_shapes, words
        ours = keymap.to_ours(theirs)
        assert ours.keys() == state.keys(), words
        assert all(torch.equal(ours[key], state[key]) for key in state), words
        again = keymap.to_theirs(ours)
        assert all(torch.equal(again[key], theirs[key]) for key in theirs), words


def test_keys_follow_from_the_layouts() -> None:
    net = ldm.controlnet_keymap(ControlNetConfig(FAMILIES["SD1.5"].unet)).file_shapes
    assert net["input_hint_block.14.weight"] == (320, 256, 3, 3)
    assert net["zero_convs.11.0.weight"] == (1280, 1280, 1, 1)
    assert net["input_blocks.1.1.proj_in.weight"] == (320, 320, 1, 1)
    assert ldm.controlnet_keymap(ControlNetConfig(FAMILIES["SDXL"].unet)).file_shapes["label_emb.0.0.weight"] == (
        1280,
        2816,
    )
    paper = ldm.controlnet_keymap(ControlNetConfig(FAMILIES["SD1.5"].unet, 3, "paper")).file_shapes
    assert paper["input_hint_block.8.weight"] == (320, 128, 1, 1)
    autoencoder = ldm.autoencoder_keymap(FAMILIES["SD1.5"].autoencoder).file_shapes
    assert autoencoder["encoder.mid.attn_1.q.weight"] == (512, 512, 1, 1)
    text = openclip.text_encoder_keymap(FAMILIES["SDXL"].text_encoders[1]).file_shapes
    assert text["transformer.resblocks.31.attn.in_proj_weight"] == (3840, 1280)


def test_what_does_not_fit_is_named() -> None:
    keymap = ldm.controlnet_keymap(ControlNetConfig(REDUCED["SD1.5"].unet))
    found = dict(keymap.file_shapes)
    del found["middle_block_out.0.bias"]
    found["zero_convs.3.0.weight"] = (5, 5, 1, 1)
    found["a.stranger"] = (1,)
    with pytest.raises(CheckpointError) as caught:
        keymap.require(found, "net.safetensors")
    message = str(caught.value)
    for words in (
        "net.safetensors",
        "1 missing (middle_block_out.0.bias)",
        "1 unknown (a.stranger)",
        "1 of another shape (zero_convs.3.0.weight: (5, 5, 1, 1), not (32, 32, 1, 1))",
        "the 340 tensors",
    ):
        assert words in message


def test_known_keys_are_reported_not_refused() -> None:
    keymap = openclip.text_encoder_keymap(FAMILIES["SD2.1"].text_encoders[0]).prefixed("cond_stage_model.model.")
    beside = {
        "cond_stage_model.model.transformer.resblocks.23.ln_1.weight": (1024,),
        "cond_stage_model.model.text_projection": (1024, 1024),
        "cond_stage_model.model.logit_scale": (),
    }
    assert keymap.require({**keymap.file_shapes, **beside}, "here").unused == tuple(beside)
    earlier = {"cond_stage_model.model.transformer.resblocks.24.ln_1.weight": (1024,)}
    assert keymap.compare({**keymap.file_shapes, **earlier}).extra == tuple(earlier)


def test_a_pointwise_layer_may_be_stored_without_its_pixels() -> None:
    keymap = ldm.autoencoder_keymap(REDUCED["SD1.5"].autoencoder)
    state = randomised(Autoencoder(REDUCED["SD1.5"].autoencoder)).state_dict()
    linear = {
        key: tensor.flatten(1) if ".attn_1." in key and tensor.ndim == 4 else tensor
        for key, tensor in keymap.to_theirs(state).items()
    }
    assert linear["encoder.mid.attn_1.q.weight"].ndim == 2
    ours = keymap.to_ours(linear)
    assert all(torch.equal(ours[key], state[key]) for key in state)


def test_a_foreign_state_dict_is_refused() -> None:
    unet = UNet(REDUCED["SD1.5"].unet, device="meta")
    with pytest.raises(CheckpointError, match="decoder"):
        ldm.controlnet_keymap(ControlNetConfig(REDUCED["SD1.5"].unet)).to_theirs(unet.state_dict())
