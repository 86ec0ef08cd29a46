"""Quantised weights: those with one scale for a layer or row are multiplied out, the others named."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from ..errors import CheckpointError
from .facts import json_object, shortened
from .layouts.kinds import matches_any
from .source import ComputedWeights, WeightSource

SCALES = ("weight_scale", "scale_weight")
"""What stands in place of a layer's `weight` for the scale of it, in today's files and in earlier ones."""
BESIDE = (*SCALES, "input_scale", "scale_input", "comfy_quant")
"""Names beside a layer's `weight` that are of no further use once it is multiplied out."""
MARK = "scaled_fp8"
FORMATS = {"float8_e4m3fn": torch.float8_e4m3fn, "float8_e5m2": torch.float8_e5m2, "int8_tensorwise": torch.int8}
"""The formats that are multiplied out, as files name them; bytes without a type are of that type."""
LAYER_FORMATS = "_quantization_metadata"
"""Under this key of their metadata some files name the format of each layer."""
SCALED = ("float8_e4m3fn", "float8_e5m2", "int8", "uint8")
WHOLE = ("float64", "float32", "float16", "bfloat16")
SIGNS = {
    "*.quant_state.bitsandbytes__*": "weights in 4 bits, as bitsandbytes stores them",
    "*.absmax": "weights in blocks, as bitsandbytes stores them",
    "*.SCB": "weights in 8 bits, as bitsandbytes stores them",
    "*.qweight": "weights of GPTQ or AWQ",
    "*.weight_scale_2": "weights in 4 bits (nvfp4)",
}
EXPECTED = "weights in float32, float16, bfloat16 or float8, or in 8 bits with one scale for a layer or for each row"
DO = "fetch the net in half precision"


def dequantised(source: WeightSource) -> WeightSource:
    """The source with its scaled weights multiplied out, in the dtype of its other weights; itself if it has none.

    Raises:
        CheckpointError: If it has weights that are no numbers to compute with: of a format that is not read, or whole
            numbers without a scale.
    """
    for pattern, words in SIGNS.items():
        if matches_any(pattern, source.shapes):
            raise CheckpointError(f"{words}, in {source.place}", EXPECTED, DO)
    layers = _scaled_layers(source)
    beside = {weight.removesuffix("weight") + name for weight in layers for name in BESIDE}
    names = [name for name in source.shapes if name not in beside and not (layers and name.split(".")[-1] == MARK)]
    others = Counter(source.dtypes[name] for name in names if source.dtypes[name] in WHOLE)
    common = others.most_common(1)[0][0] if others else "float32"
    dtypes = {name: common if name in layers else source.dtypes[name] for name in names}
    for name, dtype in dtypes.items():
        if name.endswith((".weight", ".bias")) and not dtype.startswith(("float", "bfloat")):
            raise CheckpointError(f"{dtype} weights without a scale in {source.place} ({name})", EXPECTED, DO)
    if not layers:
        return source

    @contextmanager
    def opened() -> Iterator[Callable[[str], Tensor]]:
        with source.tensors() as stored:

            def multiplied(name: str) -> Tensor:
                if name not in layers:
                    return stored[name]
                scale, kind = layers[name]
                return _multiplied(stored[name], stored[scale], kind).to(getattr(torch, dtypes[name]))

            yield multiplied

    return ComputedWeights(source, {name: source.shapes[name] for name in names}, dtypes, opened)


def _scaled_layers(source: WeightSource) -> dict[str, tuple[str, str | None]]:
    """The scaled layers of a source, by the name of the weight: the name of its scale, and its format if stated."""
    found: dict[str, tuple[str, str | None]] = {}
    formats = _formats(source)
    for name, shape in source.shapes.items():
        place = name.removesuffix("weight")
        scale = next((place + kind for kind in SCALES if place + kind in source.shapes), None)
        if not name.endswith(".weight") or scale is None or source.dtypes[name] not in SCALED:
            continue
        kind = formats.get(place.rstrip("."))
        scales = source.shapes[scale]
        size = scales[0] if scales else 1
        if scales not in ((), (size,), (size, *(1,) * (len(shape) - 1))) or size not in (1, shape[0] if shape else 1):
            found_shapes = f"{scale} of shape {scales} for a weight of shape {shape}"
            raise CheckpointError(f"{found_shapes} in {source.place}", EXPECTED, DO)
        if kind is not None and kind not in FORMATS:
            raise CheckpointError(f"weights in the format {shortened(kind)} in {source.place}", EXPECTED, DO)
        if kind is None and source.dtypes[name] == "uint8":
            raise CheckpointError(f"bytes of an unknown format in {source.place} ({name})", EXPECTED, DO)
        if kind is not None and source.dtypes[name] not in ("uint8", str(FORMATS[kind]).removeprefix("torch.")):
            stored = f"{source.dtypes[name]} numbers for weights in the format {kind}"
            raise CheckpointError(f"{stored} in {source.place} ({name})", EXPECTED, DO)
        found[name] = scale, kind
    return found


def _formats(source: WeightSource) -> dict[str, str]:
    """The formats of quantised layers by their names, where a source states them."""
    stated = source.metadata.get(LAYER_FORMATS)
    place = f"the format of a quantised layer in {source.place}"
    described = {} if stated is None else json_object(stated, place).get("layers", {})
    texts = {layer: json.dumps(words) for layer, words in described.items()} if isinstance(described, dict) else {}
    quantised = [name for name in source.shapes if name.endswith(".comfy_quant")]
    if quantised:
        with source.tensors() as tensors:
            for name in quantised:
                words = bytes(tensors[name].to(torch.uint8).flatten().tolist())
                texts[name.removesuffix(".comfy_quant")] = words.decode("utf-8", errors="replace")
    return {layer: _format(json_object(text, place)) for layer, text in texts.items()}


def _format(described: Mapping[str, object]) -> str:
    """The format of one layer; a rotation before the scale makes it another one."""
    parameters = described.get("params")
    rotated = described.get("convrot") or (isinstance(parameters, dict) and parameters.get("convrot"))
    return f"{described.get('format')}{', rotated' if rotated else ''}"


def _multiplied(weight: Tensor, scale: Tensor, kind: str | None) -> Tensor:
    """A weight times its scale, which is one number or one for each row, in float32."""
    if weight.dtype == torch.uint8 and kind is not None:
        weight = weight.view(FORMATS[kind])
    return weight.float() * scale.float().reshape(-1, *(1,) * (weight.ndim - 1))
