"""How far a training is, on its node: a bar, a line of text and the last samples, without any JavaScript."""

from __future__ import annotations

import time
from collections import deque
from statistics import fmean, median

import comfy.model_management
import comfy.utils
import torch
from PIL import Image
from torch import Tensor

from ...controlnet_core.pictures import to_image
from ...controlnet_core.training.loop import SAMPLES, StepReport
from ...controlnet_core.training.settings import TrainSettings
from .messages import show

AVERAGED_LOSSES = 50
"""A single loss says little: its timesteps decide most of it."""
TIMED_STEPS = 20
SECONDS_BETWEEN_TEXTS = 0.5
PREVIEW_SIZE = 512


class TrainingProgress:
    """Shows a training on its node, and stops it where ComfyUI is interrupted: each call raises what ComfyUI asks for.

    Arguments:
        settings: The run's settings.
        node_id: The node.

    Attributes:
        hints: The held-out hints that are drawn, shape (N, 3, H, W), to show above the samples; None if there are none.
    """

    def __init__(self, settings: TrainSettings, node_id: str | None) -> None:
        self.settings = settings
        self.node_id = node_id
        self.hints: Tensor | None = None
        self._bar = comfy.utils.ProgressBar(settings.steps)
        self._step = 0
        self._losses: deque[float] = deque(maxlen=AVERAGED_LOSSES)
        self._seconds: deque[float] = deque(maxlen=TIMED_STEPS)
        self._evaluation_seconds = 0.0
        self._following: float | None = None
        self._shown = 0.0

    def encoding(self, done: int, total: int) -> None:
        """Show how many pairs are encoded."""
        self._say(f"encoding pair {done:,} of {total:,}", done == total)
        comfy.model_management.throw_exception_if_processing_interrupted()

    def drawing(self, done: int, total: int) -> None:
        """Show how many samples are drawn."""
        self._say(f"{self._words()} · drawing held-out hints: {done} of {total}", False)
        comfy.model_management.throw_exception_if_processing_interrupted()

    def show(self, report: StepReport) -> None:
        """Show one step, and what was drawn behind it."""
        self._step = report.step
        if report.loss is not None:
            self._losses.append(report.loss)
            self._seconds.append(report.seconds)
        preview = None
        if report.evaluation is not None:
            self._following = report.evaluation.following
            self._evaluation_seconds = report.evaluation_seconds
            preview = ("JPEG", self._picture(report.evaluation.pictures), PREVIEW_SIZE)
        self._bar.update_absolute(report.step, preview=preview)
        self._say(self._words(), preview is not None or report.step == self.settings.steps)
        comfy.model_management.throw_exception_if_processing_interrupted()

    def stopped(self) -> None:
        """Show that what was done is kept."""
        self._say(f"stopped at step {self._step:,} of {self.settings.steps:,}: Run goes on from there", True)

    def _say(self, text: str, now: bool) -> None:
        """Show a text, if it is long enough since the last one."""
        moment = time.monotonic()
        if now or moment - self._shown >= SECONDS_BETWEEN_TEXTS:
            self._shown = moment
            show(text, self.node_id)

    def _words(self) -> str:
        """The line of text."""
        parts = [f"step {self._step:,} of {self.settings.steps:,}"]
        if self._losses:
            parts.append(f"loss {fmean(self._losses):.4f}")
        if self._following is not None:
            parts.append(f"following {self._following:.2f}")
        if self._seconds:
            parts.append(f"{duration(self._seconds_left())} left")
        return " · ".join(parts)

    def _seconds_left(self) -> float:
        """The time of the steps and evaluations that are left, at the speed of the last ones."""
        left = self.settings.steps - self._step
        evaluations = left / self.settings.evaluation.every if self._following is not None else 0
        return left * median(self._seconds) + evaluations * self._evaluation_seconds

    def _picture(self, pictures: Tensor) -> Image.Image:
        """The first samples below their hints."""
        rows = [pictures[:SAMPLES]] if self.hints is None else [self.hints[:SAMPLES].cpu(), pictures[:SAMPLES]]
        picture = to_image(torch.cat([torch.cat(list(row), dim=-1) for row in rows], dim=-2))
        factor = PREVIEW_SIZE / max(picture.size)
        return picture.resize((round(picture.width * factor), round(picture.height * factor)), Image.Resampling.NEAREST)


def duration(seconds: float) -> str:
    """A time in words, in two units at most."""
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"
