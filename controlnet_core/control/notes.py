"""Warnings about what an applied net will do; the picture is still drawn."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from .application import Window
from .hint import cropped_size


class ControlWarning(UserWarning):
    """Control that will not act as the user may expect; the picture is still drawn."""


def crop_note(image: Tensor, height: int, width: int, name: str = "hint") -> str | None:
    """Say what `fit_hint` will cut off; None if the image has the picture's aspect to within a pixel."""
    rows, columns = cropped_size(image, height, width)
    lost = max(image.shape[-2] - rows, image.shape[-1] - columns)
    if lost <= 1:
        return None
    return (
        f"the {name} has {image.shape[-1]} x {image.shape[-2]} pixels, another aspect than the picture's "
        f"{width} x {height}: {lost} {'rows' if rows < image.shape[-2] else 'columns'} at its borders are cut off"
    )


def window_note(window: Window, sigmas: Sequence[float], start: float, end: float) -> str | None:
    """Say that no step falls into a window; None if one does."""
    if any(map(window.holds, sigmas)):
        return None
    return f"no step falls between start {start:g} and end {end:g}, so it does not act"


def hint_count_note(hints: int, pictures: int) -> str | None:
    """Say that hints are dropped or repeated; None if each picture has its own hint or all share one."""
    if hints > pictures:
        left_over = "one is" if hints == pictures + 1 else f"{hints - pictures} are"
        return f"{hints} hints for {pictures} pictures: the last {left_over} not used"
    if 1 < hints < pictures:
        return f"{hints} hints for {pictures} pictures: they are repeated in turn"
    return None
