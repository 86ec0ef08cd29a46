"""Does a net follow its hints? Held-out hints are drawn, and found again by a detector that sees only the pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from ..base import Base
from ..control.stack import Control
from ..control.strength import Sides
from ..data.pairs import ShapesDataset
from ..errors import DatasetError
from ..model.controlnet import ControlNet
from ..sampling.generate import SamplingSettings, generate
from .scores import CaptionAccuracy, caption_accuracy, following_scores

DRAWN_AT_ONCE = 32


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What one evaluation found.

    Attributes:
        following: Mean following score, 0 to 1.
        caption: The shares of pictures that show what their captions say.
        pictures: The pictures, shape (N, 3, H, W) in [0, 1].
    """

    following: float
    caption: CaptionAccuracy
    pictures: Tensor


class Validation(Protocol):
    """What a training run asks as it goes."""

    @property
    def ceiling(self) -> float:
        """The score of encoded and decoded true images."""
        ...

    @property
    def without_control(self) -> float:
        """The score of the base alone."""
        ...

    def evaluate(self, net: ControlNet) -> Evaluation:
        """Draw the fixed held-out hints with a net and score them."""
        ...


@dataclass(frozen=True, eq=False)
class ShapesValidation:
    """Following on held-out scenes of the shapes generator: always the same hints, captions and noise.

    Arguments:
        base: The base that draws.
        scenes: The held-out pairs; their `held_out` must be true.
        sampling: How to draw; its seed draws the noise.
        sides: The sides of guidance that control acts on.
    """

    base: Base
    scenes: ShapesDataset
    sampling: SamplingSettings
    sides: Sides = "both"

    def __post_init__(self) -> None:
        if not self.scenes.held_out:
            raise DatasetError("training scenes for a validation", "held-out scenes", "pass held_out=True")

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
        parts = [self.base.decode_latents(self.base.encode_images(part).mean) for part in images.split(DRAWN_AT_ONCE)]
        return self._scored(torch.cat(parts)).following

    @cached_property
    def without_control(self) -> float:
        """The score of the base alone, given the captions."""
        return self.draw(None).following

    def evaluate(self, net: ControlNet) -> Evaluation:
        """Draw with the captions and the net."""
        return self.draw(net)

    def draw(self, net: ControlNet | None, prompts: Sequence[str] | None = None) -> Evaluation:
        """Draw all scenes and score them.

        Arguments:
            net: The net, or None for the base alone.
            prompts: One for each scene; None for the captions.
        """
        prompts = self.captions if prompts is None else prompts
        pictures = []
        for start in range(0, len(self.scenes), DRAWN_AT_ONCE):
            rows = slice(start, start + DRAWN_AT_ONCE)
            controls = [] if net is None else [Control(net, self.hints[rows], sides=self.sides)]
            sampling = replace(self.sampling, seed=self.sampling.seed + start)
            pictures.append(generate(self.base, prompts[rows], controls, settings=sampling))
        return self._scored(torch.cat(pictures).cpu())

    def _scored(self, pictures: Tensor) -> Evaluation:
        """Score pictures of all scenes."""
        scenes = self.scenes.scenes(range(len(self.scenes)))
        pictures = pictures.cpu()
        following = float(following_scores(pictures, scenes).mean())
        return Evaluation(following, caption_accuracy(pictures, scenes), pictures)
