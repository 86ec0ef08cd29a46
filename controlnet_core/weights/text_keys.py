"""Key maps of the text encoders: CLIP as transformers names it, and as OpenCLIP does."""

from __future__ import annotations

from collections.abc import Iterator

from ..config import TextEncoderConfig
from ..model.text_encoder import TextEncoder
from .keymap import Entry, KeyMap, layer

TRANSFORMERS_BLOCK = {
    "norm1": "layer_norm1",
    "attention.query": "self_attn.q_proj",
    "attention.key": "self_attn.k_proj",
    "attention.value": "self_attn.v_proj",
    "attention.output": "self_attn.out_proj",
    "norm2": "layer_norm2",
    "hidden": "mlp.fc1",
    "output": "mlp.fc2",
}
OPENCLIP_BLOCK = {
    "norm1": "ln_1",
    "attention.output": "attn.out_proj",
    "norm2": "ln_2",
    "hidden": "mlp.c_fc",
    "output": "mlp.c_proj",
}


def transformers_keymap(config: TextEncoderConfig, inner: str = "text_model.") -> KeyMap:
    """The map of a text encoder in the layout of transformers.

    Arguments:
        config: The text encoder's sizes.
        inner: What stands before all keys but the projection's; some old files have nothing there.
    """
    unused = (f"{inner}embeddings.position_ids", "logit_scale") + (
        () if config.projection_dim else ("text_projection.weight",)
    )
    name = f"CLIP text encoder of width {config.width} in the transformers layout"
    return KeyMap.of(name, TextEncoder(config, device="meta"), _transformers_entries(config, inner), unused)


def openclip_keymap(config: TextEncoderConfig) -> KeyMap:
    """The map of a text encoder in the layout of OpenCLIP, whose attention keeps query, key and value in one tensor.

    The layers behind the last one that is run, and a projection that nobody asks for, are known and not needed.
    """
    unused = ("attn_mask", "logit_scale", f"transformer.resblocks.{config.layers}.*") + (
        () if config.projection_dim else ("text_projection",)
    )
    name = f"CLIP text encoder of width {config.width} in the OpenCLIP layout"
    return KeyMap.of(name, TextEncoder(config, device="meta"), _openclip_entries(config), unused)


def _transformers_entries(config: TextEncoderConfig, inner: str) -> Iterator[Entry]:
    for table in ("token_embedding", "position_embedding"):
        yield Entry((f"{table}.weight",), f"{inner}embeddings.{table}.weight")
    for number in range(config.layers):
        for our, their in TRANSFORMERS_BLOCK.items():
            yield from layer(f"blocks.{number}.{our}", f"{inner}encoder.layers.{number}.{their}")
    yield from layer("norm", f"{inner}final_layer_norm")
    yield from layer("projection", "text_projection")


def _openclip_entries(config: TextEncoderConfig) -> Iterator[Entry]:
    yield Entry(("token_embedding.weight",), "token_embedding.weight")
    yield Entry(("position_embedding.weight",), "positional_embedding")
    for number in range(config.layers):
        ours, theirs = f"blocks.{number}", f"transformer.resblocks.{number}"
        for part in ("weight", "bias"):
            joined = tuple(f"{ours}.attention.{name}.{part}" for name in ("query", "key", "value"))
            yield Entry(joined, f"{theirs}.attn.in_proj_{part}", "joined")
        for our, their in OPENCLIP_BLOCK.items():
            yield from layer(f"{ours}.{our}", f"{theirs}.{their}")
    yield from layer("norm", "ln_final")
    yield Entry(("projection.weight",), "text_projection", "transposed")
