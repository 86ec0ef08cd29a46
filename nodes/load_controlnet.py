"""The node that loads a net."""

from __future__ import annotations

from comfy_api.latest import io

from .bridge.host.folders import controlnet_names
from .bridge.host.messages import explains_errors, show
from .bridge.host.types import HostModel
from .bridge.loading.net_file import file_stamp, load_control_net

AVERAGED = {"automatic": None, "yes": True, "no": False}


class LoadControlNet(io.ComfyNode):
    """Loads a ControlNet of any common file layout."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The form."""
        return io.Schema(
            node_id="LoadControlNet",
            display_name="Load ControlNet (Core)",
            category="model/loaders",
            description="Loads a ControlNet. The released and the diffusers layout of SD1.5, SD2.1 and SDXL are "
            "checked tensor by tensor; ComfyUI's own loader reads every other kind. The report says which it was.",
            search_aliases=["controlnet", "control net", "cn", "load controlnet", "controlnet loader"],
            inputs=[
                io.Combo.Input(
                    "control_net_name",
                    options=controlnet_names(),
                    tooltip="A file in models/controlnet, a net trained here, or the one that comes with the small "
                    "base. Press R after adding files.",
                ),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="Only for a difference ControlNet, which holds what to add to the model it was made for: "
                    "that model.",
                ),
                io.Combo.Input(
                    "average_residuals",
                    options=list(AVERAGED),
                    default=next(iter(AVERAGED)),
                    optional=True,
                    advanced=True,
                    tooltip="Whether residuals are averaged over the picture and act on the positive side, as shuffle "
                    "nets want. Automatic goes by the config.json beside the file, or by shuffle in its name.",
                ),
            ],
            outputs=[
                io.ControlNet.Output(
                    display_name="control_net", tooltip="For Apply ControlNet, this extension's or the native one."
                ),
                io.String.Output(
                    display_name="report", tooltip="Which loader read the file, its family, layout, size and dtype."
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(
        cls, control_net_name: str, model: HostModel = None, average_residuals: str = "automatic"
    ) -> str:
        """A value that changes when the file changes."""
        return file_stamp(control_net_name)

    @classmethod
    @explains_errors
    def execute(
        cls, control_net_name: str, model: HostModel = None, average_residuals: str = "automatic"
    ) -> io.NodeOutput:
        """Load the net."""
        loaded = load_control_net(control_net_name, model, AVERAGED[average_residuals])
        show(loaded.report, cls.hidden.unique_id)
        return io.NodeOutput(loaded.control_net, loaded.report)
