"""The node that stacks nets."""

from __future__ import annotations

from comfy_api.latest import io
from torch import Tensor

from ..controlnet_core.control.step import GuidanceSide
from .application_form import OWN_SIDE, ControlNetStack, application_inputs, read_application
from .bridge.control.apply import apply_stack, configured
from .bridge.control.stack_entries import SharedStack, read_stack
from .bridge.host.blocking import blocked
from .bridge.host.messages import explains_errors
from .bridge.host.types import Conditioning, HostControlNet, HostStack, HostVae


class StackControlNets(io.ComfyNode):
    """Puts a ControlNet on a stack, and the whole stack on the prompts."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The form."""
        return io.Schema(
            node_id="StackControlNets",
            display_name="Stack ControlNets (Core)",
            category="model/conditioning/controlnet",
            description="Adds a ControlNet with its hint to a stack. Chain several; connect positive and negative to "
            "the last one to apply them all. Their effects add up, without further weights. Other extensions read and "
            "write the same CONTROL_NET_STACK.",
            search_aliases=["controlnet stack", "multi controlnet", "stack controlnet", "controlnet stacker"],
            inputs=[
                io.ControlNet.Input("control_net", tooltip="A net from any loader."),
                io.Image.Input("image", tooltip="Its hint: one for the whole batch, or one for each picture."),
                *application_inputs(),
                ControlNetStack.Input("stack", optional=True, tooltip="The stack to add this net to."),
                io.Conditioning.Input("positive", optional=True, tooltip="What to draw."),
                io.Conditioning.Input("negative", optional=True, tooltip="What not to draw."),
                io.Vae.Input("vae", optional=True, tooltip="Only for nets that read latents, such as SD3 or Flux."),
            ],
            outputs=[
                ControlNetStack.Output(display_name="stack", tooltip="The stack with this net added."),
                io.Conditioning.Output(display_name="positive", tooltip="Positive with all nets of the stack."),
                io.Conditioning.Output(display_name="negative", tooltip="Negative with all nets of the stack."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @explains_errors
    def execute(
        cls,
        control_net: HostControlNet,
        image: Tensor,
        strength: float,
        start_percent: float,
        end_percent: float,
        curve: str = "flat",
        side: str = OWN_SIDE,
        block_weights: str = "",
        stack: HostStack = None,
        positive: Conditioning | None = None,
        negative: Conditioning | None = None,
        vae: HostVae = None,
    ) -> io.NodeOutput:
        """Add the net to the stack, and apply the stack to the connected conditionings."""
        application = read_application(strength, start_percent, end_percent, curve, side, block_weights)
        net = configured(control_net, application, cls.hidden.unique_id)
        longer = SharedStack([*read_stack(stack), (net, image, strength, start_percent, end_percent)])
        given: dict[GuidanceSide, Conditioning | None] = {"conditional": positive, "unconditional": negative}
        connected = {side: conditioning for side, conditioning in given.items() if conditioning is not None}
        applied = apply_stack(connected, longer, vae, cls.hidden.unique_id)
        names = ("positive", "negative")
        outputs = (applied.get(side) or blocked(cls, name) for side, name in zip(given, names, strict=True))
        return io.NodeOutput(longer, *outputs)
