"""Measures following where no detector exists: does a net prefer a picture's own hint to another picture's?

Both hints are tried on held-out pairs with the same noise, at timesteps at which noise hides most of the picture. A net
that ignores its hints has the same loss with both; one that follows them has the lower loss with the picture's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..base import Base, TextEmbeddings
from ..control.curves import Side
from ..data.dataset import Progress
from ..data.held_out import Subset
from ..keyed import keyed_generator
from ..model.controlnet import ControlNet
from ..objective import Batch, control_loss
from ..sampling.generate import SamplingSettings
from .validation import Evaluation, Levels, draw_hints, pictures_per_batch

MOMENTS = (0.5, 0.65, 0.8, 0.95)
"""Fractions of the noise schedule at which the two hints are compared."""


@dataclass(frozen=True, eq=False)
class HintPreferenceValidation:
    """Following on held-out pairs of any kind of hint: always the same pairs and noise.

    The following score is the share of comparisons in which the picture's own hint has the lower loss; equal losses
    count as half.

    Arguments:
        base: The base that draws.
        pairs: The held-out pairs, at least 2.
        sampling: How to draw the samples; its seed draws the noise.
        side: The side of guidance that control acts on in the samples.
    """

    base: Base
    pairs: Subset
    sampling: SamplingSettings
    side: Side = "both"

    @property
    def ceiling_label(self) -> str:
        """What the ceiling is, for reports."""
        return "every hint known"

    @cached_property
    def hints(self) -> Tensor:
        """The hints, shape (N, 3, H, W)."""
        return self.pairs.hints(range(len(self.pairs)))

    @cached_property
    def captions(self) -> list[str]:
        """The captions."""
        return [self.pairs[index].caption for index in range(len(self.pairs))]

    def levels(self, progress: Progress | None = None) -> Levels:
        """A net that ignores hints prefers a picture's own in half of the comparisons; at best, in all."""
        return Levels(without_control=0.5, ceiling=1.0)

    def evaluate(self, net: ControlNet, progress: Progress | None = None) -> Evaluation:
        """Compare the losses with both hints, and draw the pictures' own hints with their captions."""
        own, other = self._losses(net, self.hints), self._losses(net, self.hints.roll(1, 0))
        preferred = (own < other).double() + 0.5 * (own == other)
        saved = {"loss_saved": 1 - float(own.mean() / other.mean())}
        pictures = draw_hints(self.base, net, self.hints, self.captions, self.sampling, self.side, progress)
        return Evaluation(tuple(preferred.mean(0).tolist()), saved, pictures)

    @cached_property
    def _latents(self) -> Tensor:
        """The pictures' latents, without the autoencoder's noise, shape (N, C, h, w)."""
        images = torch.stack([self.pairs[index].image for index in range(len(self.pairs))])
        parts = images.split(pictures_per_batch(images.shape[-2], images.shape[-1]))
        return torch.cat([self.base.encode_images(part).mean.float() for part in parts])

    @cached_property
    def _text(self) -> TextEmbeddings:
        """The embedded captions."""
        height, width = self.hints.shape[-2:]
        return self.base.encode_text(self.captions, (height, width))

    def _losses(self, net: ControlNet, hints: Tensor) -> Tensor:
        """The loss of each pair with its row of `hints` at each moment, shape (moments, N)."""
        rows = range(len(self.pairs))
        return torch.tensor([[self._loss(net, hints, row, moment) for row in rows] for moment in MOMENTS]).double()

    @torch.no_grad()
    def _loss(self, net: ControlNet, hints: Tensor, row: int, moment: float) -> float:
        """The loss of one pair with one hint at one moment."""
        device, schedule = self.base.device, self.base.schedule
        timestep = int(moment * len(schedule.alphas_cumprod))
        latents = self._latents[row : row + 1]
        generator = keyed_generator("validation noise", self.sampling.seed, row, timestep)
        noise = torch.randn(latents.shape, generator=generator)
        batch = Batch(
            latents=latents.to(device),
            noise=noise.to(device),
            timesteps=torch.tensor([timestep], device=device),
            hints=hints[row : row + 1].to(device),
            text=self._text[row : row + 1].to(device),
        )
        return float(control_loss(self.base.unet, net, batch, schedule, self.base.prediction))
