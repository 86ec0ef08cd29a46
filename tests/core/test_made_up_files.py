"""Small files whose names, shapes and metadata promise a model beyond all bounds are described at once, not built."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from controlnet_core.config import FAMILIES
from controlnet_core.errors import CheckpointError
from controlnet_core.weights.inspection import inspect_checkpoint
from controlnet_core.weights.layouts import ldm, openclip, transformers
from controlnet_core.weights.layouts.kinds import ControlNetConfig
from controlnet_core.weights.load import load_controlnet

Shape = list[int]
NOTHING: Shape = [0]
DIFFUSERS: dict[str, Shape] = {
    "controlnet_cond_embedding.conv_in.weight": [16, 3, 0, 0],
    "controlnet_down_blocks.0.weight": NOTHING,
    "controlnet_mid_block.weight": NOTHING,
    "conv_in.weight": [32, 4, 0, 0],
}
LDM: dict[str, Shape] = {
    "zero_convs.0.0.weight": NOTHING,
    "input_hint_block.0.weight": [16, 3, 0, 0],
    "middle_block_out.0.weight": NOTHING,
    "input_blocks.0.0.weight": [32, 4, 0, 0],
    "input_blocks.1.0.in_layers.2.weight": [32, 32, 0, 0],
}
FIRST = "input_blocks.0.0.weight"
KEYS: dict[str, tuple[dict[str, Shape], str]] = {
    "levels": ({**DIFFUSERS, "down_blocks.999999999.x": NOTHING}, "down_blocks.999999999 without down_blocks.0"),
    "blocks": (
        {**DIFFUSERS, "down_blocks.0.resnets.99999999.conv1.weight": [32, 32]},
        r"resnets.99999999 without down_blocks.0.resnets.0",
    ),
    "depth": (
        {**LDM, "input_blocks.1.1.transformer_blocks.999999999.x": NOTHING},
        "transformer_blocks.999999999 without",
    ),
    "middle": ({**LDM, "middle_block.1.transformer_blocks.5.x": NOTHING}, "transformer_blocks.5 without"),
    "a number of many digits": ({**LDM, f"input_blocks.{'9' * 5000}.x": NOTHING}, "do not fit: .* 1 unknown"),
    "no sizes": (dict.fromkeys(LDM, NOTHING), r"input_blocks.1.0.in_layers.2.weight with the shape \(0,\)"),
    "one dimension": ({**LDM, FIRST: [32]}, rf"{FIRST} with the shape \(32,\)"),
    "no channels": ({**LDM, FIRST: [0, 4, 3, 3]}, rf"{FIRST} with the shape \(0, 4, 3, 3\)"),
    "endless channels": ({**LDM, FIRST: [2**40, 4, 0, 0]}, rf"{FIRST} with the shape \(1099511627776, 4, 0, 0\)"),
    "odd channels": ({**LDM, FIRST: [1, 4, 0, 0]}, "1 channels, which are no multiple of 32"),
    "a hint of two dimensions": ({**LDM, "input_hint_block.0.weight": [16, 3]}, r"with the shape \(16, 3\)"),
    "a prompt of one": ({**LDM, "input_blocks.1.1.attn2.to_k.weight": [9]}, r"attn2.to_k.weight with the shape"),
}
FACTS: dict[str, tuple[str, str]] = {
    "brackets without end": ("[" * 100_000, "cannot be read"),
    "a number of many digits": ('{"num_heads": ' + "9" * 5000 + "}", "cannot be read"),
    "a list": ("[1]", "cannot be read"),
    "heads as text": ('{"num_heads": "x"}', "num_heads = 'x' in the metadata"),
    "no heads": ('{"num_heads": 0}', "num_heads = 0"),
    "endless heads": ('{"num_heads": 1000000000}', "num_heads = 1000000000"),
    "heads that do not divide": ('{"num_heads": 5}', "5 attention heads for 32 channels"),
    "true for a number": ('{"head_channels": true}', "head_channels = True"),
    "a family that is a number": ('{"family": 5}', "family = 5"),
    "an object for a switch": ('{"float32_attention": {}}', r"float32_attention = \{\}"),
    "a scale that is no number": ('{"latent_scale": NaN}', "latent_scale = nan"),
    "text encoders that are no list": ('{"text_encoders": 3}', "text_encoders = 3"),
    "a text encoder that is none": ('{"text_encoders": [3]}', "3 in the metadata"),
    "endless layers": ('{"text_encoders": [{"layers": 1000000000}]}', "layers = 1000000000"),
    "a prediction that is a list": ('{"prediction": []}', r"prediction = \[\]"),
    "a huge picture": ('{"image_size": 1000000000}', "image_size = 1000000000"),
}


def written(path: Path, shapes: dict[str, Shape], facts: str | None = None) -> Path:
    """A safetensors file of zeros with these shapes; what a product of zero and more says takes no room."""
    header: dict[str, Any] = {} if facts is None else {"__metadata__": {"controlnet_core": facts}}
    offset = 0
    for key, shape in shapes.items():
        size = 2
        for length in shape:
            size *= length
        header[key] = {"dtype": "F16", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    words = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(words)) + words + bytes(offset))
    return path


@pytest.mark.parametrize("words", KEYS)
def test_impossible_sizes_are_said(words: str, tmp_path: Path) -> None:
    shapes, message = KEYS[words]
    path = written(tmp_path / "net.safetensors", shapes)
    assert not inspect_checkpoint(path).usable
    with pytest.raises(CheckpointError, match=message):
        load_controlnet(path)


@pytest.mark.parametrize("words", FACTS)
def test_impossible_facts_are_said(words: str, tmp_path: Path) -> None:
    facts, message = FACTS[words]
    depth = {"input_blocks.1.1.transformer_blocks.0.x": NOTHING}
    path = written(tmp_path / "net.safetensors", {**LDM, **depth}, facts)
    assert not inspect_checkpoint(path).usable
    with pytest.raises(CheckpointError, match=message):
        load_controlnet(path)


def test_facts_do_not_overrule_shapes() -> None:
    shapes = ldm.controlnet_keymap(ControlNetConfig(FAMILIES["TINY"].unet)).file_shapes
    assert ldm.CONTROLNET.sizes(shapes, {"num_res_blocks": 10**9, "model_channels": "x"}).unet.num_res_blocks == 1


@pytest.mark.parametrize("layout", [transformers, openclip], ids=["transformers", "openclip"])
def test_impossible_text_encoders_are_said(layout: ModuleType) -> None:
    config = FAMILIES["SDXL"].text_encoders[1]
    whole = layout.text_encoder_keymap(config).file_shapes
    assert layout.TEXT_ENCODER.sizes(whole, {"layers": 32}).layers == 32
    for key in [key for key in whole if key.endswith(("token_embedding.weight", "projection", "projection.weight"))]:
        for shape in ((1280,), (0, 1280), (2**40, 1280)):
            with pytest.raises(CheckpointError, match=f"{key} with the shape"):
                layout.TEXT_ENCODER.sizes({**whole, key: shape}, {})
    with pytest.raises(CheckpointError, match="7 attention heads for a width of 1280"):
        layout.TEXT_ENCODER.sizes(whole, {"num_heads": 7})
