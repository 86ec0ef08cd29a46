"""Node ids that another extension has taken: ComfyUI keeps the one that was loaded last and says nothing."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence

from comfy_api.latest import io


def warn_of_taken_ids(nodes: Sequence[type[io.ComfyNode]]) -> None:
    """Warn of the ids that another extension registered before this one, whose nodes replace them."""
    registered = sys.modules["nodes"].NODE_CLASS_MAPPINGS  # ComfyUI's own module, not this package
    for node in nodes:
        name = node.define_schema().node_id
        other = registered.get(name)
        if other is not None:
            logging.warning(
                "ControlNet Core: the node id %s is also used by %s, and the one that is loaded last wins; "
                "disable one of the two extensions.",
                name,
                getattr(other, "RELATIVE_PYTHON_MODULE", "ComfyUI"),
            )
