"""Messages that a node shows, and errors that are read where they happen."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

from comfy_api.latest import io
from comfy_execution.utils import get_executing_context
from server import PromptServer

from ....controlnet_core.errors import ControlNetCoreError

Execute = Callable[..., io.NodeOutput]


class NodeError(Exception):
    """An error of ours as ComfyUI's error panel shows it.

    The panel puts the class in front of the message, with its module, which for an extension begins with a path.
    """


NodeError.__module__ = "builtins"  # the one module that the panel leaves out
NodeError.__qualname__ = "ControlNet Core"


@contextmanager
def explained(node_id: str | None) -> Iterator[None]:
    """Show an error of ours on a node, what to do first, before ComfyUI reports it.

    Arguments:
        node_id: The node; None is the one that runs.

    Raises:
        NodeError: In place of the error, which is its cause.
    """
    try:
        yield
    except ControlNetCoreError as error:
        show(f"✖ {error.headline}\n\n{error.details}", node_id)
        raise NodeError(str(error)) from error


def explains_errors(execute: Execute) -> Execute:
    """Decorate a node's `execute`, below `classmethod`, so that its errors are `explained` on the node."""

    @wraps(execute)
    def explaining(cls: type[io.ComfyNode], *inputs: Any, **named: Any) -> io.NodeOutput:  # noqa: ANN401 - any inputs
        with explained(getattr(cls.hidden, "unique_id", None)):
            return execute(cls, *inputs, **named)

    return explaining


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
