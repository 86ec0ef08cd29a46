"""The LDM layout: the names of the first code, in which most ControlNets and checkpoints are published.

A net with the hint encoder "paper" uses the same names, with its own shapes: `input_hint_block.{0,2,4,6}` are its four
4x4 convolutions and `input_hint_block.8` is its zero convolution. No other program reads that.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from ...config import AutoencoderConfig, UNetConfig
from ...model.autoencoder import Autoencoder
from ...model.controlnet import ControlNet
from ...model.hint import HINT_ENCODERS, HintEncoderKind
from ...model.unet import UNet
from ..keymap import Entry, KeyMap, Shapes, layer, layers
from .kinds import AutoencoderLayout, ControlNetConfig, ControlNetLayout, UNetLayout
from .sizes import Levels, UNetPlaces, autoencoder_sizes, block_width, controlnet_sizes, count_parts, unet_sizes

TRANSFORMER_BLOCK = {
    "norm1": "norm1",
    "self_attention.query": "attn1.to_q",
    "self_attention.key": "attn1.to_k",
    "self_attention.value": "attn1.to_v",
    "self_attention.output": "attn1.to_out.0",
    "norm2": "norm2",
    "cross_attention.query": "attn2.to_q",
    "cross_attention.key": "attn2.to_k",
    "cross_attention.value": "attn2.to_v",
    "cross_attention.output": "attn2.to_out.0",
    "norm3": "norm3",
    "feed_forward.gated": "ff.net.0.proj",
    "feed_forward.output": "ff.net.2",
}
RESIDUAL = {
    "norm1": "in_layers.0",
    "convolution1": "in_layers.2",
    "time_projection": "emb_layers.1",
    "norm2": "out_layers.0",
    "convolution2": "out_layers.3",
    "shortcut": "skip_connection",
}
PIXEL_RESIDUAL = {
    "norm1": "norm1",
    "convolution1": "conv1",
    "norm2": "norm2",
    "convolution2": "conv2",
    "shortcut": "nin_shortcut",
}
PIXEL_ATTENTION = {"query": "q", "key": "k", "value": "v", "output": "proj_out"}


def unet_keymap(config: UNetConfig) -> KeyMap:
    """The map of a UNet, its keys without prefix."""
    entries = [*_encoder_entries(config), *_decoder_entries(config)]
    return KeyMap.of(f"{config.family} UNet in the LDM layout", UNet(config, device="meta"), entries)


def controlnet_keymap(config: ControlNetConfig) -> KeyMap:
    """The map of a ControlNet, its keys without prefix."""
    unet = config.unet
    net = ControlNet(unet, config.hint_channels, config.hint_encoder, device="meta")
    entries = [*_encoder_entries(unet), *_control_entries(unet, config.hint_encoder)]
    return KeyMap.of(f"{unet.family} ControlNet in the LDM layout", net, entries)


def autoencoder_keymap(config: AutoencoderConfig) -> KeyMap:
    """The map of an autoencoder, its keys without prefix."""
    autoencoder = Autoencoder(config, device="meta")
    unused = ("model_ema.*", "loss.*")
    return KeyMap.of("KL autoencoder in the LDM layout", autoencoder, _autoencoder_entries(config), unused)


def transformer_entries(depth: int, ours: str, theirs: str) -> Iterator[Entry]:
    """The entries of a spatial transformer, which LDM and diffusers name alike."""
    yield from layers({"norm": "norm", "project_in": "proj_in", "project_out": "proj_out"}, ours, theirs)
    for block in range(depth):
        yield from layers(TRANSFORMER_BLOCK, f"{ours}.blocks.{block}", f"{theirs}.transformer_blocks.{block}")


def _encoder_entries(config: UNetConfig) -> Iterator[Entry]:
    """The encoder's entries, the same in a UNet and in a ControlNet."""
    for ours, theirs in (("time_embedding", "time_embed"), ("vector_embedding", "label_emb.0")):
        yield from layers({"linear1": "0", "linear2": "2"}, f"encoder.{ours}", theirs)
    yield from layer("encoder.input_convolution", "input_blocks.0.0")
    number = 1
    for level, depth in enumerate(config.transformer_depth):
        for block in range(config.num_res_blocks):
            ours, theirs = f"encoder.stages.{level}.blocks.{block}", f"input_blocks.{number}"
            yield from layers(RESIDUAL, f"{ours}.residual", f"{theirs}.0")
            yield from transformer_entries(depth, f"{ours}.attention", f"{theirs}.1")
            number += 1
        yield from layer(f"encoder.stages.{level}.downsample.convolution", f"input_blocks.{number}.0.op")
        number += 1
    yield from layers(RESIDUAL, "encoder.middle.residual1", "middle_block.0")
    yield from transformer_entries(config.transformer_depth_middle, "encoder.middle.attention", "middle_block.1")
    yield from layers(RESIDUAL, "encoder.middle.residual2", "middle_block.2")


