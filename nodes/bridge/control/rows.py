"""Which pictures the rows of a batch belong to: parts, tiles, and windows of a long batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Rows:
    """How a batch is made up: tile by tile all parts, and in each part the pictures.

    Attributes:
        parts: How many conditionings share the batch.
        tiles: How many tiles of the pictures share it.
        frames: The pictures of each part, counted in the whole batch of latents.
        total: How many pictures that whole batch has.
    """

    parts: int
    tiles: int
    frames: Sequence[int]
    total: int

    @property
    def whole(self) -> bool:
        """Whether every picture of the whole batch is there."""
        return len(self.frames) == self.total


def rows_of(count: int, parts: int, transformer_options: Mapping[str, Any]) -> Rows:
    """How a batch of `count` rows is made up.

    ComfyUI gives a noise level for each picture, so more rows than parts times pictures are several tiles. Where it
    draws a long batch in windows, it says which pictures the window holds.
    """
    pictures = len(transformer_options.get("sigmas", ()))
    if not pictures or count % (parts * pictures):
        pictures = count // parts
    tiles = count // (parts * pictures)
    frames, total = _window(transformer_options)
    if len(frames) != pictures:
        return Rows(parts, tiles, range(pictures), pictures)
    return Rows(parts, tiles, frames, total)


def _window(transformer_options: Mapping[str, Any]) -> tuple[Sequence[int], int]:
    """The pictures of the window that is drawn, in order, and the number of all pictures; none without a window.

    ComfyUI's window may begin with an anchor, the picture before its first. AnimateDiff-Evolved has windows of its own.
    """
    window = transformer_options.get("context_window")
    if window is not None and window.dim == 0:
        anchor = getattr(window, "causal_anchor_index", None)
        anchors = [anchor] if anchor is not None and anchor >= 0 else []
        return [*anchors, *window.index_list], window.total_frames
    animation = transformer_options.get("ad_params", {})
    return animation.get("sub_idxs") or (), animation.get("full_length") or 0
