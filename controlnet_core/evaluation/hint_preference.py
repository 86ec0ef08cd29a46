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
from ..objective import Batch, control_errors
from ..sampling.generate import SamplingSettings
from .validation import Evaluation, Levels, draw_hints, drawing_cost, pictures_per_batch

MOMENTS = (0.5, 0.65, 0.8, 0.95)
"""Fractions of the noise schedule at which the two hints are compared."""
COMPARED = 0.9
"""What comparing both hints of one pair at one moment costs, in pairs of a training step."""


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
        pictures: How many hints are drawn, or all if there are fewer.
    """

    base: Base
    pairs: Subset
    sampling: SamplingSettings
    side: Side = "both"
    pictures: int = 4

    @property
    def cost(self) -> float:
        """About how many pairs a net could be trained on in the time of one evaluation."""
        drawn = drawing_cost(min(self.pictures, len(self.pairs)), self.sampling)
        return drawn + COMPARED * len(MOMENTS) * len(self.pairs)

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
        own, other = self._losses(net)
        preferred = (own < other).float() + 0.5 * (own == other)
        saved = {"loss_saved": 1 - float(own.mean() / other.mean())}
        hints, captions = self.hints[: self.pictures], self.captions[: self.pictures]
        pictures = draw_hints(self.base, net, hints, captions, self.sampling, self.side, progress)
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

    @torch.no_grad()
    def _losses(self, net: ControlNet) -> Tensor:
        """The loss of each pair with its own hint and with another's at each moment, shape (2, moments, N)."""
        height, width = self.hints.shape[-2:]
        parts = torch.arange(len(self.pairs)).split(pictures_per_batch(height, width))
        losses = [torch.cat([self._part(net, rows, moment) for rows in parts], dim=1) for moment in MOMENTS]
        return torch.stack(losses, dim=1)

    def _part(self, net: ControlNet, rows: Tensor, moment: float) -> Tensor:
        """The losses of some pairs with both hints at one moment, shape (2, N)."""
        device, schedule = self.base.device, self.base.schedule
        timestep = int(moment * len(schedule.alphas_cumprod))
        shape = self._latents.shape[1:]
        keys = [keyed_generator("validation noise", self.sampling.seed, row, timestep) for row in rows.tolist()]
        batch = Batch(
            latents=self._latents[rows].to(device),
            noise=torch.stack([torch.randn(shape, generator=generator) for generator in keys]).to(device),
            timesteps=torch.full((len(rows),), timestep, device=device),
            hints=self.hints[rows].to(device),
            text=self._text[rows].to(device),
        )
        other = self.hints.roll(1, 0)[rows].to(device)
        errors = control_errors(self.base.unet, net, batch, schedule, self.base.prediction, [batch.hints, other])
        return torch.stack(errors).cpu()