def _decoder_entries(config: UNetConfig) -> Iterator[Entry]:
    """The decoder's entries; its first stage is the deepest level."""
    number = 0
    for stage, depth in enumerate(reversed(config.transformer_depth)):
        for block in range(config.num_res_blocks + 1):
            ours, theirs = f"decoder.stages.{stage}.blocks.{block}", f"output_blocks.{number}"
            yield from layers(RESIDUAL, f"{ours}.residual", f"{theirs}.0")
            yield from transformer_entries(depth, f"{ours}.attention", f"{theirs}.1")
            number += 1
        last = f"output_blocks.{number - 1}.{2 if depth else 1}"
        yield from layer(f"decoder.stages.{stage}.upsample.convolution", f"{last}.conv")
    yield from layer("decoder.norm", "out.0")
    yield from layer("decoder.output_convolution", "out.2")


def _control_entries(config: UNetConfig, hint_encoder: HintEncoderKind) -> Iterator[Entry]:
    """What a ControlNet has beside the encoder; the activations between its hint layers count as layers."""
    count = len(HINT_ENCODERS[hint_encoder].widths)
    for number in range(count):
        yield from layer(f"hint_encoder.convolutions.{number}", f"input_hint_block.{2 * number}")
    yield from layer("hint_encoder.zero_convolution", f"input_hint_block.{2 * count}")
    for number in range(len(config.skip_channels)):
        yield from layer(f"zero_convolutions.{number}", f"zero_convs.{number}.0")
    yield from layer("middle_zero_convolution", "middle_block_out.0")


def _autoencoder_entries(config: AutoencoderConfig) -> Iterator[Entry]:
    """The autoencoder's entries; the file counts the decoder's levels from the pixels, we from the latents."""
    levels = len(config.channel_mult)
    for level in range(levels):
        for side, stage, count, step in (
            ("encoder.down", f"encoder.stages.{level}", config.num_res_blocks, "downsample"),
            ("decoder.up", f"decoder.stages.{levels - 1 - level}", config.num_res_blocks + 1, "upsample"),
        ):
            for block in range(count):
                yield from layers(PIXEL_RESIDUAL, f"{stage}.blocks.{block}", f"{side}.{level}.block.{block}")
            yield from layer(f"{stage}.resample.convolution", f"{side}.{level}.{step}.conv")
    for side in ("encoder", "decoder"):
        yield from layer(f"{side}.input_convolution", f"{side}.conv_in")
        for number in (1, 2):
            yield from layers(PIXEL_RESIDUAL, f"{side}.middle.residual{number}", f"{side}.mid.block_{number}")
        yield from layer(f"{side}.middle.attention.norm", f"{side}.mid.attn_1.norm")
        for our, their in PIXEL_ATTENTION.items():
            yield from layer(f"{side}.middle.attention.{our}", f"{side}.mid.attn_1.{their}", "pointwise")
        yield from layer(f"{side}.norm", f"{side}.norm_out")
        yield from layer(f"{side}.output_convolution", f"{side}.conv_out")
    yield from layer("quantise", "quant_conv")
    yield from layer("unquantise", "post_quant_conv")


def _levels(shapes: Shapes) -> Levels:
    """The encoder's levels: a downsampling layer, numbered as a block, ends each but the last."""
    levels: Levels = [[]]
    for number in range(1, count_parts(shapes, "input_blocks.")):
        place = f"input_blocks.{number}."
        if f"{place}0.op.weight" in shapes or f"{place}0.op.bias" in shapes:
            levels.append([])
            continue
        width = block_width(shapes, f"{place}0.", ("in_layers.2", "out_layers.0", "out_layers.3", "emb_layers.1"))
        levels[-1].append((width, count_parts(shapes, f"{place}1.transformer_blocks.")))
    return levels


PLACES = UNetPlaces(
    input_convolution="input_blocks.0.0",
    output_convolution="out.2",
    vector_embedding="label_emb.0.0",
    middle_transformer="middle_block.1.",
    hint_convolution="input_hint_block.0",
    levels=_levels,
)
CONTROLNET = ControlNetLayout(
    "a ControlNet in the LDM layout",
    ("*zero_convs.0.0.weight", "*input_hint_block.0.weight", "*middle_block_out.0.weight"),
    name="ldm",
    sizes=partial(controlnet_sizes, PLACES),
    keymap=controlnet_keymap,
    saves=("reference", "paper"),
)
UNET = UNetLayout(
    "a Stable Diffusion UNet in the LDM layout",
    ("*input_blocks.0.0.weight", "*output_blocks.0.0.in_layers.2.weight"),
    name="ldm",
    sizes=partial(unet_sizes, PLACES),
    keymap=unet_keymap,
)
AUTOENCODER = AutoencoderLayout(
    "a KL autoencoder (VAE) in the LDM layout",
    ("*encoder.down.0.block.0.conv1.weight", "*decoder.up.0.block.0.conv1.weight"),
    name="ldm",
    sizes=partial(autoencoder_sizes, "encoder.down.", "block"),
    keymap=autoencoder_keymap,
)
