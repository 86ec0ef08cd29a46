"""A small double of ComfyUI: as much of its modules as the nodes touch, with the real ones' protocol."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar
from unittest.mock import Mock

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

Values = dict[str, Any]
HostObject = Any
"""ComfyUI does not type its objects."""


class Socket:
    """An input or output of a form, as it was declared."""

    def __init__(self, io_type: str, id: str | None = None, **options: HostObject) -> None:
        self.io_type = io_type
        self.id = id
        self.optional = bool(options.pop("optional", False))
        self.display_name = options.get("display_name")
        self.tooltip = options.get("tooltip")
        self.control_after_generate = options.get("control_after_generate")
        self.options = options

    def as_dict(self) -> Values:
        """What the socket says beside its name and type."""
        return dict(self.options)

    def get_io_type(self) -> str:
        """Its type."""
        return self.io_type


class Schema:
    """A node's form."""

    def __init__(self, **fields: HostObject) -> None:
        self.__dict__.update({"hidden": [], "search_aliases": [], "is_output_node": False, **fields})


class ComfyNode:
    """What nodes derive from."""

    hidden: ClassVar[Any] = SimpleNamespace(unique_id="7")

    @classmethod
    def GET_SCHEMA(cls) -> Schema:
        """The node's form."""
        schema: Schema = cls.define_schema()  # type: ignore[attr-defined]
        return schema


class NodeOutput:
    """What a node gives."""

    def __init__(self, *values: HostObject, ui: HostObject = None) -> None:
        self.args = values
        self.ui = ui


class ControlBase:
    """The part of ComfyUI's class that its samplers and nodes rely on."""

    def __init__(self) -> None:
        self.cond_hint_original: Tensor | None = None
        self.cond_hint: Tensor | None = None
        self.strength = 1.0
        self.timestep_percent_range = (0.0, 1.0)
        self.timestep_range: tuple[float, float] | None = None
        self.global_average_pooling = False
        self.upscale_algorithm = "nearest-exact"
        self.latent_format: HostObject = None
        self.concat_mask = False
        self.extra_args: Values = {}
        self.extra_hooks: Any = None
        self.vae: Any = None
        self.previous_controlnet: Any = None
        self.multigpu_clones: dict[torch.device, Any] = {}

    def set_cond_hint(
        self,
        cond_hint: Tensor,
        strength: float = 1.0,
        timestep_percent_range: tuple[float, float] = (0.0, 1.0),
        vae: HostObject = None,
    ) -> ControlBase:
        """Configure."""
        self.cond_hint_original, self.strength = cond_hint, strength
        self.timestep_percent_range, self.vae = timestep_percent_range, vae
        return self

    def set_previous_controlnet(self, controlnet: HostObject) -> ControlBase:
        """Link."""
        self.previous_controlnet = controlnet
        return self

    def set_extra_arg(self, argument: str, value: HostObject = None) -> None:
        """Keep an argument."""
        self.extra_args[argument] = value

    def pre_run(self, model: HostObject, percent_to_timestep_function: Callable[[float], float]) -> None:
        """Begin."""
        start, end = self.timestep_percent_range
        self.timestep_range = (percent_to_timestep_function(start), percent_to_timestep_function(end))
        if self.previous_controlnet is not None:
            self.previous_controlnet.pre_run(model, percent_to_timestep_function)

    def cleanup(self) -> None:
        """End."""
        if self.previous_controlnet is not None:
            self.previous_controlnet.cleanup()
        self.cond_hint, self.timestep_range = None, None

    def get_models(self) -> list[Any]:
        """Patchers."""
        return [] if self.previous_controlnet is None else list(self.previous_controlnet.get_models())

    def get_extra_hooks(self) -> list[Any]:
        """Hooks."""
        return []

    def get_instance_for_device(self, device: torch.device) -> HostObject:
        """The copy on a device."""
        return self.multigpu_clones.get(device, self)

    def inference_memory_requirements(self, dtype: torch.dtype) -> float:
        """Bytes."""
        return 0

    def copy_to(self, c: HostObject) -> None:
        """Copy the settings."""
        names = "cond_hint_original strength timestep_percent_range global_average_pooling upscale_algorithm "
        for name in (names + "latent_format vae concat_mask extra_hooks").split():
            setattr(c, name, getattr(self, name))
        c.extra_args = dict(self.extra_args)


class Patcher:
    """Holds a model."""

    def __init__(self, model: nn.Module, load_device: HostObject, offload_device: HostObject) -> None:
        self.model = model


class ExecutionBlocker:
    """A value that stops what uses it."""

    def __init__(self, message: str | None) -> None:
        self.message = message


def common_upscale(samples: Tensor, width: int, height: int, upscale_method: str, crop: str) -> Tensor:
    """Crop around the centre to the wanted aspect, and resize."""
    rows, columns = samples.shape[-2:]
    x = round(max(0.0, columns - rows * width / height) / 2)
    y = round(max(0.0, rows - columns * height / width) / 2)
    cropped = samples[..., y : rows - y, x : columns - x]
    return nn.functional.interpolate(cropped, size=(height, width), mode=upscale_method)


