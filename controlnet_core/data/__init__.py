"""Pairs of pictures and hints to train on, and the shapes generator."""

from __future__ import annotations

from .drawing import colour_maps, images, masks, outlines
from .pairs import Pair, PairDataset, ShapesDataset, ShuffledHints
from .shapes import COLOURS, PALETTE, SHAPES, Scenes, captions, draw_scenes, is_held_out

__all__ = [
    "COLOURS",
    "PALETTE",
    "SHAPES",
    "Pair",
    "PairDataset",
    "Scenes",
    "ShapesDataset",
    "ShuffledHints",
    "captions",
    "colour_maps",
    "draw_scenes",
    "images",
    "is_held_out",
    "masks",
    "outlines",
]
