"""Following on held-out scenes of the shapes generator, measured by a detector that sees only the drawn pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..base import Base
from ..control.curves import Side
from ..data.dataset import Progress
from ..errors import DatasetError
from ..evaluation.validation import Evaluation, Levels, draw_hints, drawing_cost, pictures_per_batch
from ..model.controlnet import ControlNet
from ..sampling.generate import SamplingSettings
from .scores import following_scores, picture_scores
from .shapes_dataset import ShapesDataset


@dataclass(frozen=True, eq=False)
class ShapesValidation:
    """Following on held-out scenes of the shapes generator: always the same hints, captions and noise.

    Arguments:
        base: The base that draws.
        scenes: The held-out pairs; their `held_out` must be true.
        sampling: How to draw; its seed draws the noise.
        side: The side of guidance that control acts on, or both.
    """

    base: Base
    scenes: ShapesDataset
    sampling: SamplingSettings
    side: Side = "both"

    def __post_init__(self) -> None:
        if not self.scenes.held_out:
            raise DatasetError("training scenes for a validation", "held-out scenes", "pass held_out=True")

    @property
    def ceiling_label(self) -> str:
        """What the ceiling is, for reports."""
        return "encoded and decoded true images"

    @property
    def cost(self) -> float:
        """About how many pairs a net could be trained on in the time of one evaluation."""
        return drawing_cost(len(self.scenes), self.sampling)

    @cached_property
    def hints(self) -> Tensor:
        """The hints, shape (N, 3, H, W)."""
        return self.scenes.hints(range(len(self.scenes)))

    @cached_property
    def captions(self) -> list[str]:
        """The captions."""
        return self.scenes.captions(range(len(self.scenes)))

    def levels(self, progress: Progress | None = None) -> Levels:
        """The scores of pictures drawn from the captions alone, and of true images, encoded and decoded."""
        return Levels(self.draw(None, progress=progress).following, self.ceiling)

    @cached_property
    def ceiling(self) -> float:
        """The score of encoded and decoded true images, the most that the autoencoder allows."""
        images = self.scenes.images(range(len(self.scenes)))
        parts = images.split(pictures_per_batch(self.scenes.size, self.scenes.size))
        decoded = [self.base.decode_latents(self.base.encode_images(part).mean) for part in parts]
        return self._scored(torch.cat(decoded)).following

    def evaluate(self, net: ControlNet, progress: Progress | None = None) -> Evaluation:
        """Draw with the captions and the net."""
        return self.draw(net, progress=progress)

    def draw(
        self, net: ControlNet | None, prompts: Sequence[str] | None = None, progress: Progress | None = None
    ) -> Evaluation:
        """Draw all scenes and score them.

        Arguments:
            net: The net, or None for the base alone.
            prompts: One for each scene; None for the captions.
            progress: Told how many of the pictures are drawn.
        """
        prompts = self.captions if prompts is None else prompts
        return self._scored(draw_hints(self.base, net, self.hints, prompts, self.sampling, self.side, progress))

    def _scored(self, pictures: Tensor) -> Evaluation:
        """Score pictures of all scenes."""
        scenes = self.scenes.scenes(range(len(self.scenes)))
        pictures = pictures.cpu()
        scores = following_scores(pictures, scenes).tolist()
        return Evaluation(tuple(scores), picture_scores(pictures, scenes), pictures)
