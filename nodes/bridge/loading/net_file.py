"""Loads a CONTROL_NET: with the core if it can read the file, otherwise with ComfyUI's own loader."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import comfy.ldm.modules.attention
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.utils
import torch
from torch import Tensor

from ....controlnet_core.errors import CheckpointError
from ....controlnet_core.weights.detect import refusal
from ....controlnet_core.weights.difference import is_difference, summed
from ....controlnet_core.weights.keymap import Shape
from ....controlnet_core.weights.layouts.foreign import DIFFERENCE
from ....controlnet_core.weights.layouts.kinds import ControlNetConfig
from ....controlnet_core.weights.load import read_controlnet
from ....controlnet_core.weights.parts.controlnet_part import controlnet_part, find_controlnet
from ....controlnet_core.weights.parts.part import Part
from ....controlnet_core.weights.pooling import is_pooled
from ....controlnet_core.weights.quantised import dequantised
from ....controlnet_core.weights.safetensors_file import is_tensor_file, open_tensor_file
from ....controlnet_core.weights.source import CopiedTensors, WeightSource, numbers_by_dtype
from ..control.residual_hook import CoreControlNet
from ..host.folders import controlnet_path
from ..host.types import HostModel
from .graph_weights import unet_weights
from .host_loader import load_by_host

COMPUTE_DTYPES = [torch.float16, torch.bfloat16, torch.float32]
WITHOUT_MIDDLE = "a small SDXL ControlNet without transformer in its middle block"
EXPECTED = "a ControlNet that ControlNet Core or ComfyUI reads"
AVERAGED = "residuals averaged over the picture"


@dataclass(frozen=True)
class Loaded:
    """A net and a report about it.

    Attributes:
        control_net: ComfyUI's CONTROL_NET.
        report: A sentence: which loader read it, its family, layout, size and dtype.
    """

    control_net: Any
    report: str


@dataclass(frozen=True)
class PickledFile:
    """A pickled checkpoint as ComfyUI read it: a source of weights, only tensors and never code.

    Attributes:
        place: Its path, for messages.
        shapes: The shape of each tensor.
        dtypes: The dtype of each.
        metadata: Empty, as a pickle holds no words.
        loaded: Its tensors.
    """

    place: str
    shapes: dict[str, Shape]
    dtypes: dict[str, str]
    metadata: dict[str, str]
    loaded: Mapping[str, Tensor]

    @contextmanager
    def tensors(
        self, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Iterator[Mapping[str, Tensor]]:
        """Give copies of the tensors, each made when it is asked for."""
        yield CopiedTensors(tuple(self.loaded), self.loaded.__getitem__, device, dtype)


def load_control_net(name: str, model: HostModel = None, pooled: bool | None = None) -> Loaded:
    """Load a net from ComfyUI's folders.

    Arguments:
        name: As `controlnet_names` lists it.
        model: The MODEL that a difference ControlNet is added to, or None.
        pooled: Whether residuals are averaged over the picture; None goes by what the file says, or its name.

    Raises:
        CheckpointError: If there is no such file, it is damaged, or neither loader can read it.
        FamilyMismatchError: If a difference ControlNet does not fit the model.
    """
    return load_control_net_file(controlnet_path(name), name, model, pooled)


def load_control_net_file(path: Path, name: str, model: HostModel = None, pooled: bool | None = None) -> Loaded:
    """Load a net from a file that messages call `name`; the rest is as `load_control_net` says."""
    file = _opened(path)
    if is_difference(file):
        loaded = _by_core(controlnet_part(_added(file, model)), name, pooled)
        return replace(loaded, report=f"{loaded.report}, differences added to the model")
    found = find_controlnet(file)
    if found is None:
        return _by_host(file, name, refusal(file.shapes, EXPECTED, file.place), pooled)
    config = found.config.unet
    if config.transformer_depth_middle == 0 and config.vector_dim is not None:
        reason = CheckpointError(f"{WITHOUT_MIDDLE}, {file.place}", EXPECTED, "use the full net")
        return _by_host(file, name, reason, pooled)
    return _by_core(found, name, pooled)


def file_stamp(name: str) -> str:
    """A value that changes when a net's file changes: its path, size and time."""
    path = controlnet_path(name)
    facts = path.stat()
    return f"{path}:{facts.st_size}:{facts.st_mtime_ns}"


