"""Reads a model's sizes from the shapes in its file: what all layouts have in common."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from ...config import FAMILIES, AutoencoderConfig, Family, TextEncoderConfig, UNetConfig
from ...errors import CheckpointError
from ...model.hint import HintEncoderKind
from ..facts import Facts, with_facts
from ..keymap import Shape, Shapes
from .kinds import ControlNetConfig

LIKE = {768: "SD1.5", 1024: "SD2.1", 2048: "SDXL"}
LARGEST = 2**20
"""No tensor of a model is wider: a file that says so is damaged or made up."""
NORM_GROUPS = 32
"""Group norms divide all channels into so many groups."""

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
    vector = f"{places.vector_embedding}.weight" in shapes
    output = f"{places.output_convolution}.weight" in shapes
    projections = [shape for key, shape in shapes.items() if key.endswith("proj_in.weight")]
    linear = not projections or len(projections[0]) == 2
    keys = (key.removesuffix(".weight") for key in shapes if key.endswith("attn2.to_k.weight"))
    context_dim = next((weight_shape(shapes, key)[1] for key in keys), 2048)
    counts = {len(level) for level in levels}
    if len(counts) != 1 or any(len(set(level)) > 1 for level in levels):
        raise no_model("levels with different blocks")
    if any(width % model_channels for level in levels for width, _ in level):
        raise no_model(f"channels that are no multiples of {model_channels}")
    config = UNetConfig(
        family="",
        in_channels=in_channels,
        out_channels=weight_shape(shapes, places.output_convolution)[0] if output else 4,
        model_channels=model_channels,
        channel_mult=tuple(level[0][0] // model_channels for level in levels),
        num_res_blocks=counts.pop(),
        transformer_depth=tuple(level[0][1] for level in levels),
        transformer_depth_middle=count_parts(shapes, f"{places.middle_transformer}transformer_blocks."),
        context_dim=context_dim,
        num_heads=None if linear else 8,
        head_channels=64 if linear else None,
        linear_projection=linear,
        vector_dim=weight_shape(shapes, places.vector_embedding)[1] if vector else None,
        float32_attention=context_dim == 1024,
    )
    return _divisible(with_facts(replace(config, family=family_name(config)), facts))


def controlnet_sizes(places: UNetPlaces, shapes: Shapes, facts: Facts) -> ControlNetConfig:
    """Read the sizes of a ControlNet as `unet_sizes` does; the hint encoder of the paper has 4x4 kernels."""
    unet = unet_sizes(places, shapes, facts)
    hint = weight_shape(shapes, places.hint_convolution, dimensions=4)
    encoder: HintEncoderKind = "paper" if hint[2] == 4 else "reference"
    return ControlNetConfig(unet, hint[1], encoder, facts.get("pooled", False))


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
    if not widths or base % NORM_GROUPS or any(width % base for width in widths):
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
    config = with_facts(config, facts)
    if config.width % config.num_heads:
        raise no_model(f"{config.num_heads} attention heads for a width of {config.width}")
    return config


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
    """How many numbered parts stand after a prefix.

    Raises:
        CheckpointError: If a number is left out: a count is never more than the keys that a file holds.
    """
    numbered = re.compile(re.escape(prefix) + r"([0-9]{1,9})\.")
    numbers = {int(found[1]) for key in keys if (found := numbered.match(key))}
    for number in range(len(numbers)):
        if number not in numbers:
            raise no_model(f"{prefix}{max(numbers)} without {prefix}{number}")
    return len(numbers)


def block_width(shapes: Shapes, place: str, names: tuple[str, ...]) -> int:
    """The output channels of a residual block, from the first of its tensors that is there."""
    for name in names:
        if f"{place}{name}.weight" in shapes:
            return weight_shape(shapes, f"{place}{name}", dimensions=1)[0]
    raise no_model(f"no weight for {place}{names[0]}")


def weight_shape(shapes: Shapes, name: str, dimensions: int = 2) -> Shape:
    """The shape of a layer's weight; as `tensor_shape`."""
    return tensor_shape(shapes, f"{name}.weight", dimensions)


def tensor_shape(shapes: Shapes, key: str, dimensions: int = 2) -> Shape:
    """The shape of a tensor that tells sizes: it must be there, with so many dimensions at least."""
    shape = shapes.get(key)
    if shape is None:
        raise no_model(f"no {key}")
    if len(shape) < dimensions or not all(0 < size <= LARGEST for size in shape[:2]):
        raise no_model(f"{key} with the shape {shape}")
    return shape


def _divisible(config: UNetConfig) -> UNetConfig:
    """The config, if its norms and attention layers can be made."""
    if config.model_channels % NORM_GROUPS:
        raise no_model(f"{config.model_channels} channels, which are no multiple of {NORM_GROUPS},")
    depths = (*config.transformer_depth, config.transformer_depth_middle)
    for width, depth in zip((*config.level_channels, config.level_channels[-1]), depths, strict=True):
        heads = config.heads(width)
        if depth and heads and width % heads:
            raise no_model(f"{heads} attention heads for {width} channels")
    return config


def no_model(found: str) -> CheckpointError:
    """The error for shapes that are those of no model that can be built here."""
    return CheckpointError(
        found=found,
        expected="a Stable Diffusion 1.x, 2.x or SDXL model with the same blocks throughout a level",
        do="use the original weights: distilled, pruned and other architectures are not supported",
    )
