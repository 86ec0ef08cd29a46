"""A whole base in one file, as LDM stores it: where its models stand in it, and what stands beside them."""

from __future__ import annotations

from ...config import Family
from ..keymap import KeyMap
from . import ldm, openclip, transformers
from .kinds import BaseLayout

UNET_PREFIX = "model.diffusion_model."
AUTOENCODER_PREFIX = "first_stage_model."
TEXT_PREFIXES = (
    "cond_stage_model.transformer.",
    "cond_stage_model.model.",
    "conditioner.embedders.0.transformer.",
    "conditioner.embedders.0.model.",
    "conditioner.embedders.1.transformer.",
    "conditioner.embedders.1.model.",
)
CONTROLNET_PREFIX = "control_model."

TRAINING_LEFTOVERS = (
    "model_ema.*",
    "betas",
    "alphas_cumprod*",
    "sqrt_*",
    "log_one_minus_alphas_cumprod",
    "posterior_*",
    "lvlb_weights",
    "logvar",
    "log_vars",
    "*.log_vars",
    "scale_factor",
    "global_step",
    "denoiser.*",
    "v_pred",
    "ztsnr",
    "embedding_manager.*",
)
"""Keys that training left in published files: averaged weights, the noise schedule and counters."""
BESIDE_A_CONTROLNET = (*TRAINING_LEFTOVERS, f"{UNET_PREFIX}*", f"{AUTOENCODER_PREFIX}*", "cond_stage_model.*")
BESIDE_A_BASE = (
    *TRAINING_LEFTOVERS,
    f"{CONTROLNET_PREFIX}*",
    "cond_stage_model.logit_scale",
    "cond_stage_model.text_projection",
    "conditioner.embedders.*.logit_scale",
    "conditioner.embedders.0.text_projection",
)

BASE = BaseLayout(
    "a Stable Diffusion checkpoint in the LDM layout",
    (f"*{UNET_PREFIX}input_blocks.0.0.weight", f"*{UNET_PREFIX}output_blocks.0.0.in_layers.2.weight"),
    name="ldm",
)


def keymaps(family: Family) -> tuple[KeyMap, ...]:
    """Where the file keeps a family's UNet, its autoencoder and its text encoders, in this order."""
    return (
        ldm.unet_keymap(family.unet).prefixed(UNET_PREFIX),
        ldm.autoencoder_keymap(family.autoencoder).prefixed(AUTOENCODER_PREFIX),
        *text_keymaps(family),
    )


def text_keymaps(family: Family) -> tuple[KeyMap, ...]:
    """Where the file keeps a family's text encoders."""
    if len(family.text_encoders) == 2:
        first, second = family.text_encoders
        return (
            transformers.text_encoder_keymap(first).prefixed("conditioner.embedders.0.transformer."),
            openclip.text_encoder_keymap(second).prefixed("conditioner.embedders.1.model."),
        )
    (encoder,) = family.text_encoders
    if family.unet.context_dim == 1024:
        return (openclip.text_encoder_keymap(encoder).prefixed("cond_stage_model.model."),)
    return (transformers.text_encoder_keymap(encoder).prefixed("cond_stage_model.transformer."),)
