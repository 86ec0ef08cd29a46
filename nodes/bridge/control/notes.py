"""Warnings about what an applied net will do, found before the first step."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ....controlnet_core.control.application import Window
from ....controlnet_core.control.notes import crop_note, hint_count_note, window_note
from ..host.types import HostControlNet
from .rows import Rows

PIXELS_PER_LATENT = 8


def run_notes(
    control: HostControlNet, window: Window, x: Tensor, rows: Rows, transformer_options: dict[str, Any]
) -> list[str]:
    """The warnings about a net with its hints.

    Arguments:
        control: A net with hints and a window, ours or ComfyUI's.
        window: The noise levels between which it acts.
        x: The latents, shape (N, C, h, w).
        rows: How they are made up.
        transformer_options: May hold all noise levels of the run, as "sample_sigmas".
    """
    hints: Tensor = control.cond_hint_original
    height, width = (PIXELS_PER_LATENT * side for side in x.shape[-2:])
    notes = [hint_count_note(len(hints), rows.total)]
    if control.cond_hint is None:  # otherwise the latents are a tile, whose hint was cut out already
        notes.append(crop_note(hints, height, width))
    sigmas = transformer_options.get("sample_sigmas")
    if sigmas is not None:
        notes.append(window_note(window, sigmas[:-1].tolist(), *control.timestep_percent_range))
    return [note for note in notes if note is not None]