def _opened(path: Path) -> WeightSource:
    """Open a file of any format: safetensors by its header, pickles through ComfyUI, which reads only tensors."""
    if path.suffix in (".safetensors", ".sft") or is_tensor_file(path):
        return open_tensor_file(path)
    try:
        loaded = comfy.utils.load_torch_file(str(path), safe_load=True)
    except Exception as error:  # torch raises many kinds for a broken pickle
        cause = str(error).split(". ")[0].split("\n")[0]  # what torch says next is advice to run unsafe code
        raise CheckpointError(f"{path}, which cannot be read ({cause})", EXPECTED, "download the file again") from error
    if not isinstance(loaded, Mapping):
        raise CheckpointError(f"a {type(loaded).__name__} in {path}", EXPECTED, "choose another file")
    tensors = {str(key): value for key, value in loaded.items() if isinstance(value, Tensor)}
    shapes = {key: tuple(value.shape) for key, value in tensors.items()}
    dtypes = {key: str(value.dtype).removeprefix("torch.") for key, value in tensors.items()}
    return PickledFile(str(path), shapes, dtypes, {}, tensors)


def _added(file: WeightSource, model: HostModel) -> WeightSource:
    """A difference ControlNet added to the weights of a model."""
    if model is None:
        do = "connect the model that it was made for to model of this node, or use the full ControlNet"
        raise CheckpointError(f"{DIFFERENCE.description}, {file.place}", "that base, too", do)
    return summed(dequantised(file), unet_weights(model, "the model"))


def _by_core(found: Part[ControlNetConfig], name: str, pooled: bool | None) -> Loaded:
    """Build the core's net on ComfyUI's operations, in its patcher and in the dtype it would choose."""
    load_device = comfy.model_management.get_torch_device()
    stored = _main_dtype(found.source)
    dtype = comfy.model_management.unet_dtype(
        model_params=-1, supported_dtypes=COMPUTE_DTYPES.copy(), weight_dtype=stored
    )
    cast = comfy.model_management.unet_manual_cast(dtype, load_device)
    net = read_controlnet(
        replace(found, config=replace(found.config, pooled=False)),  # ComfyUI's own switch on the CONTROL_NET does it
        dtype=dtype,
        operations=comfy.ops.pick_operations(dtype, cast, disable_fast_fp8=True),
        attention=comfy.ldm.modules.attention.optimized_attention,
    )
    patcher = comfy.model_patcher.CoreModelPatcher(
        net, load_device=load_device, offload_device=comfy.model_management.unet_offload_device()
    )
    control_net = CoreControlNet(net, patcher, cast or dtype, name)
    control_net.global_average_pooling = found.config.pooled if pooled is None else pooled
    return Loaded(control_net, _report(found, name, control_net))


def _by_host(file: WeightSource, name: str, reason: CheckpointError, pooled: bool | None) -> Loaded:
    """Let ComfyUI's own loader read what the core does not; `reason` says why, and is raised if both fail."""
    asked = is_pooled(file.place) if pooled is None else pooled
    control_net, lacking = load_by_host(file, reason, asked)
    report = f"{name}: read by ComfyUI's own loader, as it is {reason.found.removesuffix(f', {file.place}')}"
    averaged = getattr(control_net, "global_average_pooling", False)
    if asked:
        report += f", {AVERAGED}" if averaged else "; that loader does not average the residuals of such a net"
    return Loaded(control_net, f"{report}; {lacking}" if lacking else report)


def _report(found: Part[ControlNetConfig], name: str, control_net: CoreControlNet) -> str:
    """What was loaded, as a sentence."""
    stored, computed = _main_dtype(found.source), control_net.dtype
    millions = numbers_by_dtype(found.source).total() / 1e6
    dtypes = str(stored).removeprefix("torch.")
    if computed != stored:
        dtypes += f", computed in {str(computed).removeprefix('torch.')}"
    pooled = f", {AVERAGED}" if control_net.global_average_pooling else ""
    return (
        f"{name}: read by ControlNet Core; {found.config.unet.family}, {found.layout.name} layout, "
        f"{millions:.0f} M parameters, {dtypes}{pooled}"
    )


def _main_dtype(source: WeightSource) -> torch.dtype:
    """The dtype of most of a source's numbers."""
    dtype: torch.dtype = getattr(torch, numbers_by_dtype(source).most_common(1)[0][0])
    return dtype
