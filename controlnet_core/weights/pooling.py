"""Which ControlNets want their residuals averaged over the picture: no tensor says it."""

from __future__ import annotations

from pathlib import Path

from .facts import json_object

DIFFUSERS_NAME = "diffusion_pytorch_model"
"""How the weights in a diffusers folder are called; config.json beside them and the folder's name describe them."""
STATED = "global_pool_conditions"
NAME = "shuffle"


def is_pooled(place: str) -> bool:
    """Whether the residuals of the net in a file are averaged, by its folder's config.json or its name.

    Raises:
        CheckpointError: If config.json cannot be read.
    """
    path = Path(place)
    if not path.name.startswith(DIFFUSERS_NAME):
        return NAME in path.stem.lower()
    config = path.with_name("config.json")
    text = config.read_text(encoding="utf-8", errors="replace") if config.is_file() else "{}"
    stated = json_object(text, str(config)).get(STATED)
    return stated if isinstance(stated, bool) else NAME in path.absolute().parent.name.lower()
