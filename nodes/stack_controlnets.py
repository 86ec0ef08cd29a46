"""The node that stacks nets."""

from __future__ import annotations

from comfy_api.latest import io
from torch import Tensor

from .application_form import OWN_SIDE, ControlNetStack, application_inputs, read_application
from .bridge.control.apply import apply_stack, configured, read_stack
from .bridge.host.blocking import blocked
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
            "the last one to apply them all. What the nets add is summed without further weights. The stack is the "
            "CONTROL_NET_STACK that other extensions exchange.",
            search_aliases=["controlnet stack", "multi controlnet", "stack controlnet", "controlnet stacker"],
            inputs=[
                io.ControlNet.Input("control_net", tooltip="A net from any loader."),
                io.Image.Input("image", tooltip="Its hint: one for all pictures of a batch, or one for each."),
                *application_inputs(),
                ControlNetStack.Input("stack", optional=True, tooltip="The nets that come before this one."),
                io.Conditioning.Input("positive", optional=True, tooltip="What to draw."),
                io.Conditioning.Input("negative", optional=True, tooltip="What not to draw."),
                io.Vae.Input("vae", optional=True, tooltip="Only for nets that read latents, as SD3 and Flux ones do."),
            ],
            outputs=[
                ControlNetStack.Output(display_name="stack", tooltip="The nets before this one, and this one."),
                io.Conditioning.Output(display_name="positive", tooltip="Positive with all nets of the stack."),
                io.Conditioning.Output(display_name="negative", tooltip="Negative with all nets of the stack."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
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
        """Make the longer stack and apply it to the conditionings there are."""
        application = read_application(strength, start_percent, end_percent, curve, side, block_weights)
        net = configured(control_net, application, cls.hidden.unique_id)
        longer = [*read_stack(stack), (net, image, strength, start_percent, end_percent)]
        given = {"positive": positive, "negative": negative}
        there = {name: conditioning for name, conditioning in given.items() if conditioning is not None}
        conditionings = apply_stack(list(there.values()), longer, vae, cls.hidden.unique_id)
        applied = dict(zip(there, conditionings, strict=True))
        return io.NodeOutput(longer, *(applied.get(name) or blocked(cls, name) for name in given))
