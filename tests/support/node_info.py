"""What a ComfyUI server says of its nodes at /object_info, from our forms over the double of ComfyUI.

    python -m tests.support.node_info

prints it, for a comparison with what ComfyUI itself says.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.support.extension import Extension, over_the_double
from tools.make_workflows import MODELS

NATIVE = Path(__file__).with_name("native_nodes.json")
"""ComfyUI's own nodes that the saved workflows use: their sockets and widgets, and files of the names they ask for."""
PACK = "controlnet-core"
NETS = [name for name, (_, folder) in MODELS.items() if folder == "controlnet"]
DATASET = "fill50k"
UNSAID = {"STRING": {"multiline": False}, "COMBO": {"multiselect": False}}
"""What ComfyUI says of a widget whose form does not."""
CHOICE = "COMFY_DYNAMICCOMBO_V3"

Info = dict[str, Any]


def server_nodes(extension: Extension) -> dict[str, Info]:
    """What a server with the models of the saved workflows says of its nodes, ours and ComfyUI's own, by name."""
    nets = [extension.folder / name for name in NETS]
    (extension.folder / "input" / DATASET).mkdir(parents=True)
    for net in nets:
        net.touch()
    forms = [node.GET_SCHEMA() for node in extension.nodes.values()]
    for net in nets:
        net.unlink()
    return {**{form.node_id: node_info(form) for form in forms}, **native_info()}


def node_info(form: Any) -> Info:  # noqa: ANN401 - the double's `Schema`
    """What the server says of the node with this form."""
    return {
        "name": form.node_id,
        "display_name": form.display_name,
        "category": form.category,
        "description": form.description,
        "search_aliases": form.search_aliases,
        "python_module": f"custom_nodes.{PACK}",
        "input": _inputs(form.inputs),
        "output": [one.io_type for one in form.outputs],
        "output_name": [one.display_name for one in form.outputs],
        "output_tooltips": [one.tooltip for one in form.outputs],
        "output_is_list": [False] * len(form.outputs),
        "output_node": form.is_output_node,
    }


def native_info() -> dict[str, Info]:
    """What the server says of ComfyUI's own nodes, by name."""
    said: dict[str, Info] = {}
    for name, info in json.loads(NATIVE.read_text(encoding="utf-8")).items():
        unsaid = {"description": "", "output_node": False, "python_module": "nodes", "output_name": info["output"]}
        said[name] = {"name": name, "output_is_list": [False] * len(info["output"]), **unsaid, **info}
    return said


def _inputs(sockets: Iterable[Any]) -> dict[str, dict[str, Any]]:
    """Inputs by name, the required and the optional ones apart."""
    said: dict[str, dict[str, Any]] = {"required": {}}
    for one in sockets:
        options = {**UNSAID.get(one.io_type, {}), **one.options}
        if one.io_type == CHOICE:
            options["options"] = [{"key": way.key, "inputs": _inputs(way.inputs)} for way in options["options"]]
        said.setdefault("optional" if one.optional else "required", {})[one.id] = [one.io_type, options]
    return said


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        print(json.dumps(server_nodes(over_the_double(Path(place)))))
