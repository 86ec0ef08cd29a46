"""The node that gives the small base."""

from __future__ import annotations

from comfy_api.latest import io

from .bridge.host.messages import explains_errors
from .bridge.loading.small_base import load_tiny_base


class TinyBase(io.ComfyNode):
    """Loads the small base that comes with this extension."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The form."""
        return io.Schema(
            node_id="ControlNetCoreTinyBase",
            display_name="Load Small Base (ControlNet Core)",
            category="model/loaders",
            description="Loads the small base that comes with this extension: a complete latent diffusion model that "
            "draws coloured shapes of 64x64 pixels in seconds on a CPU. For learning, trying and testing.",
            search_aliases=["controlnet tiny", "small base", "tiny base", "test checkpoint"],
            inputs=[],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The UNet, for any sampler."),
                io.Clip.Output(
                    display_name="clip",
                    tooltip="The text encoder, for prompts such as: a red circle on a blue background.",
                ),
                io.Vae.Output(display_name="vae", tooltip="The autoencoder: 8 x 8 pixels become one latent."),
            ],
        )

    @classmethod
    @explains_errors
    def execute(cls) -> io.NodeOutput:
        """Load the base."""
        return io.NodeOutput(*load_tiny_base())
