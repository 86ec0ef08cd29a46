"""Messages that a node shows."""

from __future__ import annotations

import logging

from comfy_execution.utils import get_executing_context
from server import PromptServer


def show(text: str, node_id: str | None) -> None:
    """Show a text on a node to whoever queued the graph; without a node id, on the node that runs."""
    server = getattr(PromptServer, "instance", None)
    if node_id is None:
        context = get_executing_context()
        node_id = None if context is None else context.node_id
    if server is not None and node_id is not None:
        server.send_progress_text(text, node_id, server.client_id)


def warn(text: str, node_id: str | None) -> None:
    """Show a warning on a node and write it into the log."""
    logging.warning("ControlNet Core: %s", text)
    show(f"⚠ {text}", node_id)
