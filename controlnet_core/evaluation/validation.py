"""How well a net follows its hints: the interface of a validation, and the drawing of held-out hints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Protocol

import torch
from torch import Tensor

from ..base import Base
from ..control.curves import Side
from ..control.stack import Control
from ..data.dataset import Progress
from ..model.controlnet import ControlNet
from ..sampling.generate import SamplingSettings, generate
from ..sampling.guidance import guidance_sides

DRAWN, DECODED = 0.5, 2.0
"""What a sampling step of a picture on one side of guidance costs, and decoding it: in pairs of a training step."""
PIXELS_AT_ONCE = 32 * 64 * 64
"""The most pixels in a batch of more than one picture."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The result of one evaluation.

    Attributes:
        scores: The following score of each hint, 0 to 1.
        measures: What else was measured, by name.
        pictures: The pictures, shape (N, 3, H, W) in [0, 1].
    """

    scores: tuple[float, ...]
    measures: Mapping[str, float]
    pictures: Tensor

    @property
    def following(self) -> float:
        """The mean following score."""
        return fmean(self.scores)


@dataclass(frozen=True)
class Levels:
    """The scores that following is compared with.

    Attributes:
        without_control: The score of the base alone, or of a net that ignores its hints.
        ceiling: The score that cannot be surpassed.
    """

    without_control: float
    ceiling: float


class Validation(Protocol):
    """What a training run calls to measure how well its net follows."""

    @property
    def cost(self) -> float:
        """About how many pairs a net could be trained on in the time of one evaluation."""
        ...

    def levels(self, progress: Progress | None = None) -> Levels:
        """The scores that following is compared with; `progress` is told how many hints are drawn for it."""
        ...

    def evaluate(self, net: ControlNet, progress: Progress | None = None) -> Evaluation:
        """Draw the fixed held-out hints with a net and score it; `progress` is told how many are drawn."""
        ...


def pictures_per_batch(height: int, width: int) -> int:
    """How many pictures of a size go into one batch."""
    return max(1, PIXELS_AT_ONCE // (height * width))


def drawing_cost(pictures: int, sampling: SamplingSettings) -> float:
    """About how many pairs a net could be trained on while these pictures are drawn."""
    return pictures * (DRAWN * sampling.steps * len(guidance_sides(sampling.guidance)) + DECODED)


def draw_hints(
    base: Base,
    net: ControlNet | None,
    hints: Tensor,
    prompts: Sequence[str],
    sampling: SamplingSettings,
    side: Side,
    progress: Progress | None = None,
) -> Tensor:
    """Draw one picture for each hint, in batches that fit into memory.

    Arguments:
        base: The base that draws.
        net: The net, or None for the base alone.
        hints: Shape (N, C, H, W) in [0, 1].
        prompts: N prompts.
        sampling: How to draw; its seed draws the noise.
        side: The side of guidance that control acts on, or both.
        progress: Told how many pictures are drawn.

    Returns:
        Shape (N, 3, H, W) in [0, 1], on the CPU.
    """
    pictures = []
    size = pictures_per_batch(hints.shape[-2], hints.shape[-1])
    for start in range(0, len(hints), size):
        rows = slice(start, start + size)

        def after_step(done: int, steps: int, _: Tensor, start: int = start) -> None:
            if progress is not None:
                progress(min(start + size, len(hints)) if done == steps else start, len(hints))

        controls = [] if net is None else [Control(net, hints[rows], side=side)]
        settings = replace(sampling, seed=sampling.seed + start)
        pictures.append(generate(base, prompts[rows], controls, settings=settings, callback=after_step).cpu())
    return torch.cat(pictures)
