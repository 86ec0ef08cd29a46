"""The progress of a training on its node: a bar, a line of text and the last samples, without any JavaScript."""

from __future__ import annotations

import time

import comfy.model_management
import comfy.utils
import torch
from PIL import Image
from torch import Tensor

from ....controlnet_core.pictures.sheet import to_image
from ....controlnet_core.training.events import (
    Drawing,
    Encoding,
    Evaluated,
    Event,
    Fitting,
    Interrupted,
    Opened,
    Stepped,
    event_lines,
)
from ....controlnet_core.training.run import SAMPLES
from ....controlnet_core.training.session import Recent
from ....controlnet_core.training.settings import TrainSettings
from ..host.messages import show

SECONDS_BETWEEN_TEXTS = 0.5
PREVIEW_SIZE = 512


class TrainingDisplay:
    """Shows a run's events on its node; if ComfyUI is interrupted, it raises ComfyUI's own error.

    Arguments:
        settings: The run's settings.
        node_id: The node.
        hints: The held-out hints, shape (N, 3, H, W), to show above the samples; None if there are none.
    """

    def __init__(self, settings: TrainSettings, node_id: str | None, hints: Tensor | None) -> None:
        self.node_id = node_id
        self.hints = hints
        self._recent = Recent(settings)
        self._bar = comfy.utils.ProgressBar(settings.steps)
        self._shown = 0.0

    def __call__(self, event: Event) -> None:
        """Show an event."""
        self._recent.add(event)
        match event:
            case Opened():
                self._say(event_lines(event)[-1], True)
            case Encoding(done=done, total=total):
                self._say(f"encoding pictures, captions and hints: {done:,} of {total:,}", done == total)
            case Fitting(done=done, total=total):
                self._say(f"fitting the hint encoder: {done} of {total}", done == total)
            case Drawing(done=done, total=total):
                self._say(f"{self._status()} · drawing held-out hints: {done} of {total}", False)
            case Stepped(step=step, steps=steps):
                self._bar.update_absolute(step)
                self._say(self._status(), step == steps)
            case Evaluated(step=step, pictures=pictures):
                self._bar.update_absolute(step, preview=("JPEG", self._picture(pictures), PREVIEW_SIZE))
                self._say(self._status(), True)
            case Interrupted(step=step, steps=steps):
                self._say(f"interrupted at step {step:,} of {steps:,}: Run resumes from there", True)
        if isinstance(event, Encoding | Fitting | Drawing | Stepped | Evaluated):
            comfy.model_management.throw_exception_if_processing_interrupted()

    def _say(self, text: str, now: bool) -> None:
        """Show a text; unless `now`, only if the last one was not just shown."""
        moment = time.monotonic()
        if now or moment - self._shown >= SECONDS_BETWEEN_TEXTS:
            self._shown = moment
            show(text, self.node_id)

    def _status(self) -> str:
        """The line of text: step, loss, score and time left."""
        recent = self._recent
        parts = [f"step {recent.step:,} of {recent.settings.steps:,}"]
        if recent.loss is not None:
            parts.append(f"loss {recent.loss:.4f}")
        if recent.following is not None:
            parts.append(f"following {recent.following:.2f}")
        if recent.seconds_left is not None:
            parts.append(f"{duration(recent.seconds_left)} left")
        return " · ".join(parts)

    def _picture(self, pictures: Tensor) -> Image.Image:
        """The first samples below their hints."""
        rows = [pictures[:SAMPLES]] if self.hints is None else [self.hints[:SAMPLES].cpu(), pictures[:SAMPLES]]
        picture = to_image(torch.cat([torch.cat(list(row), dim=-1) for row in rows], dim=-2))
        factor = PREVIEW_SIZE / max(picture.size)
        return picture.resize((round(picture.width * factor), round(picture.height * factor)), Image.Resampling.NEAREST)


def duration(seconds: float) -> str:
    """A time as text, in at most two units."""
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"
