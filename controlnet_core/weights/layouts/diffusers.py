"""The layout of diffusers: one file for each model of a base, and one for a ControlNet."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from ...config import AutoencoderConfig, UNetConfig
from ...model.autoencoder import Autoencoder
from ...model.controlnet import ControlNet
from ...model.hint import ReferenceHintEncoder
from ...model.unet import UNet
from ..keymap import Entry, KeyMap, Shapes, layer, layers
from .kinds import AutoencoderLayout, ControlNetConfig, ControlNetLayout, UNetLayout
from .ldm import transformer_entries
from .sizes import Levels, UNetPlaces, autoencoder_sizes, block_width, controlnet_sizes, count_parts, unet_sizes

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


def controlnet_keymap(config: ControlNetConfig) -> KeyMap:
    """The map of a ControlNetModel, whose hint encoder can only be the reference."""
    net = ControlNet(config.unet, config.hint_channels, device="meta")
    entries = [*_encoder_entries(config.unet), *_control_entries(config.unet)]
    return KeyMap.of(f"{config.unet.family} ControlNet in the diffusers layout", net, entries)


def autoencoder_keymap(config: AutoencoderConfig, attention: dict[str, str] = PIXEL_ATTENTION) -> KeyMap:
    """The map of an AutoencoderKL; `attention` names the layers of its attention, as early files do or later ones."""
    entries = _autoencoder_entries(config, attention)
    return KeyMap.of("KL autoencoder in the diffusers layout", Autoencoder(config, device="meta"), entries)


def _encoder_entries(config: UNetConfig) -> Iterator[Entry]:
    for ours, theirs in (("time_embedding", "time_embedding"), ("vector_embedding", "add_embedding")):
        yield from layers({"linear1": "linear_1", "linear2": "linear_2"}, f"encoder.{ours}", theirs)
    yield from layer("encoder.input_convolution", "conv_in")
    for level, depth in enumerate(config.transformer_depth):
        ours, theirs = f"encoder.stages.{level}", f"down_blocks.{level}"
        yield from _stage_entries(config.num_res_blocks, depth, ours, theirs)
        yield from layer(f"{ours}.downsample.convolution", f"{theirs}.downsamplers.0.conv")
    yield from layers(RESIDUAL, "encoder.middle.residual1", "mid_block.resnets.0")
    yield from transformer_entries(
        config.transformer_depth_middle, "encoder.middle.attention", "mid_block.attentions.0"
    )
    yield from layers(RESIDUAL, "encoder.middle.residual2", "mid_block.resnets.1")


def _decoder_entries(config: UNetConfig) -> Iterator[Entry]:
    for stage, depth in enumerate(reversed(config.transformer_depth)):
        ours, theirs = f"decoder.stages.{stage}", f"up_blocks.{stage}"
        yield from _stage_entries(config.num_res_blocks + 1, depth, ours, theirs)
        yield from layer(f"{ours}.upsample.convolution", f"{theirs}.upsamplers.0.conv")
    yield from layer("decoder.norm", "conv_norm_out")
    yield from layer("decoder.output_convolution", "conv_out")


def _stage_entries(count: int, depth: int, ours: str, theirs: str) -> Iterator[Entry]:
    for block in range(count):
        yield from layers(RESIDUAL, f"{ours}.blocks.{block}.residual", f"{theirs}.resnets.{block}")
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
                yield from layers(RESIDUAL, f"{ours}.blocks.{block}", f"{theirs}.resnets.{block}")
            yield from layer(f"{ours}.resample.convolution", f"{theirs}.{step}.0.conv")
        for number in (1, 2):
            yield from layers(RESIDUAL, f"{side}.middle.residual{number}", f"{side}.mid_block.resnets.{number - 1}")
        yield from layers(attention, f"{side}.middle.attention", f"{side}.mid_block.attentions.0")
        yield from layer(f"{side}.norm", f"{side}.conv_norm_out")
        yield from layer(f"{side}.output_convolution", f"{side}.conv_out")
    yield from layer("quantise", "quant_conv")
    yield from layer("unquantise", "post_quant_conv")


def _levels(shapes: Shapes) -> Levels:
    """The encoder's levels."""
    return [
        [
            (
                block_width(
                    shapes, f"down_blocks.{level}.resnets.{block}.", ("conv1", "norm2", "conv2", "time_emb_proj")
                ),
                count_parts(shapes, f"down_blocks.{level}.attentions.{block}.transformer_blocks."),
            )
            for block in range(count_parts(shapes, f"down_blocks.{level}.resnets."))
        ]
        for level in range(count_parts(shapes, "down_blocks."))
    ]


PLACES = UNetPlaces(
    input_convolution="conv_in",
    output_convolution="conv_out",
    vector_embedding="add_embedding.linear_1",
    middle_transformer="mid_block.attentions.0.",
    hint_convolution="controlnet_cond_embedding.conv_in",
    levels=_levels,
)
CONTROLNET = ControlNetLayout(
    "a ControlNet in the diffusers layout",
    ("*controlnet_cond_embedding.conv_in.weight", "*controlnet_down_blocks.0.weight"),
    ("*controlnet_mid_block.weight",),
    name="diffusers",
    sizes=partial(controlnet_sizes, PLACES),
    keymap=controlnet_keymap,
    saves=("reference",),
)
UNET = UNetLayout(
    "a Stable Diffusion UNet in the diffusers layout",
    ("*conv_in.weight", "*down_blocks.0.resnets.0.conv1.weight", "*up_blocks.0.resnets.0.time_emb_proj.weight"),
    name="diffusers",
    sizes=partial(unet_sizes, PLACES),
    keymap=unet_keymap,
)
AUTOENCODER = AutoencoderLayout(
    "a KL autoencoder (VAE) in the diffusers layout",
    ("*encoder.down_blocks.0.resnets.0.conv1.weight", "*decoder.up_blocks.0.resnets.0.conv1.weight"),
    name="diffusers",
    sizes=partial(autoencoder_sizes, "encoder.down_blocks.", "resnets"),
    keymap=autoencoder_keymap,
    older=(("*mid_block.attentions.0.query.weight", partial(autoencoder_keymap, attention=OLD_PIXEL_ATTENTION)),),
)
