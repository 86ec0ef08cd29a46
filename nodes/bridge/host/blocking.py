"""Outputs that have no value."""

from __future__ import annotations

from comfy_api.latest import io
from comfy_execution.graph_utils import ExecutionBlocker


def blocked(node: type[io.ComfyNode], name: str) -> ExecutionBlocker:
    """An output whose input is not connected: only the nodes that use it fail, with this message."""
    return ExecutionBlocker(f"{node.define_schema().display_name}: connect {name} to use its output {name}.")
