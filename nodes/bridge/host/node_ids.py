"""Node ids that another extension uses too: ComfyUI keeps the node that was loaded last, without a warning."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from typing import Any

from comfy_api.latest import io
from server import PromptServer

Submission = dict[str, Any]


def watch_ids(nodes: Sequence[type[io.ComfyNode]]) -> None:
    """Warn of ids that are taken now and, when the first graph is queued, of those that a later extension took."""
    _warn({name: other for name, other in _registered(nodes).items() if other is not None})
    server = getattr(PromptServer, "instance", None)
    if server is not None:
        server.add_on_prompt_handler(_watcher(nodes))


def _watcher(nodes: Sequence[type[io.ComfyNode]]) -> Callable[[Submission], Submission]:
    """A handler that ComfyUI calls with every queued graph; it checks the ids at the first."""
    checked = False

    def check(submission: Submission) -> Submission:
        nonlocal checked
        if not checked:
            checked = True
            _warn({name: other for name, other in _registered(nodes).items() if other not in nodes})
        return submission

    return check


def _registered(nodes: Sequence[type[io.ComfyNode]]) -> dict[str, Any]:
    """What ComfyUI has registered under each node's id, or None."""
    registered = sys.modules["nodes"].NODE_CLASS_MAPPINGS  # ComfyUI's own module, not this package
    names = [node.define_schema().node_id for node in nodes]
    return {name: registered.get(name) for name in names}


def _warn(others: dict[str, Any]) -> None:
    """Log which other extension uses an id."""
    for name, other in others.items():
        logging.warning(
            "ControlNet Core: the node id %s is also used by %s, and the one that is loaded last wins; "
            "disable one of the two extensions.",
            name,
            getattr(other, "RELATIVE_PYTHON_MODULE", "ComfyUI"),
        )
