"""The progress of a training on its node: a bar, a line of text and the last samples, without any JavaScript."""

from __future__ import annotations

import logging
import time
from typing import Any

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
    Memory,
    Opened,
    Stepped,
    event_lines,
)
from ....controlnet_core.training.record import SAMPLES
from ....controlnet_core.training.session import Recent
from ....controlnet_core.training.settings import TrainSettings
from ..host.messages import show, warn

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
        self._encoding: EncodingProgress | None = None

    def __call__(self, event: Event) -> None:
        """Show an event."""
        self._recent.add(event)
        match event:
            case Opened():
                self._say(event_lines(event)[-1], True)
            case Memory():
                lines = event_lines(event)
                self._say(lines[0], True)
                for line in lines[1:]:
                    warn(line, self.node_id)
            case Encoding(done=done, total=total):
                self._encoding = self._encoding or EncodingProgress(done, total)
                self._say(self._encoding.at(done), done == total)
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
                logging.info("ControlNet Core: %s", self._status())
            case Interrupted(step=step, steps=steps):
                self._say(f"interrupted at step {step:,} of {steps:,}: Run resumes from there", True)
        if isinstance(event, Encoding | Fitting | Drawing | Stepped | Evaluated):
            comfy.model_management.throw_exception_if_processing_interrupted()

    def finish(self, report: dict[str, Any], picture: Image.Image, name: str) -> None:
        """Show how it ended; the picture takes the place of the last samples.

        Arguments:
            report: The content of the run's `report.json`.
            picture: The report as a picture.
            name: The name of the net's file.
        """
        steps = self._recent.settings.steps
        self._bar.update_absolute(steps, preview=("JPEG", picture.convert("RGB"), max(picture.size)))
        text = done_text(report, name)
        self._say(text, True)
        logging.info("ControlNet Core: %s", text)

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
        shown = pictures[:SAMPLES]
        rows = [shown] if self.hints is None else [self.hints[: len(shown)].cpu(), shown]
        picture = to_image(torch.cat([torch.cat(list(row), dim=-1) for row in rows], dim=-2))
        factor = PREVIEW_SIZE / max(picture.size)
        return picture.resize((round(picture.width * factor), round(picture.height * factor)), Image.Resampling.NEAREST)


class EncodingProgress:
    """The bar and the text of an encoding.

    Arguments:
        first: How many pictures, captions and hints were encoded before.
        total: All of them.
    """

    def __init__(self, first: int, total: int) -> None:
        self._first = first
        self._total = total
        self._began = time.monotonic()
        self._bar = comfy.utils.ProgressBar(total)

    def at(self, done: int) -> str:
        """Move the bar, and give the text: with the time left, once some more are encoded."""
        self._bar.update_absolute(done)
        text = f"encoding pictures, captions and hints: {done:,} of {self._total:,}"
        if done == self._first:
            return text
        left = (self._total - done) * (time.monotonic() - self._began) / (done - self._first)
        return f"{text} · {duration(left)} left"


def done_text(report: dict[str, Any], name: str) -> str:
    """The last line of a training: how well the net follows, and where it is."""
    following = report["following"]
    if following["caption"] is None:
        return f"done: saved as {name}"
    levels = f"{following['without_control']:.2f} without control, {following['ceiling']:.2f} at best"
    return f"done: following {following['caption']:.2f} ({levels}), saved as {name}"


def duration(seconds: float) -> str:
    """A time as text, in at most two units."""
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"
