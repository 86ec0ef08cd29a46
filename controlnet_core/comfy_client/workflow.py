"""Workflows in ComfyUI's API format: read, checked and changed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ..errors import UNREADABLE, ControlNetCoreError
from .texts import visible

TITLE = 200
"""The characters of a title that are shown."""
EXPORT = "open it in ComfyUI and choose Workflow > Export (API)"


class WorkflowError(ControlNetCoreError):
    """A workflow, or a change to it, that cannot be used."""


@dataclass(frozen=True)
class Workflow:
    """A graph as the server takes it.

    Attributes:
        nodes: For each node id its `class_type`, its `inputs` and perhaps a title under `_meta`.
    """

    nodes: Mapping[str, Mapping[str, Any]]

    def title(self, node_id: str) -> str:
        """A node's label, safe to show: its title and its id."""
        node, shown = self.nodes.get(node_id), visible(node_id, TITLE)
        if node is None:
            return f"node {shown}" if shown else "a node"
        name = node.get("_meta", {}).get("title") or node["class_type"]
        return f"{visible(name, TITLE)} (node {shown})"

    def input_named(self, address: str) -> tuple[str, str]:
        """Find an input by NODE.INPUT, where NODE is an id or a title.

        Raises:
            WorkflowError: If there is none, or several nodes have the title.
        """
        for name, key in _splits(address):
            found = self._nodes_called(name)
            if len(found) > 1:
                ids = ", ".join(f"{node_id}.{key}" for node_id in found)
                raise WorkflowError(f"{len(found)} nodes called {name!r}", "one", f"use an id: {ids}")
            if found and key in self.nodes[found[0]]["inputs"]:
                return found[0], key
        raise self._unknown(address)

    def with_input(self, address: str, value: object) -> Workflow:
        """The workflow with another value of an input.

        Raises:
            WorkflowError: If there is no such input.
        """
        node_id, key = self.input_named(address)
        node = self.nodes[node_id]
        changed = {**node, "inputs": {**node["inputs"], key: value}}
        return Workflow({**self.nodes, node_id: changed})

    def with_text(self, address: str, text: str) -> Workflow:
        """The workflow with a value given as text: JSON, or the text itself for a text input.

        Raises:
            WorkflowError: If there is no such input, or its value has another type.
        """
        node_id, key = self.input_named(address)
        return self.with_input(address, _typed(text, self.nodes[node_id]["inputs"][key], address))

    def _nodes_called(self, name: str) -> list[str]:
        """The ids of the nodes with that id or title."""
        if name in self.nodes:
            return [name]
        return [node_id for node_id, node in self.nodes.items() if node.get("_meta", {}).get("title") == name]

    def _unknown(self, address: str) -> WorkflowError:
        """The error for an unknown input, with the nearest known ones."""
        inputs = [f"{node_id}.{key}" for node_id, node in self.nodes.items() for key in node["inputs"]]
        for name, _ in _splits(address):
            for node_id in self._nodes_called(name):
                inputs = [f"{name}.{key}" for key in self.nodes[node_id]["inputs"]]
        titled = [
            f"{node['_meta']['title']}.{key}"
            for node in self.nodes.values()
            if node.get("_meta", {}).get("title")
            for key in node["inputs"]
        ]
        near = get_close_matches(address, [*inputs, *titled], n=3, cutoff=0.4) or inputs[:5]
        return WorkflowError(
            found=f"no input {address!r}",
            expected="NODE.INPUT, with a node's id or title",
            do=f"use for example {', '.join(near)}",
        )


def read_workflow(path: Path) -> Workflow:
    """Read a workflow in the API format.

    Raises:
        WorkflowError: If there is no such file, it is not JSON, or it is another kind of JSON.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise WorkflowError(f"{path}, which cannot be read ({error.strerror})", "a file", "check the path") from error
    except UNREADABLE as error:
        raise WorkflowError(f"{path}, which is not JSON ({error})", "a workflow in the API format", EXPORT) from error
    if isinstance(content, dict) and isinstance(content.get("nodes"), list):
        raise WorkflowError(f"{path}, a workflow as the editor saves it", "one in the API format", EXPORT)
    if isinstance(content, dict) and isinstance(content.get("prompt"), dict):
        content = content["prompt"]
    nodes = content if isinstance(content, dict) else {}
    if not nodes or not all(map(_is_node, nodes.values())):
        raise WorkflowError(f"{path}, which is not a workflow", "a workflow in the API format", EXPORT)
    return Workflow({node_id: {"inputs": {}, **node} for node_id, node in nodes.items()})


def _is_node(value: object) -> bool:
    """Whether a value has what is read of a node, each of its type."""
    if not isinstance(value, dict) or not isinstance(value.get("class_type"), str):
        return False
    inputs, label = value.get("inputs", {}), value.get("_meta", {})
    return isinstance(inputs, dict) and isinstance(label, dict) and isinstance(label.get("title", ""), str | None)


def _splits(address: str) -> Iterator[tuple[str, str]]:
    """Every way to read NODE.INPUT, as both parts may contain dots."""
    parts = address.split(".")
    for count in range(1, len(parts)):
        yield ".".join(parts[:count]), ".".join(parts[count:])


def _typed(text: str, before: object, address: str) -> object:
    """Read a value as the type that it replaces."""
    if isinstance(before, str):
        return text
    try:
        value = json.loads(text)
    except UNREADABLE:
        value = text
    numbers = (int, float)
    fits = (
        isinstance(before, list)
        or type(value) is type(before)
        or (type(value) in numbers and type(before) in numbers)
    )
    if fits:
        return value
    raise WorkflowError(
        found=f"{address}={text}", expected=f"a value like {json.dumps(before)}", do="give one of the same type"
    )
