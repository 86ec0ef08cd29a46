"""Reads a model's sizes from the shapes in its file; what shapes cannot say comes from the family or the metadata."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, TypeVar

from ..config import FAMILIES, AutoencoderConfig, Family, TextEncoderConfig, UNetConfig
from ..errors import CheckpointError
from ..model.hint import HintEncoderKind
from .keymap import Shape

Layout = Literal["ldm", "diffusers"]
Shapes = Mapping[str, Shape]
Config = TypeVar("Config", UNetConfig, AutoencoderConfig, TextEncoderConfig)

LIKE = {768: "SD1.5", 1024: "SD2.1", 2048: "SDXL"}
RESIDUAL_WEIGHTS: dict[Layout, tuple[str, ...]] = {
    "ldm": ("in_layers.2", "out_layers.0", "out_layers.3", "emb_layers.1"),
    "diffusers": ("conv1", "norm2", "conv2", "time_emb_proj"),
}


@dataclass(frozen=True)
class Names:
    """Where one layout keeps the tensors that tell a UNet's sizes."""

    input_convolution: str
    output_convolution: str
    vector_embedding: str
    middle_transformer: str
    hint_convolution: str


NAMES: dict[Layout, Names] = {
    "ldm": Names("input_blocks.0.0", "out.2", "label_emb.0.0", "middle_block.1.", "input_hint_block.0"),
    "diffusers": Names(
        "conv_in",
        "conv_out",
        "add_embedding.linear_1",
        "mid_block.attentions.0.",
        "controlnet_cond_embedding.conv_in",
    ),
}


def strip(shapes: Shapes, prefix: str) -> dict[str, Shape]:
    """The keys that start with a prefix, without it."""
    return {key.removeprefix(prefix): shape for key, shape in shapes.items() if key.startswith(prefix)}


