"""The same models built by diffusers and transformers, from our configs and our weights."""

from __future__ import annotations

from typing import Any

from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from controlnet_core.config import AutoencoderConfig, TextEncoderConfig, UNetConfig
from controlnet_core.model.autoencoder import Autoencoder
from controlnet_core.model.controlnet import ControlNet
from controlnet_core.model.text_encoder import TextEncoder
from controlnet_core.model.unet import UNet
from controlnet_core.weights.layouts import diffusers, transformers
from controlnet_core.weights.layouts.kinds import ControlNetConfig


def reference_unet(unet: UNet) -> UNet2DConditionModel:
    """The UNet of diffusers with our weights."""
    config = unet.config
    up = tuple("CrossAttnUpBlock2D" if depth else "UpBlock2D" for depth in reversed(config.transformer_depth))
    reference = UNet2DConditionModel(
        **encoder_arguments(config), out_channels=config.out_channels, up_block_types=up, sample_size=16
    )
    reference.load_state_dict(diffusers.unet_keymap(config).to_theirs(unet.state_dict()), strict=True)
    return reference.eval()


def reference_controlnet(net: ControlNet) -> ControlNetModel:
    """The ControlNet of diffusers with our weights."""
    config = net.config
    reference = ControlNetModel(**encoder_arguments(config), conditioning_channels=net.hint_channels)
    keymap = diffusers.controlnet_keymap(ControlNetConfig(config, net.hint_channels))
    reference.load_state_dict(keymap.to_theirs(net.state_dict()), strict=True)
    return reference.eval()


def encoder_arguments(config: UNetConfig) -> dict[str, Any]:
    """What diffusers calls our sizes; its `attention_head_dim` is the number of heads."""
    arguments: dict[str, Any] = {
        "in_channels": config.in_channels,
        "down_block_types": tuple(
            "CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in config.transformer_depth
        ),
        "block_out_channels": config.level_channels,
        "layers_per_block": config.num_res_blocks,
        "transformer_layers_per_block": [*config.transformer_depth[:-1], config.transformer_depth_middle],
        "cross_attention_dim": config.context_dim,
        "attention_head_dim": [config.heads(channels) for channels in config.level_channels],
        "use_linear_projection": config.linear_projection,
        "upcast_attention": config.float32_attention,
    }
    if config.vector_dim is not None:
        arguments |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": config.vector_dim,
        }
    return arguments


def reference_autoencoder(autoencoder: Autoencoder) -> AutoencoderKL:
    """The autoencoder of diffusers with our weights."""
    config: AutoencoderConfig = autoencoder.config
    levels = len(config.channel_mult)
    reference = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=tuple(config.base_channels * multiple for multiple in config.channel_mult),
        layers_per_block=config.num_res_blocks,
        latent_channels=config.latent_channels,
        scaling_factor=config.latent_scale,
    )
    keymap = diffusers.autoencoder_keymap(config)
    reference.load_state_dict(keymap.to_theirs(autoencoder.state_dict()), strict=True)
    return reference.eval()


def reference_text_encoder(encoder: TextEncoder) -> CLIPTextModel | CLIPTextModelWithProjection:
    """The text encoder of transformers with our weights; one with a projection gives the projected embedding."""
    config: TextEncoderConfig = encoder.config
    sizes = CLIPTextConfig(
        vocab_size=config.vocabulary,
        hidden_size=config.width,
        intermediate_size=4 * config.width,
        num_hidden_layers=config.layers,
        num_attention_heads=config.num_heads,
        max_position_embeddings=config.context_length,
        hidden_act=config.activation,
        projection_dim=config.projection_dim or config.width,
        bos_token_id=0,
        eos_token_id=config.vocabulary - 1,
    )
    model = (CLIPTextModelWithProjection if config.projection_dim else CLIPTextModel)(sizes)
    inner = "text_model." if any(key.startswith("text_model.") for key in model.state_dict()) else ""
    model.load_state_dict(transformers.text_encoder_keymap(config, inner).to_theirs(encoder.state_dict()), strict=True)
    return model.eval()
