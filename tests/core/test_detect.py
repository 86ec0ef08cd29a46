"""Every kind of file is told by its keys, every size is read from its shapes, and a near miss is explained."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import save_file

from controlnet_core.config import FAMILIES, SD15, SDXL, TINY, UNetConfig
from controlnet_core.errors import CheckpointError
from controlnet_core.weights.detect import detect, near_miss
from controlnet_core.weights.facts import family_facts
from controlnet_core.weights.inspection import inspect_checkpoint
from controlnet_core.weights.keymap import Shape
from controlnet_core.weights.layouts import diffusers, ldm, openclip, transformers
from controlnet_core.weights.layouts.kinds import ControlNetConfig, ControlNetLayout
from controlnet_core.weights.load import load_controlnet
from controlnet_core.weights.load_base import load_base_parts

CONTROLNETS = (ldm.CONTROLNET, diffusers.CONTROLNET)
REAL = ("SD1.5", "SD2.1", "SDXL")
FOREIGN = {
    "a Control-LoRA": ("lora_controlnet", "input_blocks.1.0.in_layers.2.up", "zero_convs.0.0.weight"),
    "a union ControlNet": (
        "task_embedding",
        "controlnet_cond_embedding.conv_in.weight",
        "controlnet_down_blocks.0.weight",
        "controlnet_mid_block.weight",
    ),
    "a SparseCtrl net": ("down_blocks.0.motion_modules.0.norm.weight", "controlnet_cond_embedding.weight"),
    "a difference ControlNet": ("difference", "control_model.zero_convs.0.0.weight"),
    "a ControlNet-XS": ("control_to_base_for_conv_in.weight",),
    "a BrushNet": ("brushnet_down_blocks.0.weight", "conv_in_condition.weight"),
    "a ControlNet-LLLite": ("lllite_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q.down.0.weight",),
    "an IP-Adapter": ("image_proj.proj.weight", "ip_adapter.1.to_k_ip.weight"),
    "a LoRA": ("lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight",),
    "a LoRA (peft)": ("unet.down_blocks.0.attentions.0.proj_in.lora_A.weight",),
    "a LoRA (lycoris)": ("lora_te_text_model_encoder_layers_0_mlp_fc1.hada_w1_a",),
    "a T2I-Adapter": ("conv_in.weight", "body.0.block1.weight"),
    "a T2I-Adapter (diffusers)": ("adapter.body.0.resnets.0.block1.weight",),
    "a ControlNet for Stable Diffusion 3": ("controlnet_blocks.0.weight", "pos_embed_input.proj.weight"),
    "a ControlNet for Flux": ("controlnet_x_embedder.weight", "controlnet_blocks.0.weight"),
    "a textual inversion embedding": ("emb_params",),
    "an upscaler": ("model.1.sub.0.RDB1.conv1.0.weight", "body.0.rdb1.conv1.weight"),
    "another architecture": ("model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight",),
    "a diffusion transformer": ("double_blocks.0.img_attn.qkv.weight",),
    "a CLIP image encoder": ("vision_model.embeddings.class_embedding",),
}


def write(path: Path, keys: tuple[str, ...]) -> Path:
    save_file({key: torch.zeros(1) for key in keys}, path)
    return path


@pytest.mark.parametrize("words", FOREIGN)
def test_foreign_kinds_are_named_and_refused(words: str, tmp_path: Path) -> None:
    path, expected = write(tmp_path / "file.safetensors", FOREIGN[words]), words.split(" (")[0]
    report = inspect_checkpoint(path)
    assert report.kind == "unsupported" and expected in report.description and not report.usable
    for load in (load_controlnet, load_base_parts):
        with pytest.raises(CheckpointError, match=expected):
            load(path)


@pytest.mark.parametrize("layouts", [ldm, diffusers], ids=["ldm", "diffusers"])
@pytest.mark.parametrize("name", REAL)
def test_sizes_of_the_families_from_shapes_alone(name: str, layouts: ModuleType) -> None:
    config = FAMILIES[name].unet
    with_hint = ControlNetConfig(config, 5)
    unet, net = layouts.UNET.keymap(config).file_shapes, layouts.CONTROLNET.keymap(with_hint).file_shapes
    assert layouts.UNET.sizes(unet, {}) == config
    assert layouts.CONTROLNET.sizes(net, {}) == with_hint
    detected = [detect(shapes) for shapes in (unet, net)]
    assert [found and found.kind for found in detected] == [layouts.UNET, layouts.CONTROLNET]


@pytest.mark.parametrize("layout", CONTROLNETS, ids=["ldm", "diffusers"])
@pytest.mark.parametrize(
    "config",
    [
        replace(SDXL, transformer_depth=(0, 0, 1), transformer_depth_middle=1),
        replace(SD15, in_channels=9),
        replace(SD15, family="SD1.5-like", model_channels=64, channel_mult=(1, 2), transformer_depth=(1, 0)),
        replace(SD15, family="unknown", context_dim=32),
    ],
    ids=["SDXL mid", "inpainting", "narrow", "unknown"],
)
def test_sizes_of_relatives(config: UNetConfig, layout: ControlNetLayout) -> None:
    net = ControlNetConfig(config)
    assert layout.sizes(layout.keymap(net).file_shapes, {}) == net


def test_the_hint_encoder_of_the_paper_is_told_by_its_kernels() -> None:
    net = ControlNetConfig(SD15, 1, "paper")
    assert ldm.CONTROLNET.sizes(ldm.controlnet_keymap(net).file_shapes, {}) == net


@pytest.mark.parametrize("name", FAMILIES)
def test_sizes_of_autoencoders_and_text_encoders(name: str) -> None:
    family = FAMILIES[name]
    scale = {"latent_scale": family.autoencoder.latent_scale}
    for layout in (ldm.AUTOENCODER, diffusers.AUTOENCODER):
        assert layout.sizes(layout.keymap(family.autoencoder).file_shapes, scale) == family.autoencoder
    for config in family.text_encoders:
        for text in (transformers.TEXT_ENCODER, openclip.TEXT_ENCODER):
            shapes = text.keymap(config).file_shapes
            if text is openclip.TEXT_ENCODER and config.projection_dim is None:  # it is never run
                shapes[f"transformer.resblocks.{config.layers}.ln_1.weight"] = (config.width,)
            assert text.sizes(shapes, family_facts(config)) == config


def test_metadata_says_what_shapes_cannot() -> None:
    config = FAMILIES["TINY"].unet
    shapes = ldm.unet_keymap(config).file_shapes
    assert ldm.UNET.sizes(shapes, {}) == config
    facts = {"family": "TINIER", "num_heads": 4, "head_channels": None}
    expected = replace(config, family="TINIER", num_heads=4, head_channels=None)
    assert ldm.UNET.sizes(shapes, facts) == expected


def test_unreadable_metadata_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    shapes = ldm.controlnet_keymap(ControlNetConfig(TINY)).file_shapes
    tensors = {key: torch.zeros(shape) for key, shape in shapes.items()}
    for words in ("{", json.dumps([1])):
        save_file(tensors, path, metadata={"controlnet_core": words})
        with pytest.raises(CheckpointError, match="metadata 'controlnet_core'"):
            load_controlnet(path)


def unfit(shapes: dict[str, Shape], part: str) -> dict[str, Shape]:
    return {key: shape for key, shape in shapes.items() if part not in key}


def test_models_with_uneven_levels_are_refused() -> None:
    shapes = ldm.unet_keymap(SDXL).file_shapes
    with pytest.raises(CheckpointError, match="levels with different blocks"):
        ldm.UNET.sizes(unfit(shapes, "input_blocks.8.1.transformer_blocks.9."), {})


def test_a_near_miss_is_explained(tmp_path: Path) -> None:
    shapes = diffusers.controlnet_keymap(ControlNetConfig(TINY)).file_shapes
    assert near_miss(unfit(shapes, "controlnet_mid_block")) == (
        "what looks like a ControlNet in the diffusers layout, but without controlnet_mid_block.weight"
    )
    assert "no known kind (a.weight)" in near_miss(("a.weight",))
    path = tmp_path / "net.safetensors"
    save_file({key: torch.zeros(shape) for key, shape in unfit(shapes, "controlnet_mid_block.bias").items()}, path)
    report = inspect_checkpoint(path)
    assert (report.kind, report.layout) == ("controlnet", "diffusers")
    assert report.missing == ("controlnet_mid_block.bias",) and not report.extra and not report.usable
    with pytest.raises(CheckpointError, match=r"1 missing \(controlnet_mid_block.bias\)"):
        load_controlnet(path)
