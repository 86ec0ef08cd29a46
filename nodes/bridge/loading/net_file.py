"""Loads a CONTROL_NET: with the core if it can read the file, otherwise with ComfyUI's own loader."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import comfy.controlnet
import comfy.ldm.modules.attention
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.utils
import torch
from torch import Tensor

from ....controlnet_core.errors import CheckpointError
from ....controlnet_core.weights.detect import locate, refusal
from ....controlnet_core.weights.load import ControlNetPart, controlnet_part, read_controlnet
from ....controlnet_core.weights.source import TensorFile, open_tensor_file
from ..control.core_net import CoreControlNet
from ..host.folders import controlnet_path

COMPUTE_DTYPES = [torch.float16, torch.bfloat16, torch.float32]
POOLED_NAMES = ("_shuffle", "_shuffle_fp16")
"""Names of nets whose residuals are averaged over the picture end so: ComfyUI, too, knows it only from the name."""
WITHOUT_MIDDLE = "a small SDXL ControlNet without transformer in its middle block"
EXPECTED = "a ControlNet that ControlNet Core or ComfyUI reads"


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
class PickledFile(TensorFile):
    """A pickled checkpoint as ComfyUI read it: only tensors, never code.

    Attributes:
        loaded: Its tensors.
    """

    loaded: Mapping[str, Tensor]

    @contextmanager
    def tensors(
        self, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Iterator[Mapping[str, Tensor]]:
        """Give copies of the tensors."""

        def converted(tensor: Tensor) -> Tensor:
            kept = dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
            return tensor.to(device=device or "cpu", dtype=kept, copy=True)

        yield {key: converted(tensor) for key, tensor in self.loaded.items()}


def load_control_net(name: str) -> Loaded:
    """Load a net from ComfyUI's folders.

    Arguments:
        name: As `controlnet_names` lists it.

    Raises:
        CheckpointError: If there is no such file, it is damaged, or neither loader can read it.
    """
    return load_control_net_file(controlnet_path(name), name)


def load_control_net_file(path: Path, name: str) -> Loaded:
    """Load a net from a file; raises as `load_control_net` does.

    Arguments:
        path: The file.
        name: What messages call it.
    """
    file = _opened(path)
    if locate(file.shapes, "controlnet") is None:
        return _by_host(path, name, refusal(file.shapes, EXPECTED, str(path)))
    found = controlnet_part(file)
    config = found.part.config
    if config.transformer_depth_middle == 0 and config.vector_dim is not None:
        return _by_host(path, name, CheckpointError(f"{WITHOUT_MIDDLE}, {path}", EXPECTED, "use the full net"))
    return _by_core(found, name)


def file_stamp(name: str) -> str:
    """A value that changes when a net's file changes: its path, size and time."""
    path = controlnet_path(name)
    facts = path.stat()
    return f"{path}:{facts.st_size}:{facts.st_mtime_ns}"


def _opened(path: Path) -> TensorFile:
    """Open a file of any format: safetensors by its header, pickles through ComfyUI, which reads only tensors."""
    if path.suffix in (".safetensors", ".sft"):
        return open_tensor_file(path)
    try:
        loaded = comfy.utils.load_torch_file(str(path), safe_load=True)
    except Exception as error:  # torch raises many kinds for a broken pickle
        raise CheckpointError(
            found=f"{path}, which cannot be read ({error})", expected=EXPECTED, do="download the file again"
        ) from error
    tensors = {key: value for key, value in loaded.items() if isinstance(value, Tensor)}
    shapes = {key: tuple(value.shape) for key, value in tensors.items()}
    dtypes = {key: str(value.dtype).removeprefix("torch.") for key, value in tensors.items()}
    return PickledFile(path, shapes, dtypes, {}, tensors)


def _by_core(found: ControlNetPart, name: str) -> Loaded:
    """Build the core's net on ComfyUI's operations, in its patcher and in the dtype it would choose."""
    load_device = comfy.model_management.get_torch_device()
    stored = _main_dtype(found.part.file)
    dtype = comfy.model_management.unet_dtype(
        model_params=-1, supported_dtypes=COMPUTE_DTYPES.copy(), weight_dtype=stored
    )
    cast = comfy.model_management.unet_manual_cast(dtype, load_device)
    net = read_controlnet(
        found,
        dtype=dtype,
        operations=comfy.ops.pick_operations(dtype, cast, disable_fast_fp8=True),
        attention=comfy.ldm.modules.attention.optimized_attention,
    )
    patcher = comfy.model_patcher.CoreModelPatcher(
        net, load_device=load_device, offload_device=comfy.model_management.unet_offload_device()
    )
    control_net = CoreControlNet(net, patcher, cast or dtype, name)
    control_net.global_average_pooling = Path(name).stem.endswith(POOLED_NAMES)
    return Loaded(control_net, _report(found, name, control_net))


def _by_host(path: Path, name: str, reason: CheckpointError) -> Loaded:
    """Let ComfyUI's own loader read what the core does not; `reason` says why, and is raised if both fail."""
    try:
        control_net = comfy.controlnet.load_controlnet(str(path))
    except Exception as error:  # what it raises for a file it does not know depends on the file
        raise reason from error
    if control_net is None:
        raise reason
    return Loaded(control_net, f"{name}: read by ComfyUI's own loader, as it is {reason.found.rpartition(',')[0]}")


def _report(found: ControlNetPart, name: str, control_net: CoreControlNet) -> str:
    """What was loaded, as a sentence."""
    file, config = found.part.file, found.part.config
    stored, computed = _main_dtype(file), control_net.dtype
    millions = sum(prod(shape) for shape in file.shapes.values()) / 1e6
    dtypes = str(stored).removeprefix("torch.")
    if computed != stored:
        dtypes += f", computed in {str(computed).removeprefix('torch.')}"
    pooled = ", residuals averaged over the picture" if control_net.global_average_pooling else ""
    return (
        f"{name}: read by ControlNet Core; {config.family}, {found.layout} layout, "
        f"{millions:.0f} M parameters, {dtypes}{pooled}"
    )


def _main_dtype(file: TensorFile) -> torch.dtype:
    """The dtype of most of a file's numbers."""
    counts: Counter[str] = Counter()
    for key, shape in file.shapes.items():
        counts[file.dtypes[key]] += prod(shape)
    dtype: torch.dtype = getattr(torch, counts.most_common(1)[0][0])
    return dtype
