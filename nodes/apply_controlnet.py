"""The node that applies a net."""

from __future__ import annotations

from comfy_api.latest import io
from torch import Tensor

from ..controlnet_core.control.step import GuidanceSide
from .application_form import OWN_SIDE, application_inputs, read_application
from .bridge.control.apply import apply_stack, configured
from .bridge.host.messages import explains_errors
from .bridge.host.types import Conditioning, HostControlNet, HostVae


class ApplyControlNet(io.ComfyNode):
    """Lets a ControlNet steer what a prompt draws."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The form."""
        return io.Schema(
            node_id="ApplyControlNet",
            display_name="Apply ControlNet (Core)",
            category="model/conditioning/controlnet",
            description="Steers the picture with a ControlNet and a hint image. Choose when the net acts, on which "
            "blocks and on which side of guidance. Chain several: their effects add up.",
            search_aliases=["controlnet", "apply controlnet", "use controlnet", "control net", "guess mode"],
            inputs=[
                io.Conditioning.Input("positive", tooltip="What to draw."),
                io.Conditioning.Input("negative", tooltip="What not to draw."),
                io.ControlNet.Input("control_net", tooltip="A net from any loader."),
                io.Image.Input(
                    "image",
                    tooltip="The hint, of the kind the net was trained on: edges, a pose, depth. It is cropped to the "
                    "picture's aspect. One for the whole batch, or one for each picture.",
                ),
                *application_inputs(),
                io.Vae.Input("vae", optional=True, tooltip="Only for nets that read latents, such as SD3 or Flux."),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive", tooltip="The positive conditioning with the net."),
                io.Conditioning.Output(display_name="negative", tooltip="The negative conditioning with the net."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @explains_errors
    def execute(
        cls,
        positive: Conditioning,
        negative: Conditioning,
        control_net: HostControlNet,
        image: Tensor,
        strength: float,
        start_percent: float,
        end_percent: float,
        curve: str = "flat",
        side: str = OWN_SIDE,
        block_weights: str = "",
        vae: HostVae = None,
    ) -> io.NodeOutput:
        """Apply the net."""
        application = read_application(strength, start_percent, end_percent, curve, side, block_weights)
        net = configured(control_net, application, cls.hidden.unique_id)
        stack = [(net, image, strength, start_percent, end_percent)]
        given: dict[GuidanceSide, Conditioning] = {"conditional": positive, "unconditional": negative}
        applied = apply_stack(given, stack, vae, cls.hidden.unique_id)
        return io.NodeOutput(*(applied[side] for side in given))
