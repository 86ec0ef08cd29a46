"""The sizes of the model families, as frozen values; variants are made with `dataclasses.replace`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Prediction = Literal["eps", "v"]
LossWeighting = Literal["plain", "v", "min_snr"]
"""How much each noise level counts in training: see `objective.loss_weights`."""


@dataclass(frozen=True)
class BlockLevels:
    """The levels of a UNet's encoder blocks; each level has half the resolution of the one before, rounded up.

    Attributes:
        skips: The level of each encoder output that is kept as a skip, shallowest first.
        middle: The level of the middle block.
    """

    skips: tuple[int, ...]
    middle: int


@dataclass(frozen=True)
class UNetConfig:
    """The sizes of a Stable Diffusion UNet; its ControlNet has the same.

    Attributes:
        family: The name of the model family, for messages and metadata.
        in_channels: Channels of the noisy latents.
        out_channels: Channels of the prediction.
        model_channels: Channels at latent resolution.
        channel_mult: Channels of each level, as multiples of `model_channels`; each level has half the
            resolution of the one before.
        num_res_blocks: Residual blocks of each encoder level (a decoder level has one more).
        transformer_depth: Transformer blocks after each residual block, for each level.
        transformer_depth_middle: Transformer blocks in the middle block.
        context_dim: Width of the text embedding.
        num_heads: Attention heads, the same at every level; None if `head_channels` sets it.
        head_channels: Channels of one attention head; None if `num_heads` sets it.
        linear_projection: Whether the projections around the transformer blocks are linear layers
            (SD2.x, SDXL) or 1x1 convolutions (SD1.x).
        vector_dim: Width of the pooled vector condition `y` (SDXL: 2816), or None.
        float32_attention: Whether half precision overflows in attention, so that it needs float32 (SD2.1).
    """

    family: str
    in_channels: int = 4
    out_channels: int = 4
    model_channels: int = 320
    channel_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    transformer_depth: tuple[int, ...] = (1, 1, 1, 0)
    transformer_depth_middle: int = 1
    context_dim: int = 768
    num_heads: int | None = None
    head_channels: int | None = 64
    linear_projection: bool = True
    vector_dim: int | None = None
    float32_attention: bool = False

    @property
    def embedding_dim(self) -> int:
        """Width of the time embedding."""
        return 4 * self.model_channels

    @property
    def level_channels(self) -> tuple[int, ...]:
        """Channels of each level."""
        return tuple(multiple * self.model_channels for multiple in self.channel_mult)

    @property
    def block_levels(self) -> BlockLevels:
        """The levels of the blocks that residuals are added to."""
        levels, middle = [0], len(self.channel_mult) - 1
        for level in range(len(self.channel_mult)):
            levels += [level] * self.num_res_blocks
            if level < middle:
                levels.append(level + 1)
        return BlockLevels(tuple(levels), middle)

    @property
    def skip_channels(self) -> tuple[int, ...]:
        """The channels of each skip, shallowest first."""
        channels = [self.model_channels]
        for level, width in enumerate(self.level_channels):
            channels += [width] * self.num_res_blocks
            if level < self.block_levels.middle:
                channels.append(width)
        return tuple(channels)

    @property
    def joints(self) -> Mapping[str, object]:
        """The sizes in which a net and a UNet must agree, by name."""
        names = ("in_channels", "model_channels", "channel_mult", "num_res_blocks", "context_dim", "vector_dim")
        return {name: getattr(self, name) for name in names}

    def heads(self, channels: int) -> int:
        """The attention heads of a layer with `channels` channels."""
        return self.num_heads if self.num_heads is not None else channels // (self.head_channels or channels)


@dataclass(frozen=True)
class AutoencoderConfig:
    """The sizes of a KL autoencoder.

    Attributes:
        latent_channels: Channels of the latents.
        base_channels: Channels at image resolution.
        channel_mult: Channels of each level, as multiples of `base_channels`.
        num_res_blocks: Residual blocks of each encoder level (a decoder level has one more).
        latent_scale: The factor that brings the latents to a standard deviation of about 1.
    """

    latent_channels: int = 4
    base_channels: int = 128
    channel_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    latent_scale: float = 0.18215

    @property
    def downscale(self) -> int:
        """How many pixels one latent position covers, in each direction."""
        return 1 << (len(self.channel_mult) - 1)


@dataclass(frozen=True)
class TextEncoderConfig:
    """The sizes of a CLIP text transformer and which of its states conditions the UNet.

    Attributes:
        vocabulary: Number of tokens.
        width: Width of the embedding.
        layers: Number of transformer layers.
        num_heads: Attention heads.
        activation: OpenAI's CLIP uses x * sigmoid(1.702 x) ("quick_gelu"), OpenCLIP the exact GELU.
        context_length: Tokens of one prompt, start and end included.
        projection_dim: Width of the projected pooled embedding, or None if there is none.
        skipped_layers: How many of the last layers the context leaves out ("clip skip"; SDXL: 1).
        normalise_context: Whether the context passes the final layer norm.
        pad_token: What fills a short prompt: the end token again (CLIP-L) or token 0 (OpenCLIP).
    """

    vocabulary: int = 49408
    width: int = 768
    layers: int = 12
    num_heads: int = 12
    activation: Literal["quick_gelu", "gelu"] = "quick_gelu"
    context_length: int = 77
    projection_dim: int | None = None
    skipped_layers: int = 0
    normalise_context: bool = True
    pad_token: Literal["end", "zero"] = "end"


SD15 = UNetConfig(family="SD1.5", num_heads=8, head_channels=None, linear_projection=False)
SD21 = UNetConfig(family="SD2.1", context_dim=1024, float32_attention=True)
SDXL = UNetConfig(
    family="SDXL",
    channel_mult=(1, 2, 4),
    transformer_depth=(0, 2, 10),
    transformer_depth_middle=10,
    context_dim=2048,
    vector_dim=2816,
)
TINY = UNetConfig(
    family="TINY",
    model_channels=64,
    channel_mult=(1, 2),
    num_res_blocks=1,
    transformer_depth=(1, 1),
    context_dim=128,
)

CLIP_L = TextEncoderConfig()
OPENCLIP_H = TextEncoderConfig(  # the 24th layer of the files is never run: the context is the 23rd's output
    width=1024, layers=23, num_heads=16, activation="gelu", pad_token="zero"
)
CLIP_L_SDXL = TextEncoderConfig(skipped_layers=1, normalise_context=False)
OPENCLIP_BIGG = TextEncoderConfig(
    width=1280,
    layers=32,
    num_heads=20,
    activation="gelu",
    projection_dim=1280,
    skipped_layers=1,
    normalise_context=False,
    pad_token="zero",
)
CLIP_TINY = TextEncoderConfig(vocabulary=589, width=128, layers=2, num_heads=2, context_length=32)


@dataclass(frozen=True)
class Family:
    """Everything a text-to-image base consists of.

    Attributes:
        unet: The UNet's sizes.
        autoencoder: The autoencoder's sizes.
        text_encoders: The text encoders' sizes; their contexts are joined along the width.
        prediction: What the UNet predicts.
        image_size: The side in pixels the base was trained at.
    """

    unet: UNetConfig
    autoencoder: AutoencoderConfig
    text_encoders: tuple[TextEncoderConfig, ...]
    prediction: Prediction = "eps"
    image_size: int = 512


FAMILIES: dict[str, Family] = {
    "SD1.5": Family(SD15, AutoencoderConfig(), (CLIP_L,)),
    "SD2.1": Family(SD21, AutoencoderConfig(), (OPENCLIP_H,), prediction="v", image_size=768),
    "SDXL": Family(SDXL, AutoencoderConfig(latent_scale=0.13025), (CLIP_L_SDXL, OPENCLIP_BIGG), image_size=1024),
    "TINY": Family(
        TINY,
        AutoencoderConfig(base_channels=64, channel_mult=(1, 1, 1, 2), num_res_blocks=1),
        (CLIP_TINY,),
        image_size=64,
    ),
}
