"""Node ids that another extension takes as well: ComfyUI keeps the one that was loaded last and says nothing."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from typing import Any

from comfy_api.latest import io
from server import PromptServer

Submission = dict[str, Any]


def watch_ids(nodes: Sequence[type[io.ComfyNode]]) -> None:
    """Warn of ids that are taken now, and of those that a later extension took when the first graph is queued."""
    _warn({name: other for name, other in _registered(nodes).items() if other is not None})
    server = getattr(PromptServer, "instance", None)
    if server is not None:
        server.add_on_prompt_handler(_watcher(nodes))


def _watcher(nodes: Sequence[type[io.ComfyNode]]) -> Callable[[Submission], Submission]:
    """What is called with every graph that is queued, and looks at the first."""
    looked = False

    def look(submission: Submission) -> Submission:
        nonlocal looked
        if not looked:
            looked = True
            _warn({name: other for name, other in _registered(nodes).items() if other not in nodes})
        return submission

    return look


def _registered(nodes: Sequence[type[io.ComfyNode]]) -> dict[str, Any]:
    """What ComfyUI has under the nodes' ids, or None."""
    registered = sys.modules["nodes"].NODE_CLASS_MAPPINGS  # ComfyUI's own module, not this package
    names = [node.define_schema().node_id for node in nodes]
    return {name: registered.get(name) for name in names}


def _warn(others: dict[str, Any]) -> None:
    """Say which extension has an id, too."""
    for name, other in others.items():
        logging.warning(
            "ControlNet Core: the node id %s is also used by %s, and the one that is loaded last wins; "
            "disable one of the two extensions.",
            name,
            getattr(other, "RELATIVE_PYTHON_MODULE", "ComfyUI"),
        )