def attention(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """Torch's attention."""
    parts = (one.unflatten(-1, (heads, -1)).transpose(1, 2) for one in (query, key, value))
    return nn.functional.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(-2)


class FakePromptServer:
    """What nodes say things to.

    Attributes:
        texts: What they said, with the node's id.
    """

    instance: ClassVar[Any] = None

    def __init__(self) -> None:
        self.client_id = "test"
        self.texts: list[tuple[str, str]] = []

    def send_progress_text(self, text: str, node_id: str, sid: str | None = None) -> None:
        """Take what a node says."""
        self.texts.append((node_id, text))

    def add_on_prompt_handler(self, handler: object) -> None:
        """Take a handler."""


def form_sockets() -> SimpleNamespace:
    """The kinds of inputs and outputs."""
    kinds = {kind: kind.upper() for kind in ("Conditioning", "Image", "Vae", "Model", "Clip")}
    kinds |= {kind: kind.upper() for kind in ("String", "Float", "Int", "Combo")}
    kinds |= {"ControlNet": "CONTROL_NET", "LossMap": "LOSS_MAP", "DynamicCombo": "COMFY_DYNAMICCOMBO_V3"}

    def custom(io_type: str) -> SimpleNamespace:
        return SimpleNamespace(Input=partial(Socket, io_type), Output=partial(Socket, io_type))

    named = {kind: custom(io_type) for kind, io_type in kinds.items()}
    named["DynamicCombo"].Option = lambda key, inputs: SimpleNamespace(key=key, inputs=inputs)
    hidden = SimpleNamespace(unique_id="unique_id")
    return SimpleNamespace(
        Input=Socket, Schema=Schema, ComfyNode=ComfyNode, NodeOutput=NodeOutput, Custom=custom, Hidden=hidden, **named
    )


def install(folder: Path) -> FakePromptServer:
    """Put the double in the place of ComfyUI's modules; nets are looked for in `folder`."""
    server = FakePromptServer()
    FakePromptServer.instance = server
    cpu = torch.device("cpu")
    folders = [folder]

    def names(kind: str) -> list[str]:
        files = (path for place in folders if place.is_dir() for path in place.iterdir() if path.is_file())
        return sorted(path.name for path in files)

    def find(kind: str, name: str) -> str | None:
        places = (place / Path("/", name).resolve().relative_to("/") for place in folders)
        return next((str(path) for path in places if path.is_file()), None)

    modules: dict[str, Values] = {
        "comfyui_version": {"__version__": "0.33.0"},
        "comfy_api": {},
        "comfy_api.latest": {"ComfyExtension": object, "io": form_sockets(), "ui": Mock()},
        "comfy_execution": {},
        "comfy_execution.graph_utils": {"ExecutionBlocker": ExecutionBlocker},
        "comfy_execution.utils": {"get_executing_context": lambda: SimpleNamespace(node_id="9")},
        "server": {"PromptServer": FakePromptServer},
        "folder_paths": {
            "add_model_folder_path": lambda kind, path: folders.append(Path(path)),
            "get_filename_list": names,
            "get_full_path": find,
            "get_folder_paths": lambda kind: list(map(str, folders)),
            "get_output_directory": lambda: str(folder / "output"),
            "get_input_directory": lambda: str(folder / "input"),
            "folder_names_and_paths": {},
        },
        "comfy": {},
        "comfy.cldm": {},
        "comfy.cldm.cldm": {"ControlNet": type("ControlNet", (), {})},
        "comfy.controlnet": {"ControlBase": ControlBase, "load_controlnet_state_dict": lambda *_, **__: None},
        "comfy.ldm": {},
        "comfy.ldm.modules": {},
        "comfy.ldm.modules.attention": {"optimized_attention": attention},
        "comfy.model_management": {
            "get_torch_device": lambda: cpu,
            "unet_offload_device": lambda: cpu,
            "unet_dtype": lambda **_: torch.float32,
            "unet_manual_cast": lambda dtype, device, supported=None: None,
            "throw_exception_if_processing_interrupted": lambda: None,
        },
        "comfy.model_patcher": {"CoreModelPatcher": Patcher, "ModelPatcher": Patcher},
        "comfy.ops": {"pick_operations": lambda *_, **__: nn},
        "comfy.utils": {
            "common_upscale": common_upscale,
            "load_torch_file": lambda path, safe_load=True: load_file(path),
            "ProgressBar": Mock,
        },
        "comfy.lora": {},
        "comfy.model_detection": {},
        "comfy.model_sampling": {},
        "comfy.sd": {},
        "comfy.sd1_clip": dict.fromkeys(("SDTokenizer", "SD1Tokenizer", "SDClipModel", "SD1ClipModel"), object),
        "comfy.supported_models": {"SD15": object},
        "comfy.supported_models_base": {"ClipTarget": Mock},
        "nodes": {"NODE_CLASS_MAPPINGS": {}},
    }
    for name, content in modules.items():
        module = ModuleType(name)
        module.__dict__.update(content)
        module.__path__ = []
        sys.modules[name] = module
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)
    return server
