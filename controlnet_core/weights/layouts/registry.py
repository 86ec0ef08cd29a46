"""Every kind of file, in the order in which a file is compared with them."""

from __future__ import annotations

from . import diffusers, foreign, ldm, ldm_base, openclip, transformers
from .kinds import ForeignKind, Layout

KINDS: tuple[ForeignKind | Layout, ...] = (
    *foreign.ADDING_TO_A_CONTROLNET,
    ldm.CONTROLNET,
    diffusers.CONTROLNET,
    *foreign.OTHER_CONTROLNETS,
    ldm_base.BASE,
    *foreign.OTHER_CHECKPOINTS,
    ldm.UNET,
    diffusers.UNET,
    ldm.AUTOENCODER,
    diffusers.AUTOENCODER,
    *foreign.IMAGE_ENCODERS,
    transformers.TEXT_ENCODER,
    openclip.TEXT_ENCODER,
    *foreign.OTHERS,
)
"""The first kind that fits is taken, so one that adds keys to another stands before that."""
