"""Quantised weights: those with one scale for a layer or row are multiplied out, the others named."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import CheckpointError
from .facts import json_object, shortened
from .keymap import Shape
from .layouts.kinds import matches_any
from .source import CopiedTensors, WeightSource

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


@dataclass(frozen=True)
class Dequantised:
    """A source whose scaled weights are multiplied out when they are read, in the dtype of its other weights.

    Attributes:
        source: The source as it is stored.
        layers: The scaled layers, by the name of the weight: the name of its scale, and its format if stated.
        shapes: The shape of each tensor but the scales.
        dtypes: The dtype of each, as they are read.
    """

    source: WeightSource
    layers: Mapping[str, tuple[str, str | None]]
    shapes: dict[str, Shape]
    dtypes: dict[str, str]

    @property
    def place(self) -> str:
        """Where the source is, for messages."""
        return self.source.place

    @property
    def metadata(self) -> dict[str, str]:
        """The metadata of the source."""
        return self.source.metadata

    @contextmanager
    def tensors(
        self, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Iterator[Mapping[str, Tensor]]:
        """Give copies of the tensors, each made when it is asked for; arguments as `WeightSource.tensors`."""
        with self.source.tensors() as stored:

            def original(name: str) -> Tensor:
                if name not in self.layers:
                    return stored[name]
                scale, kind = self.layers[name]
                return _multiplied(stored[name], stored[scale], kind).to(getattr(torch, self.dtypes[name]))

            yield CopiedTensors(tuple(self.shapes), original, device, dtype)


def dequantised(source: WeightSource) -> WeightSource:
    """The source with its scaled weights multiplied out; the source itself if it has none.

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
    return Dequantised(source, layers, {name: source.shapes[name] for name in names}, dtypes) if layers else source


def _scaled_layers(source: WeightSource) -> dict[str, tuple[str, str | None]]:
    """The scaled layers of a source, as `Dequantised` keeps them."""
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
