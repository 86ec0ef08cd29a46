"""Reads a model's sizes from the shapes in its file: what all layouts have in common."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from ...config import FAMILIES, AutoencoderConfig, Family, TextEncoderConfig, UNetConfig
from ...errors import CheckpointError
from ..facts import Facts, with_facts
from ..keymap import Shape, Shapes
from .kinds import ControlNetConfig

LIKE = {768: "SD1.5", 1024: "SD2.1", 2048: "SDXL"}

Levels = list[list[tuple[int, int]]]
"""Width and transformer depth of each residual block, level by level."""


@dataclass(frozen=True)
class UNetPlaces:
    """Where one layout keeps the tensors that tell the sizes of a UNet or ControlNet.

    Attributes:
        input_convolution: Name of the first layer, without `.weight` as all of them.
        output_convolution: The UNet's last layer.
        vector_embedding: The first layer of the vector embedding.
        middle_transformer: What stands before the transformer blocks of the middle block.
        hint_convolution: The first layer of a ControlNet's hint encoder.
        levels: Reads the encoder's levels.
    """

    input_convolution: str
    output_convolution: str
    vector_embedding: str
    middle_transformer: str
    hint_convolution: str
    levels: Callable[[Shapes], Levels]


def unet_sizes(places: UNetPlaces, shapes: Shapes, facts: Facts) -> UNetConfig:
    """Read the sizes of a UNet, or those that a ControlNet shares with its UNet.

    Arguments:
        places: Where the layout keeps what tells them.
        shapes: Its keys and shapes, without prefix.
        facts: What is known beside them.

    Returns:
        The config; `family` is "SD1.5-like" and so on if the sizes are no known family's.

    Raises:
        CheckpointError: If the shapes are those of no UNet that can be built here.
    """
    levels = places.levels(shapes)
    model_channels, in_channels = weight_shape(shapes, places.input_convolution)[:2]
    vector = shapes.get(f"{places.vector_embedding}.weight")
    projections = [shape for key, shape in shapes.items() if key.endswith("proj_in.weight")]
    linear = not projections or len(projections[0]) == 2
    contexts = [shape[1] for key, shape in shapes.items() if key.endswith("attn2.to_k.weight")]
    context_dim = contexts[0] if contexts else 2048
    counts = {len(level) for level in levels}
    if len(counts) != 1 or any(len(set(level)) > 1 for level in levels):
        raise no_model("levels with different blocks")
    if any(width % model_channels for level in levels for width, _ in level):
        raise no_model(f"channels that are no multiples of {model_channels}")
    config = UNetConfig(
        family="",
        in_channels=in_channels,
        out_channels=shapes.get(f"{places.output_convolution}.weight", (4,))[0],
        model_channels=model_channels,
        channel_mult=tuple(level[0][0] // model_channels for level in levels),
        num_res_blocks=counts.pop(),
        transformer_depth=tuple(level[0][1] for level in levels),
        transformer_depth_middle=count_parts(shapes, f"{places.middle_transformer}transformer_blocks."),
        context_dim=context_dim,
        num_heads=None if linear else 8,
        head_channels=64 if linear else None,
        linear_projection=linear,
        vector_dim=vector[1] if vector else None,
        float32_attention=context_dim == 1024,
    )
    return with_facts(replace(config, family=family_name(config)), facts)


def controlnet_sizes(places: UNetPlaces, shapes: Shapes, facts: Facts) -> ControlNetConfig:
    """Read the sizes of a ControlNet as `unet_sizes` does; the hint encoder of the paper has 4x4 kernels."""
    unet = unet_sizes(places, shapes, facts)
    hint = weight_shape(shapes, places.hint_convolution)
    return ControlNetConfig(unet, hint[1], "paper" if hint[2] == 4 else "reference")


def autoencoder_sizes(down: str, block: str, shapes: Shapes, facts: Facts) -> AutoencoderConfig:
    """Read the sizes of an autoencoder.

    Arguments:
        down: What the layout puts before the number of an encoder level.
        block: What it calls the residual blocks of a level.
        shapes: Its keys and shapes, without prefix.
        facts: What is known beside them.

    Raises:
        CheckpointError: If the shapes are those of no autoencoder that can be built here.
    """
    base = weight_shape(shapes, "encoder.conv_in")[0]
    levels = [f"{down}{level}.{block}." for level in range(count_parts(shapes, down))]
    widths = [block_width(shapes, f"{level}0.", ("conv1", "conv2")) for level in levels]
    if not widths or any(width % base for width in widths):
        raise no_model(f"an autoencoder with the channels {widths}")
    config = AutoencoderConfig(
        latent_channels=weight_shape(shapes, "decoder.conv_in")[1],
        base_channels=base,
        channel_mult=tuple(width // base for width in widths),
        num_res_blocks=count_parts(shapes, levels[0]),
    )
    return with_facts(config, facts)


def text_encoder_sizes(
    tokens: Shape, positions: Shape, layers: int, projection: Shape, facts: Facts
) -> TextEncoderConfig:
    """Put together the sizes of a text encoder.

    Arguments:
        tokens: Shape of the table of tokens.
        positions: Shape of the table of positions.
        layers: How many of its layers are run.
        projection: Shape of the projection, outputs first; empty if there is none.
        facts: What is known beside them.
    """
    config = TextEncoderConfig(
        vocabulary=tokens[0],
        width=tokens[1],
        layers=layers,
        num_heads=max(1, tokens[1] // 64),
        context_length=positions[0],
        projection_dim=projection[0] if projection and facts.get("projected", True) else None,
    )
    return with_facts(config, facts)


def family_name(config: UNetConfig) -> str:
    """The family whose ControlNets and UNets fit together with these sizes, or "...-like"."""

    def joints(sizes: UNetConfig) -> tuple[object, ...]:
        return sizes.skip_channels, sizes.context_dim, sizes.vector_dim, sizes.linear_projection

    for name, family in FAMILIES.items():
        if joints(config) == joints(family.unet):
            return name
    return f"{LIKE[config.context_dim]}-like" if config.context_dim in LIKE else "unknown"


def template_of(config: UNetConfig) -> Family:
    """The family that says what the shapes of a base do not, from the sizes of its UNet."""
    name = config.family.removesuffix("-like")
    if name in FAMILIES:
        return FAMILIES[name]
    if config.vector_dim is not None:
        return FAMILIES["SDXL"]
    return FAMILIES["SD2.1" if config.context_dim == 1024 else "SD1.5"]


def count_parts(keys: Iterable[str], prefix: str) -> int:
    """How many numbered parts stand after a prefix: one more than the highest number."""
    numbered = re.compile(re.escape(prefix) + r"(\d+)\.")
    return max((int(found[1]) + 1 for key in keys if (found := numbered.match(key))), default=0)


def block_width(shapes: Shapes, place: str, names: tuple[str, ...]) -> int:
    """The output channels of a residual block, from the first of its tensors that is there."""
    for name in names:
        if f"{place}{name}.weight" in shapes:
            return shapes[f"{place}{name}.weight"][0]
    raise no_model(f"no weight for {place}{names[0]}")


def weight_shape(shapes: Shapes, name: str) -> Shape:
    """The shape of a layer's weight, which must be there."""
    if f"{name}.weight" in shapes:
        return shapes[f"{name}.weight"]
    raise no_model(f"no {name}.weight")


def no_model(found: str) -> CheckpointError:
    """The error for shapes that are those of no model that can be built here."""
    return CheckpointError(
        found=found,
        expected="a Stable Diffusion 1.x, 2.x or SDXL model with the same blocks throughout a level",
        do="use the original weights: distilled, pruned and other architectures are not supported",
    )