def read_unet_config(shapes: Shapes, layout: Layout, facts: Mapping[str, Any]) -> UNetConfig:
    """Read the sizes of a UNet or ControlNet.

    Arguments:
        shapes: Its keys and shapes, without prefix.
        layout: Whose names these are.
        facts: What this package stored in the file's metadata.

    Returns:
        The config; `family` is "SD1.5-like" and so on if the sizes are no known family's.

    Raises:
        CheckpointError: If the shapes are those of no UNet that can be built here.
    """
    names = NAMES[layout]
    levels = _ldm_levels(shapes) if layout == "ldm" else _diffusers_levels(shapes)
    model_channels, in_channels = _shape(shapes, names.input_convolution)[:2]
    vector = shapes.get(f"{names.vector_embedding}.weight")
    projections = [shape for key, shape in shapes.items() if key.endswith("proj_in.weight")]
    linear = not projections or len(projections[0]) == 2
    contexts = [shape[1] for key, shape in shapes.items() if key.endswith("attn2.to_k.weight")]
    context_dim = contexts[0] if contexts else 2048
    counts = {len(level) for level in levels}
    if len(counts) != 1 or any(len(set(level)) > 1 for level in levels):
        raise _no_unet("levels with different blocks")
    if any(width % model_channels for level in levels for width, _ in level):
        raise _no_unet(f"channels that are no multiples of {model_channels}")
    config = UNetConfig(
        family="",
        in_channels=in_channels,
        out_channels=shapes.get(f"{names.output_convolution}.weight", (4,))[0],
        model_channels=model_channels,
        channel_mult=tuple(level[0][0] // model_channels for level in levels),
        num_res_blocks=counts.pop(),
        transformer_depth=tuple(level[0][1] for level in levels),
        transformer_depth_middle=_count(shapes, f"{names.middle_transformer}transformer_blocks."),
        context_dim=context_dim,
        num_heads=None if linear else 8,
        head_channels=64 if linear else None,
        linear_projection=linear,
        vector_dim=vector[1] if vector else None,
        float32_attention=context_dim == 1024,
    )
    return with_facts(replace(config, family=family_name(config)), facts)


def family_name(config: UNetConfig) -> str:
    """The family whose ControlNets and UNets fit together with these sizes, or "...-like"."""

    def joints(sizes: UNetConfig) -> tuple[object, ...]:
        return sizes.skip_channels, sizes.context_dim, sizes.vector_dim, sizes.linear_projection

    for name, family in FAMILIES.items():
        if joints(config) == joints(family.unet):
            return name
    return f"{LIKE[config.context_dim]}-like" if config.context_dim in LIKE else "unknown"


def read_hint(shapes: Shapes, layout: Layout) -> tuple[int, HintEncoderKind]:
    """The hint channels of a ControlNet, and its hint encoder: that of the paper has 4x4 kernels."""
    shape = _shape(shapes, NAMES[layout].hint_convolution)
    return shape[1], "paper" if shape[2] == 4 else "reference"


def read_autoencoder_config(shapes: Shapes, layout: Layout, facts: Mapping[str, Any]) -> AutoencoderConfig:
    """Read the sizes of an autoencoder, its keys without prefix; raises as `read_unet_config` does."""
    down, block = ("encoder.down.", "block") if layout == "ldm" else ("encoder.down_blocks.", "resnets")
    base = _shape(shapes, "encoder.conv_in")[0]
    widths = [_width(shapes, f"{down}{level}.{block}.0.", ("conv1", "conv2")) for level in range(_count(shapes, down))]
    if not widths or any(width % base for width in widths):
        raise _no_unet(f"an autoencoder with the channels {widths}")
    config = AutoencoderConfig(
        latent_channels=_shape(shapes, "decoder.conv_in")[1],
        base_channels=base,
        channel_mult=tuple(width // base for width in widths),
        num_res_blocks=_count(shapes, f"{down}0.{block}."),
    )
    return with_facts(config, facts)


def has_old_attention(shapes: Shapes) -> bool:
    """Whether a diffusers autoencoder names its attention as early versions did."""
    return any(key.endswith("mid_block.attentions.0.query.weight") for key in shapes)


def template_of(config: UNetConfig) -> Family:
    """The family that says what the shapes of a base do not, from the sizes of its UNet."""
    name = config.family.removesuffix("-like")
    if name in FAMILIES:
        return FAMILIES[name]
    if config.vector_dim is not None:
        return FAMILIES["SDXL"]
    return FAMILIES["SD2.1" if config.context_dim == 1024 else "SD1.5"]


def read_text_config(shapes: Shapes, template: TextEncoderConfig, facts: Mapping[str, Any]) -> TextEncoderConfig:
    """Read the sizes of a text encoder; raises as `read_unet_config` does.

    Arguments:
        shapes: Its keys and shapes, as transformers or OpenCLIP name them.
        template: The family's own, for what shapes do not say.
        facts: What this package stored about it in the file's metadata.
    """
    if "positional_embedding" in shapes:
        layers = _count(shapes, "transformer.resblocks.")
        layers -= template.projection_dim is None  # the last layer of SD2's files is never run
        tokens, positions = _shape(shapes, "token_embedding"), shapes["positional_embedding"]
        projection = shapes.get("text_projection", ())[::-1]
    else:
        inner = transformers_inner(shapes)
        layers = _count(shapes, f"{inner}encoder.layers.")
        tokens, positions = (_shape(shapes, f"{inner}embeddings.{kind}_embedding") for kind in ("token", "position"))
        projection = shapes.get("text_projection.weight", ())
    config = replace(
        template,
        vocabulary=tokens[0],
        width=tokens[1],
        layers=layers,
        num_heads=max(1, tokens[1] // 64),
        context_length=positions[0],
        projection_dim=projection[0] if template.projection_dim and projection else None,
    )
    return with_facts(config, facts)


def transformers_inner(shapes: Shapes) -> str:
    """What stands before the keys of a text encoder in the layout of transformers: nothing in some old files."""
    return "" if "embeddings.token_embedding.weight" in shapes else "text_model."


def with_facts(config: Config, facts: Mapping[str, Any]) -> Config:
    """The config with the fields that the metadata states."""
    stated = {field.name: facts[field.name] for field in fields(config) if field.name in facts}
    return replace(config, **stated)


def _ldm_levels(shapes: Shapes) -> list[list[tuple[int, int]]]:
    """Width and transformer depth of each residual block, level by level."""
    levels: list[list[tuple[int, int]]] = [[]]
    for number in range(1, _count(shapes, "input_blocks.")):
        place = f"input_blocks.{number}."
        if f"{place}0.op.weight" in shapes or f"{place}0.op.bias" in shapes:
            levels.append([])
            continue
        width = _width(shapes, f"{place}0.", RESIDUAL_WEIGHTS["ldm"])
        levels[-1].append((width, _count(shapes, f"{place}1.transformer_blocks.")))
    return levels


def _diffusers_levels(shapes: Shapes) -> list[list[tuple[int, int]]]:
    """Width and transformer depth of each residual block, level by level."""
    return [
        [
            (
                _width(shapes, f"down_blocks.{level}.resnets.{block}.", RESIDUAL_WEIGHTS["diffusers"]),
                _count(shapes, f"down_blocks.{level}.attentions.{block}.transformer_blocks."),
            )
            for block in range(_count(shapes, f"down_blocks.{level}.resnets."))
        ]
        for level in range(_count(shapes, "down_blocks."))
    ]


def _count(keys: Iterable[str], prefix: str) -> int:
    """How many numbered parts stand behind a prefix: one more than the highest number."""
    numbered = re.compile(re.escape(prefix) + r"(\d+)\.")
    return max((int(found[1]) + 1 for key in keys if (found := numbered.match(key))), default=0)


def _width(shapes: Shapes, place: str, names: tuple[str, ...]) -> int:
    """The output channels of a residual block, from the first of its tensors that is there."""
    for name in names:
        if f"{place}{name}.weight" in shapes:
            return shapes[f"{place}{name}.weight"][0]
    raise _no_unet(f"no weight for {place}{names[0]}")


def _shape(shapes: Shapes, name: str) -> Shape:
    """The shape of a weight that must be there."""
    if f"{name}.weight" in shapes:
        return shapes[f"{name}.weight"]
    raise _no_unet(f"no {name}.weight")


def _no_unet(found: str) -> CheckpointError:
    return CheckpointError(
        found=found,
        expected="a Stable Diffusion 1.x, 2.x or SDXL model with the same blocks throughout a level",
        do="use the original weights: distilled, pruned and other architectures are not supported",
    )
