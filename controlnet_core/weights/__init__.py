"""Every file layout of weights: what a file is, how to read it, how to write it."""

from .base_parts import BaseParts, load_base_parts
from .keymap import KeyMap
from .load import load_controlnet
from .part import Part
from .report import CheckpointReport, inspect_checkpoint
from .save import save_base, save_controlnet

__all__ = [
    "BaseParts",
    "CheckpointReport",
    "KeyMap",
    "Part",
    "inspect_checkpoint",
    "load_base_parts",
    "load_controlnet",
    "save_base",
    "save_controlnet",
]
