"""The node that draws example hints for the small base."""

from __future__ import annotations

from comfy_api.latest import io

from ..controlnet_core.toy.shapes_dataset import HINTS, ShapesDataset
from .bridge.host.images import host_images
from .bridge.host.messages import explains_errors

SIZE = 64
"""Side of the small base's pictures in pixels."""


class ExampleShapes(io.ComfyNode):
    """Draws shapes with their hints and captions, for a first try without any file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The form."""
        return io.Schema(
            node_id="ControlNetCoreShapes",
            display_name="Example Shapes (ControlNet Core)",
            category="image",
            description="Draws coloured shapes with hints and captions, of the kind that the small base and its "
            "ControlNets were trained on; these were held out.",
            search_aliases=["controlnet example", "test hint", "shapes"],
            inputs=[
                io.Int.Input("seed", default=0, min=0, max=2**32 - 1, tooltip="The same seed gives the same shapes."),
                io.Int.Input("count", default=1, min=1, max=64, tooltip="How many to draw."),
                io.Combo.Input(
                    "hint", options=list(HINTS), default="outline", tooltip="Outlines, or a map of the colours."
                ),
            ],
            outputs=[
                io.Image.Output(display_name="hints", tooltip="For Apply ControlNet."),
                io.Image.Output(display_name="pictures", tooltip="The pictures that the hints were made from."),
                io.String.Output(display_name="caption", tooltip="The caption of the first picture."),
            ],
        )

    @classmethod
    @explains_errors
    def execute(cls, seed: int, count: int, hint: str) -> io.NodeOutput:
        """Draw."""
        dataset = ShapesDataset(count, SIZE, seed, held_out=True, hint=hint)
        pairs = [dataset[index] for index in range(count)]
        hints, pictures = ([getattr(pair, name) for pair in pairs] for name in ("hint", "image"))
        return io.NodeOutput(host_images(hints), host_images(pictures), pairs[0].caption)
