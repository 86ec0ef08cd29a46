"""The layout of OpenCLIP, whose attention keeps query, key and value in one tensor: SD2 and SDXL files hold it."""

from __future__ import annotations

from collections.abc import Iterator

from ...config import TextEncoderConfig
from ...model.text_encoder import TextEncoder
from ..facts import Facts
from ..keymap import Entry, KeyMap, Shapes, layer, layers
from .kinds import TextEncoderLayout
from .sizes import count_parts, tensor_shape, text_encoder_sizes, weight_shape

BLOCK = {
    "norm1": "ln_1",
    "attention.output": "attn.out_proj",
    "norm2": "ln_2",
    "hidden": "mlp.c_fc",
    "output": "mlp.c_proj",
}


def text_encoder_keymap(config: TextEncoderConfig) -> KeyMap:
    """The map of a text encoder, its keys without prefix.

    The layer after the last one that is run, and a projection that nobody asks for, are known and not needed.
    """
    unused = ("attn_mask", "logit_scale", f"transformer.resblocks.{config.layers}.*") + (
        () if config.projection_dim else ("text_projection",)
    )
    name = f"CLIP text encoder of width {config.width} in the OpenCLIP layout"
    return KeyMap.of(name, TextEncoder(config, device="meta"), _entries(config), unused)


def _entries(config: TextEncoderConfig) -> Iterator[Entry]:
    yield Entry(("token_embedding.weight",), "token_embedding.weight")
    yield Entry(("position_embedding.weight",), "positional_embedding")
    for number in range(config.layers):
        ours, theirs = f"blocks.{number}", f"transformer.resblocks.{number}"
        for part in ("weight", "bias"):
            joined = tuple(f"{ours}.attention.{name}.{part}" for name in ("query", "key", "value"))
            yield Entry(joined, f"{theirs}.attn.in_proj_{part}", "joined")
        yield from layers(BLOCK, ours, theirs)
    yield from layer("norm", "ln_final")
    yield Entry(("projection.weight",), "text_projection", "transposed")


def _sizes(shapes: Shapes, facts: Facts) -> TextEncoderConfig:
    projected = "text_projection" in shapes
    never_run = 0 if facts.get("projected", True) else 1  # the last layer of SD2's files
    return text_encoder_sizes(
        tokens=weight_shape(shapes, "token_embedding"),
        positions=tensor_shape(shapes, "positional_embedding"),
        layers=count_parts(shapes, "transformer.resblocks.") - never_run,
        projection=tensor_shape(shapes, "text_projection")[::-1] if projected else (),
        facts=facts,
    )


TEXT_ENCODER = TextEncoderLayout(
    "a CLIP text encoder in the OpenCLIP layout",
    ("*token_embedding.weight", "*positional_embedding", "*transformer.resblocks.0.ln_1.weight"),
    name="ldm",
    sizes=_sizes,
    keymap=text_encoder_keymap,
)
