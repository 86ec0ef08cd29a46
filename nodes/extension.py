"""What ComfyUI registers."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .apply import ApplyControlNet
from .bridge.folders import register_folders
from .bridge.taken import watch_ids
from .dataset import Dataset
from .load import LoadControlNet
from .shapes import ExampleShapes
from .stack import StackControlNets
from .tiny_base import TinyBase
from .train import TrainControlNet

NODES: list[type[io.ComfyNode]] = [
    LoadControlNet,
    ApplyControlNet,
    StackControlNets,
    TrainControlNet,
    Dataset,
    TinyBase,
    ExampleShapes,
]


class ControlNetCoreExtension(ComfyExtension):
    """The nodes of ControlNet Core and the folders its nets are in."""

    async def on_load(self) -> None:
        """Let every loader list the net that comes with the small base, and trained nets."""
        register_folders()
        watch_ids(NODES)

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """The nodes."""
        return NODES
