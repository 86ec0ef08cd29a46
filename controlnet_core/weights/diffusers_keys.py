"""Key maps of the diffusers layout: one file for each part of a base, and one for a ControlNet."""

from __future__ import annotations

from collections.abc import Iterator

from ..config import AutoencoderConfig, UNetConfig
from ..model.autoencoder import Autoencoder
from ..model.controlnet import ControlNet
from ..model.hint import ReferenceHintEncoder
from ..model.unet import UNet
from .keymap import Entry, KeyMap, layer
from .ldm_keys import renamed, transformer_entries

RESIDUAL = {
    "norm1": "norm1",
    "convolution1": "conv1",
    "time_projection": "time_emb_proj",
    "norm2": "norm2",
    "convolution2": "conv2",
    "shortcut": "conv_shortcut",
}
PIXEL_ATTENTION = {"norm": "group_norm", "query": "to_q", "key": "to_k", "value": "to_v", "output": "to_out.0"}
OLD_PIXEL_ATTENTION = {
    "norm": "group_norm",
    "query": "query",
    "key": "key",
    "value": "value",
    "output": "proj_attn",
}


def unet_keymap(config: UNetConfig) -> KeyMap:
    """The map of a UNet2DConditionModel."""
    entries = [*_encoder_entries(config), *_decoder_entries(config)]
    return KeyMap.of(f"{config.family} UNet in the diffusers layout", UNet(config, device="meta"), entries)


def controlnet_keymap(config: UNetConfig, hint_channels: int = 3) -> KeyMap:
    """The map of a ControlNetModel, which knows the reference hint encoder only."""
    net = ControlNet(config, hint_channels, device="meta")
    entries = [*_encoder_entries(config), *_control_entries(config)]
    return KeyMap.of(f"{config.family} ControlNet in the diffusers layout", net, entries)


def autoencoder_keymap(config: AutoencoderConfig, old_attention: bool = False) -> KeyMap:
    """The map of an AutoencoderKL; early files name its attention query, key, value and proj_attn."""
    attention = OLD_PIXEL_ATTENTION if old_attention else PIXEL_ATTENTION
    entries = _autoencoder_entries(config, attention)
    return KeyMap.of("KL autoencoder in the diffusers layout", Autoencoder(config, device="meta"), entries)


def _encoder_entries(config: UNetConfig) -> Iterator[Entry]:
    for ours, theirs in (("time_embedding", "time_embedding"), ("vector_embedding", "add_embedding")):
        yield from renamed({"linear1": "linear_1", "linear2": "linear_2"}, f"encoder.{ours}", theirs)
    yield from layer("encoder.input_convolution", "conv_in")
    for level, depth in enumerate(config.transformer_depth):
        ours, theirs = f"encoder.stages.{level}", f"down_blocks.{level}"
        yield from _stage_entries(config.num_res_blocks, depth, ours, theirs)
        yield from layer(f"{ours}.downsample.convolution", f"{theirs}.downsamplers.0.conv")
    yield from renamed(RESIDUAL, "encoder.middle.residual1", "mid_block.resnets.0")
    yield from transformer_entries(
        config.transformer_depth_middle, "encoder.middle.attention", "mid_block.attentions.0"
    )
    yield from renamed(RESIDUAL, "encoder.middle.residual2", "mid_block.resnets.1")


def _decoder_entries(config: UNetConfig) -> Iterator[Entry]:
    for stage, depth in enumerate(reversed(config.transformer_depth)):
        ours, theirs = f"decoder.stages.{stage}", f"up_blocks.{stage}"
        yield from _stage_entries(config.num_res_blocks + 1, depth, ours, theirs)
        yield from layer(f"{ours}.upsample.convolution", f"{theirs}.upsamplers.0.conv")
    yield from layer("decoder.norm", "conv_norm_out")
    yield from layer("decoder.output_convolution", "conv_out")


def _stage_entries(count: int, depth: int, ours: str, theirs: str) -> Iterator[Entry]:
    for block in range(count):
        yield from renamed(RESIDUAL, f"{ours}.blocks.{block}.residual", f"{theirs}.resnets.{block}")
        yield from transformer_entries(depth, f"{ours}.blocks.{block}.attention", f"{theirs}.attentions.{block}")


def _control_entries(config: UNetConfig) -> Iterator[Entry]:
    hint = "controlnet_cond_embedding"
    yield from layer("hint_encoder.convolutions.0", f"{hint}.conv_in")
    for number in range(1, len(ReferenceHintEncoder.widths)):
        yield from layer(f"hint_encoder.convolutions.{number}", f"{hint}.blocks.{number - 1}")
    yield from layer("hint_encoder.zero_convolution", f"{hint}.conv_out")
    for number in range(len(config.skip_channels)):
        yield from layer(f"zero_convolutions.{number}", f"controlnet_down_blocks.{number}")
    yield from layer("middle_zero_convolution", "controlnet_mid_block")


def _autoencoder_entries(config: AutoencoderConfig, attention: dict[str, str]) -> Iterator[Entry]:
    for side, way, count, step in (
        ("encoder", "down_blocks", config.num_res_blocks, "downsamplers"),
        ("decoder", "up_blocks", config.num_res_blocks + 1, "upsamplers"),
    ):
        yield from layer(f"{side}.input_convolution", f"{side}.conv_in")
        for stage in range(len(config.channel_mult)):
            ours, theirs = f"{side}.stages.{stage}", f"{side}.{way}.{stage}"
            for block in range(count):
                yield from renamed(RESIDUAL, f"{ours}.blocks.{block}", f"{theirs}.resnets.{block}")
            yield from layer(f"{ours}.resample.convolution", f"{theirs}.{step}.0.conv")
        for number in (1, 2):
            yield from renamed(RESIDUAL, f"{side}.middle.residual{number}", f"{side}.mid_block.resnets.{number - 1}")
        yield from renamed(attention, f"{side}.middle.attention", f"{side}.mid_block.attentions.0")
        yield from layer(f"{side}.norm", f"{side}.conv_norm_out")
        yield from layer(f"{side}.output_convolution", f"{side}.conv_out")
    yield from layer("quantise", "quant_conv")
    yield from layer("unquantise", "post_quant_conv")
