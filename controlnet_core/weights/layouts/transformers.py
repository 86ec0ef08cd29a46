"""The layout of transformers for CLIP's text encoders; LDM checkpoints hold CLIP-L in it, diffusers folders all."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from ...config import TextEncoderConfig
from ...model.text_encoder import TextEncoder
from ..facts import Facts
from ..keymap import Entry, KeyMap, Shapes, layer, layers
from .kinds import TextEncoderLayout
from .sizes import count_parts, text_encoder_sizes, weight_shape

BLOCK = {
    "norm1": "layer_norm1",
    "attention.query": "self_attn.q_proj",
    "attention.key": "self_attn.k_proj",
    "attention.value": "self_attn.v_proj",
    "attention.output": "self_attn.out_proj",
    "norm2": "layer_norm2",
    "hidden": "mlp.fc1",
    "output": "mlp.fc2",
}
INNER = "text_model."
"""What stands before all keys but the projection's; some old files have nothing there."""
OLD_SIGN = "embeddings.token_embedding.weight"


def text_encoder_keymap(config: TextEncoderConfig, inner: str = INNER) -> KeyMap:
    """The map of a text encoder, its keys without prefix."""
    unused = (f"{inner}embeddings.position_ids", "logit_scale") + (
        () if config.projection_dim else ("text_projection.weight",)
    )
    name = f"CLIP text encoder of width {config.width} in the transformers layout"
    return KeyMap.of(name, TextEncoder(config, device="meta"), _entries(config, inner), unused)


def _entries(config: TextEncoderConfig, inner: str) -> Iterator[Entry]:
    for table in ("token_embedding", "position_embedding"):
        yield Entry((f"{table}.weight",), f"{inner}embeddings.{table}.weight")
    for number in range(config.layers):
        yield from layers(BLOCK, f"blocks.{number}", f"{inner}encoder.layers.{number}")
    yield from layer("norm", f"{inner}final_layer_norm")
    yield from layer("projection", "text_projection")


def _sizes(shapes: Shapes, facts: Facts) -> TextEncoderConfig:
    inner = "" if OLD_SIGN in shapes else INNER
    projected = "text_projection.weight" in shapes
    return text_encoder_sizes(
        tokens=weight_shape(shapes, f"{inner}embeddings.token_embedding"),
        positions=weight_shape(shapes, f"{inner}embeddings.position_embedding"),
        layers=count_parts(shapes, f"{inner}encoder.layers."),
        projection=weight_shape(shapes, "text_projection") if projected else (),
        facts=facts,
    )


TEXT_ENCODER = TextEncoderLayout(
    "a CLIP text encoder in the transformers layout",
    ("*embeddings.token_embedding.weight", "*embeddings.position_embedding.weight"),
    name="diffusers",
    sizes=_sizes,
    keymap=text_encoder_keymap,
    older=((OLD_SIGN, partial(text_encoder_keymap, inner="")),),
)
