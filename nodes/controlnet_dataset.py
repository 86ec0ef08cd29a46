"""The node that gives pairs to train on."""

from __future__ import annotations

from typing import Any, get_args

from comfy_api.latest import io, ui

from ..controlnet_core.data.hints import MadeHint
from ..controlnet_core.toy.shapes_dataset import HINTS
from .application_form import ControlNetDataset
from .bridge.host.folders import dataset_names
from .bridge.host.messages import explains_errors
from .bridge.training.datasets import folder_data, folder_stamp, picture_data, shapes_data

SIZE_TOOLTIP = "Side of the pictures in pixels; 0 is the base's own: 512 for SD1.5, 1024 for SDXL. Pictures are \
resized, and their middle square is cut out."


class Dataset(io.ComfyNode):
    """Gives pictures, hints and captions to train on, with a report of what is wrong with them."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The form."""
        return io.Schema(
            node_id="ControlNetCoreDataset",
            display_name="ControlNet Dataset",
            category="model/training",
            description="Pairs for Train ControlNet: from a folder, from images of the graph, or example shapes. "
            "All files are checked before training; the report lists what is unpaired or broken.",
            search_aliases=["controlnet dataset", "training data", "pairs", "load training images"],
            inputs=[
                io.DynamicCombo.Input(
                    "source",
                    options=[
                        io.DynamicCombo.Option("folder", _folder_inputs()),
                        io.DynamicCombo.Option("images", _image_inputs()),
                        io.DynamicCombo.Option("shapes", _shapes_inputs()),
                    ],
                    tooltip="folder: pictures on disk. images: pictures from the graph. shapes: example pairs for the "
                    "small base, drawn as needed.",
                ),
            ],
            outputs=[
                ControlNetDataset.Output(display_name="dataset", tooltip="For Train ControlNet."),
                io.Image.Output(display_name="preview", tooltip="Some of the pairs: picture, hint and caption."),
                io.String.Output(display_name="report", tooltip="How many pairs there are, with any warnings."),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
            is_input_list=True,
        )

    @classmethod
    def fingerprint_inputs(cls, source: dict[str, list[Any]]) -> str:
        """A value that changes when a file of the folder changes."""
        return folder_stamp(source["folder"][0]) if source["source"][0] == "folder" else ""

    @classmethod
    @explains_errors
    def execute(cls, source: dict[str, list[Any]]) -> io.NodeOutput:
        """Check the pairs and show some."""
        chosen = {name: values for name, values in source.items() if name != "source"}
        kind = {"folder": folder_data, "images": picture_data, "shapes": shapes_data}[source["source"][0]]
        data, preview, report = kind(chosen, cls.hidden.unique_id)
        return io.NodeOutput(data, preview, report, ui=ui.PreviewImage(preview, cls=cls))


def _folder_inputs() -> list[Any]:
    return [
        io.Combo.Input(
            "folder",
            options=dataset_names(),
            tooltip="A folder in ComfyUI's `input` or `datasets`, with images/NAME.png, hints/NAME.png and "
            "captions/NAME.txt, or a prompt.json as in fill50k, or a metadata.jsonl. Press R after adding one.",
        ),
        _hint_input("files", "files: read from the folder."),
        io.Int.Input("size", default=0, min=0, max=4096, step=8, tooltip=SIZE_TOOLTIP),
    ]


def _image_inputs() -> list[Any]:
    return [
        io.Image.Input("images", tooltip="Pictures in the size that the base draws: a batch, or a list."),
        io.Image.Input("hints", optional=True, tooltip="The hint of each picture, if hint is images."),
        io.String.Input(
            "captions",
            multiline=True,
            default="",
            tooltip="One line for each picture, or one for all; or a list with a text for each picture.",
        ),
        _hint_input("images", "images: those connected to hints."),
    ]


def _shapes_inputs() -> list[Any]:
    return [
        io.Int.Input("count", default=2000, min=1, max=1_000_000, tooltip="How many pairs."),
        io.Int.Input("seed", default=0, min=0, max=2**32 - 1, tooltip="The same seed gives the same shapes."),
        io.Combo.Input("hint", options=list(HINTS), default="outline", tooltip="Outlines, or a map of the colours."),
    ]


def _hint_input(given: str, meaning: str) -> io.Input:
    """Where hints come from: given, as `meaning` explains, or made from the pictures."""
    return io.Combo.Input(
        "hint",
        options=[given, *get_args(MadeHint)],
        default=given,
        tooltip=f"{meaning} canny, blur, grey: made from the pictures, which then need no hints.",
    )
