"""Does a net follow its hints? Held-out hints are drawn, and found again by a detector that sees only the pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import fmean
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from ..base import Base
from ..control.stack import Control
from ..control.strength import Sides
from ..data.pairs import ShapesDataset
from ..errors import DatasetError
from ..model.controlnet import ControlNet
from ..sampling.generate import SamplingSettings, generate
from .scores import PictureScores, following_scores, picture_scores

PIXELS_AT_ONCE = 32 * 64 * 64
"""Pixels that are drawn in one batch, if it has more than one picture."""
Progress = Callable[[int, int], None]
"""`progress(done, total)`, called after each sampling step with the number of pictures; what it raises ends it."""


@dataclass(frozen=True)
class HintPreference:
    """How much better the right hint is than a wrong one.

    Attributes:
        loss_saved: The share of the loss with another picture's hint that the own hint saves; 0 where hints are
            ignored.
    """

    loss_saved: float


Details = TypeVar("Details", PictureScores, HintPreference, covariant=True)


@dataclass(frozen=True, eq=False)
class Evaluation(Generic[Details]):
    """What one evaluation found.

    Attributes:
        scores: The following score of each hint, 0 to 1.
        details: What else was measured, by name.
        pictures: The pictures, shape (N, 3, H, W) in [0, 1].
    """

    scores: tuple[float, ...]
    details: Details
    pictures: Tensor

    @property
    def following(self) -> float:
        """The mean following score."""
        return fmean(self.scores)


AnyEvaluation = Evaluation[PictureScores] | Evaluation[HintPreference]


class Validation(Protocol):
    """What a training run asks as it goes."""

    @property
    def ceiling(self) -> float:
        """The score that cannot be surpassed."""
        ...

    @property
    def without_control(self) -> float:
        """The score of the base alone."""
        ...

    def evaluate(self, net: ControlNet) -> AnyEvaluation:
        """Draw the fixed held-out hints with a net and score it."""
        ...


@dataclass(frozen=True, eq=False)
class ShapesValidation:
    """Following on held-out scenes of the shapes generator: always the same hints, captions and noise.

    Arguments:
        base: The base that draws.
        scenes: The held-out pairs; their `held_out` must be true.
        sampling: How to draw; its seed draws the noise.
        sides: The sides of guidance that control acts on.
        progress: Told how many of the pictures are drawn.
    """

    base: Base
    scenes: ShapesDataset
    sampling: SamplingSettings
    sides: Sides = "both"
    progress: Progress | None = None

    def __post_init__(self) -> None:
        if not self.scenes.held_out:
            raise DatasetError("training scenes for a validation", "held-out scenes", "pass held_out=True")

    @property
    def ceiling_words(self) -> str:
        """What the ceiling is."""
        return "encoded and decoded true images"

    @cached_property
    def hints(self) -> Tensor:
        """The hints, shape (N, 3, H, W)."""
        return self.scenes.hints(range(len(self.scenes)))

    @cached_property
    def captions(self) -> list[str]:
        """The captions."""
        return self.scenes.captions(range(len(self.scenes)))

    @cached_property
    def ceiling(self) -> float:
        """The score of encoded and decoded true images: more than this the autoencoder cannot give."""
        images = self.scenes.images(range(len(self.scenes)))
        parts = images.split(at_once(self.scenes.size, self.scenes.size))
        decoded = [self.base.decode_latents(self.base.encode_images(part).mean) for part in parts]
        return self._scored(torch.cat(decoded)).following

    @cached_property
    def without_control(self) -> float:
        """The score of the base alone, given the captions."""
        return self.draw(None).following

    def evaluate(self, net: ControlNet) -> Evaluation[PictureScores]:
        """Draw with the captions and the net."""
        return self.draw(net)

    def draw(self, net: ControlNet | None, prompts: Sequence[str] | None = None) -> Evaluation[PictureScores]:
        """Draw all scenes and score them.

        Arguments:
            net: The net, or None for the base alone.
            prompts: One for each scene; None for the captions.
        """
        prompts = self.captions if prompts is None else prompts
        return self._scored(draw_hints(self.base, net, self.hints, prompts, self.sampling, self.sides, self.progress))

    def _scored(self, pictures: Tensor) -> Evaluation[PictureScores]:
        """Score pictures of all scenes."""
        scenes = self.scenes.scenes(range(len(self.scenes)))
        pictures = pictures.cpu()
        scores = following_scores(pictures, scenes).tolist()
        return Evaluation(tuple(scores), picture_scores(pictures, scenes), pictures)


def at_once(height: int, width: int) -> int:
    """How many pictures of so many pixels go into one batch."""
    return max(1, PIXELS_AT_ONCE // (height * width))


def draw_hints(
    base: Base,
    net: ControlNet | None,
    hints: Tensor,
    prompts: Sequence[str],
    sampling: SamplingSettings,
    sides: Sides,
    progress: Progress | None = None,
) -> Tensor:
    """Draw one picture for each hint, in batches that memory holds.

    Arguments:
        base: The base that draws.
        net: The net, or None for the base alone.
        hints: Shape (N, C, H, W) in [0, 1].
        prompts: N prompts.
        sampling: How to draw; its seed draws the noise.
        sides: The sides of guidance that control acts on.
        progress: Told how many pictures are drawn.

    Returns:
        Shape (N, 3, H, W) in [0, 1], on the CPU.
    """
    pictures = []
    step = at_once(hints.shape[-2], hints.shape[-1])
    for start in range(0, len(hints), step):
        rows = slice(start, start + step)

        def drawn(done: int, steps: int, _: Tensor, start: int = start) -> None:
            if progress is not None:
                progress(min(start + step, len(hints)) if done == steps else start, len(hints))

        controls = [] if net is None else [Control(net, hints[rows], sides=sides)]
        settings = replace(sampling, seed=sampling.seed + start)
        pictures.append(generate(base, prompts[rows], controls, settings=settings, callback=drawn).cpu())
    return torch.cat(pictures)
