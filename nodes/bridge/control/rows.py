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
    window = transformer_options.get("context_window")
    if window is not None and window.dim == 0 and len(_frames(window)) == pictures:
        return Rows(parts, tiles, _frames(window), window.total_frames)
    return Rows(parts, tiles, range(pictures), pictures)


def _frames(window: Any) -> list[int]:  # noqa: ANN401 - ComfyUI's IndexListContextWindow
    """The pictures of a window, in order; some windows begin with an anchor, the picture before their first."""
    anchor = getattr(window, "causal_anchor_index", None)
    anchors = [anchor] if anchor is not None and anchor >= 0 else []
    return [*anchors, *window.index_list]
