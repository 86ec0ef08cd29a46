"""Warnings about what an applied net will do, found before the first step."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ....controlnet_core.control.application import Window
from ....controlnet_core.control.notes import crop_note, hint_count_note, window_note
from ..host.messages import warn
from ..host.types import HostControlNet
from .rows import Rows

PIXELS_PER_LATENT = 8


@dataclass
class RunWarnings:
    """The warnings about one net in one sampling; each is shown once.

    Attributes:
        name: What they call the net.
        node_id: The node that shows them; None is the one that samples.
        shown: Those that were shown.
        begun: Whether the net was asked for residuals.
    """

    name: str
    node_id: str | None
    shown: set[str] = field(default_factory=set)
    begun: bool = False

    def begin(
        self, control: HostControlNet, window: Window, x: Tensor, rows: Rows, transformer_options: dict[str, Any]
    ) -> None:
        """When the net is asked for the first time, say what it will do; arguments as `run_notes`."""
        if not self.begun:
            self.begun = True
            self.show(*run_notes(control, window, x, rows, transformer_options))

    def show(self, *notes: str) -> None:
        """Show warnings that were not shown yet."""
        for note in notes:
            if note not in self.shown:
                self.shown.add(note)
                warn(f"{self.name}: {note}", self.node_id)


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
