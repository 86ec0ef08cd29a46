"""What ComfyUI registers."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .apply_controlnet import ApplyControlNet
from .bridge.host.folders import register_folders
from .bridge.host.node_ids import watch_ids
from .controlnet_dataset import Dataset
from .example_shapes import ExampleShapes
from .load_controlnet import LoadControlNet
from .load_small_base import TinyBase
from .stack_controlnets import StackControlNets
from .train_controlnet import TrainControlNet

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
        """Let every loader list the nets that come with the small base, and trained nets."""
        register_folders()
        watch_ids(NODES)

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """The nodes."""
        return NODES
