"""Runs graphs through ComfyUI's own executor and hands out what went through their sockets."""

from __future__ import annotations

import asyncio
import copy
import importlib
import importlib.util
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import Mock

import comfy.model_base
import execution
import folder_paths
import server
import torch
from torch import Tensor

from tests.host.extra_nodes import CAPTURED, TEST_NODES

nodes = importlib.import_module("nodes")  # ComfyUI's, not this repository's
ROOT = Path(__file__).resolve().parents[2]
ALIAS = "controlnet_extension"
Graph = dict[str, dict[str, Any]]
CACHE = {"lru": 60, "ram": 0.0, "ram_inactive": 0.0}
"""Loaders run once for many graphs, as in a session at the editor."""


class GraphError(Exception):
    """What ComfyUI said when a graph failed.

    Attributes:
        messages: The message of each failing node, or of each input that was refused.
    """

    def __init__(self, messages: list[str]) -> None:
        super().__init__("\n".join(messages))
        self.messages = messages


class FakeServer:
    """What the executor sends its events to.

    Attributes:
        texts: What nodes said, with the node's id.
        errors: What it said of nodes that failed or were blocked.
    """

    def __init__(self) -> None:
        self.client_id: str | None = "test"
        self.last_node_id: str | None = None
        self.texts: list[tuple[str, str]] = []
        self.errors: list[str] = []
        self.node_replace_manager = Mock()  # ComfyUI registers its replacements here
        self.on_prompt_handlers: list[Callable[[dict[str, Any]], dict[str, Any]]] = []

    def send_sync(self, event: object, data: Mapping[str, Any], sid: object = None) -> None:
        """Take an event."""
        if event == "execution_error":
            self.errors.append(data["exception_message"].strip())

    def add_on_prompt_handler(self, handler: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        """Take what is to be called with every graph."""
        self.on_prompt_handlers.append(handler)

    def send_progress_text(self, text: str, node_id: str, sid: object = None) -> None:
        """Take what a node says."""
        self.texts.append((node_id, text))


class Host:
    """ComfyUI with this extension and a few nodes for tests.

    Arguments:
        folder: Where it may write.
        models: A folder with its models.

    Attributes:
        extension: This extension, as ComfyUI imports it.
        server: What nodes say things to.
        executor: ComfyUI's executor.
    """

    def __init__(self, folder: Path, models: Path) -> None:
        for kind in ("controlnet", "diffusion_models"):
            folder_paths.add_model_folder_path(kind, str(models / kind), is_default=True)
        folder_paths.set_output_directory(str(folder / "output"))
        folder_paths.set_temp_directory(str(folder / "temp"))
        folder_paths.set_input_directory(str(folder / "input"))
        (folder / "input").mkdir()
        self.server = FakeServer()
        server.PromptServer.instance = self.server
        asyncio.run(nodes.init_builtin_extra_nodes())
        self.executor = execution.PromptExecutor(self.server, execution.CacheType.LRU, CACHE)
        self.extension = load_extension()
        nodes.NODE_CLASS_MAPPINGS.update(TEST_NODES)

    @property
    def nodes(self) -> dict[str, Any]:
        """ComfyUI's nodes by id."""
        registered: dict[str, Any] = nodes.NODE_CLASS_MAPPINGS
        return registered

    def bridge(self, module: str) -> ModuleType:
        """A module of the bridge."""
        return sys.modules[f"{ALIAS}.nodes.bridge.{module}"]

    def core(self, module: str) -> ModuleType:
        """A module of the core, as this extension imports it."""
        return importlib.import_module(f"{ALIAS}.controlnet_core.{module}")

    def run(self, graph: Graph) -> dict[str, Any]:
        """Validate and run a graph; gives what its `Capture` nodes were given, by name.

        Raises:
            GraphError: If ComfyUI refuses it, or a node fails.
        """
        CAPTURED.clear()
        self.server.texts.clear()
        self.server.errors.clear()
        graph = copy.deepcopy(graph)  # ComfyUI writes into it
        prompt_id = str(uuid.uuid4())
        valid, error, outputs, node_errors = asyncio.run(execution.validate_prompt(prompt_id, graph, None))
        if node_errors or not valid:
            details = [one["details"] for node in node_errors.values() for one in node["errors"]]
            raise GraphError(details or [error["message"]])
        executor = self.executor
        executor.execute(graph, prompt_id, {"client_id": "test"}, outputs)
        if self.server.errors:
            raise GraphError(self.server.errors)
        return dict(CAPTURED)


def load_extension() -> ModuleType:
    """Import the repository as ComfyUI does, but under a name that tests can use, and register its nodes."""
    path = ROOT / "__init__.py"
    spec = importlib.util.spec_from_file_location(ALIAS, path, submodule_search_locations=[str(ROOT)])
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[ALIAS] = module
    spec.loader.exec_module(module)

    async def register() -> None:
        extension = await module.comfy_entrypoint()
        await extension.on_load()
        for node in await extension.get_node_list():
            nodes.NODE_CLASS_MAPPINGS[node.GET_SCHEMA().node_id] = node

    asyncio.run(register())
    return module


@dataclass(frozen=True)
class Forward:
    """What ComfyUI's UNet is given.

    Attributes:
        control: Residuals, in ComfyUI's form; empty if there are none.
        sides: For each part of the batch, 0 if it is the positive side.
        context: The text embeddings, shape (N, L, width).
        y: The vector condition, shape (N, width), or None.
    """

    control: Mapping[str, list[Tensor | None]]
    sides: list[int]
    context: Tensor
    y: Tensor | None

    @property
    def residuals(self) -> list[Tensor]:
        """All residuals that are there, those of the skips first."""
        return [one for place in ("output", "middle") for one in self.control.get(place, ()) if one is not None]


@contextmanager
def recorded_forwards() -> Iterator[list[Forward]]:
    """Record what ComfyUI's UNet is given."""
    recorded: list[Forward] = []
    original = comfy.model_base.BaseModel.apply_model

    def recording(self: object, *arguments: object, **named: Any) -> Tensor:  # noqa: ANN401 - as ComfyUI calls it
        control = named.get("control") or {}
        copied = {place: [clone(one) for one in items] for place, items in control.items()}
        sides = named["transformer_options"]["cond_or_uncond"]
        recorded.append(Forward(copied, list(sides), named["c_crossattn"].clone(), clone(named.get("y"))))
        output: Tensor = original(self, *arguments, **named)
        return output

    def clone(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor.clone()

    comfy.model_base.BaseModel.apply_model = recording
    try:
        yield recorded
    finally:
        comfy.model_base.BaseModel.apply_model = original


def largest_difference(one: Tensor, other: Tensor) -> float:
    """The largest absolute difference, as a fraction of the other's largest value."""
    assert one.shape == other.shape, f"{tuple(one.shape)} is not {tuple(other.shape)}"
    assert torch.isfinite(one).all() and torch.isfinite(other).all()
    return ((one - other).abs().max() / other.abs().max()).item()
