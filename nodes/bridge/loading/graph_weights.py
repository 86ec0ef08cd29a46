"""The weights of ComfyUI's models as they act, read as if they were a checkpoint file.

They may be inference tensors, mapped files, streamed or quantised, and are replaced whenever a model is loaded: so they
are only copied.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import comfy.lora
import comfy.model_patcher
import torch
from torch import Tensor

from ....controlnet_core.weights.keymap import Shape
from ....controlnet_core.weights.source import CopiedTensors
from ..host.types import HostModel

UNET = ("model.diffusion_model.", "diffusion_model.")
"""What stands before a UNet's weights in a checkpoint file, and in ComfyUI."""


@dataclass(frozen=True)
class GraphWeights:
    """What goes through the sockets MODEL, CLIP and VAE: a source of weights, named as a checkpoint in the LDM layout.

    Attributes:
        shapes: The shape of each weight.
        dtypes: The dtype of each, as they are read.
        metadata: The words that the file they come from would hold.
        parameters: For each key ComfyUI's patcher and its name of the parameter.
        place: What messages call it.
    """

    shapes: dict[str, Shape]
    dtypes: dict[str, str]
    metadata: dict[str, str]
    parameters: Mapping[str, tuple[HostModel, str]]
    place: str

    @contextmanager
    def tensors(
        self, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Iterator[Mapping[str, Tensor]]:
        """Give copies of the weights, each made when it is asked for: dequantised, with LoRAs and other patches."""

        def acting(key: str) -> Tensor:
            return merged(*self.parameters[key])

        yield CopiedTensors(tuple(self.parameters), acting, device, dtype)


def unet_weights(model: HostModel, place: str) -> GraphWeights:
    """The UNet of a MODEL, with its LoRAs; `place` is what messages call it."""
    sources = parameters(model, *UNET)
    return GraphWeights(shapes_of(sources), dict.fromkeys(sources, "float32"), {}, sources, place)


def parameters(patcher: HostModel, ours: str, theirs: str) -> dict[str, tuple[HostModel, str]]:
    """Where a model's parameters are: those whose names start with `theirs`, under names that start with `ours`."""
    names = (name for name in parameter_names(patcher) if name.startswith(theirs))
    return {ours + name.removeprefix(theirs): (patcher, name) for name in names}


def shapes_of(sources: Mapping[str, tuple[HostModel, str]]) -> dict[str, Shape]:
    """The shape of each parameter."""
    return {key: tuple(parameter(*source).shape) for key, source in sources.items()}


def parameter_names(patcher: HostModel) -> Iterator[str]:
    """The parameters that a checkpoint file holds; the scales of a quantised layer are a part of its weight."""
    for place, layer in patcher.model.named_modules():
        quantised = getattr(layer, "quant_format", None) is not None
        for name, _ in layer.named_parameters(recurse=False):
            if not quantised or name in ("weight", "bias"):
                yield f"{place}.{name}" if place else name


def parameter(patcher: HostModel, name: str) -> Tensor:
    """A parameter before any patch: ComfyUI puts patched weights in place and keeps the original ones."""
    original = patcher.backup.get(name)
    weight: Tensor = comfy.model_patcher.get_key_weight(patcher.model, name)[0] if original is None else original.weight
    return weight


@torch.no_grad()
def merged(patcher: HostModel, name: str) -> Tensor:
    """A parameter as it acts, in float32: dequantised, and with its patches."""
    weight = parameter(patcher, name)
    dequantise = comfy.model_patcher.get_key_weight(patcher.model, name)[2]
    if dequantise is not None:
        weight = dequantise(weight)
    copied = weight.detach().to("cpu", torch.float32, copy=True)
    patches = patcher.patches.get(name)
    if not patches:
        return copied
    merged: Tensor = comfy.lora.calculate_weight(patches, copied, name)
    return merged.to("cpu", torch.float32).clone()
