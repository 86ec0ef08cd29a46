"""Photographs as a task for nets on the small base: crops of scikit-image's pictures, with edges or a blur as hints.

The small base has never seen a photograph, so a net has to learn everything itself. Following is measured by making the
hint of a drawing again: edges are compared by F1, where an edge counts as found within a pixel, and blurred pictures by
structural similarity. A drawing full of edges finds those of any hint, so the score is how much better a drawing fits
its own hint than another picture's: 0 is chance. The task is meaningful only if encoded and decoded photographs score
much better than drawings without control: see `usable`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Literal

import numpy
import skimage
import torch
from PIL import Image
from skimage.metrics import structural_similarity
from torch import Tensor
from torch.nn import functional

from benchmarks.seeded_runs import DRAWN_AS, Scores
from controlnet_core.base import Base
from controlnet_core.data.dataset import PairDataset
from controlnet_core.data.hints import HintMaker
from controlnet_core.data.in_memory import InMemoryDataset
from controlnet_core.evaluation.validation import draw_hints, pictures_per_batch
from controlnet_core.keyed import keyed_generator
from controlnet_core.model.controlnet import ControlNet
from controlnet_core.sampling.generate import SamplingSettings
from controlnet_core.weights.load_base import load_base

TRAINING = ("astronaut", "brick", "camera", "coins", "grass", "gravel", "moon", "rocket", "retina", "ihc")
HELD_OUT = ("chelsea", "coffee", "motorcycle_left")
"""Files of scikit-image; the held-out crops are of other pictures than the training crops."""
SMALLEST_CROP, LARGEST_CROP = 96, 256
"""Sides in pixels of what becomes a picture of the base's size."""
CROPS = 2000
LEAST_LEAD = 0.2
EDGE_TOLERANCE = 1
BLUR = 3.0
LEVELS = 0.5
"""The least value of an edge pixel in an edge hint."""


@dataclass(frozen=True)
class PhotographsTask:
    """Crops of photographs, drawn without a prompt.

    Attributes:
        kind: The hint: "canny" or "blur".
        hints: How many hints are drawn.
    """

    kind: Literal["canny", "blur"]
    hints: int = 32

    @property
    def name(self) -> str:
        """Its name in files."""
        return f"photographs_{self.kind}{self.hints}_lead"

    @cached_property
    def base(self) -> Base:
        """The small base."""
        return load_base("tiny")

    @property
    def maker(self) -> HintMaker:
        """What makes the hints."""
        return HintMaker(self.kind, blur=BLUR)

    def pairs(self) -> PairDataset:
        """The pairs to train on."""
        return self._pairs(TRAINING, CROPS)

    @cached_property
    def held_out(self) -> InMemoryDataset:
        """The pairs that are drawn."""
        return self._pairs(HELD_OUT, self.hints)

    def score(self, net: ControlNet | None) -> Scores:
        """Draw held-out hints with a net, or without control, and score the drawings."""
        rows = range(self.hints)
        sampling = SamplingSettings(DRAWN_AS.sampling_steps, DRAWN_AS.guidance)
        prompts = [""] * self.hints
        return self._scored(
            draw_hints(self.base, net, self.held_out.hints(rows), prompts, sampling, DRAWN_AS.side)
        )

    def ceiling(self) -> float:
        """The score of encoded and decoded true pictures."""
        images = torch.stack([self.held_out[row].image for row in range(self.hints)])
        parts = images.split(pictures_per_batch(*images.shape[-2:]))
        decoded = [self.base.decode_latents(self.base.encode_images(part).mean) for part in parts]
        return float(self._scored(torch.cat(decoded))["following"])

    def usable(self) -> bool:
        """Whether the base's autoencoder shows enough of photographs for the task to count."""
        return self.ceiling() - float(self.score(None)["following"]) >= LEAST_LEAD

    def _pairs(self, names: Sequence[str], count: int) -> InMemoryDataset:
        side = self.base.family.image_size
        images = torch.cat([crop(photograph(names[row % len(names)]), side, row, names[0]) for row in range(count)])
        return InMemoryDataset(images, torch.cat([self.maker(image[None]) for image in images]), "")

    def _scored(self, pictures: Tensor) -> Scores:
        hints = self.held_out.hints(range(self.hints))
        remade = torch.cat([self.maker(picture[None]) for picture in pictures.cpu()])
        compare = edge_f1 if self.kind == "canny" else similarity
        own, other = (
            [compare(found, wanted) for found, wanted in zip(remade, wanted_hints, strict=True)]
            for wanted_hints in (hints, hints.roll(1, 0))
        )
        scores = [score - chance for score, chance in zip(own, other, strict=True)]
        return {"following": fmean(scores), "scores": scores, "own": fmean(own)}


def photograph(name: str) -> Tensor:
    """One of scikit-image's pictures, as (1, 3, H, W) in [0, 1]."""
    folder = Path(skimage.__file__).parent / "data"
    path = next(path for path in (folder / f"{name}.png", folder / f"{name}.jpg") if path.exists())
    with Image.open(path) as image:
        pixels = numpy.asarray(image.convert("RGB"))
    return torch.from_numpy(pixels.copy()).movedim(-1, 0)[None] / 255


def crop(picture: Tensor, side: int, *key: int | str) -> Tensor:
    """Cut a square out of a picture (1, 3, H, W), as a key says, and shrink it to (1, 3, side, side)."""
    generator = keyed_generator("crop", *key)
    size, across, down = torch.rand(3, generator=generator).tolist()
    height, width = picture.shape[-2:]
    length = min(height, width, round(SMALLEST_CROP + size * (LARGEST_CROP - SMALLEST_CROP)))
    top, left = int(down * (height - length + 1)), int(across * (width - length + 1))
    cut = picture[:, :, top : top + length, left : left + length]
    return functional.interpolate(cut, size=(side, side), mode="bilinear", antialias=True).clamp(0, 1)


def edge_f1(found: Tensor, wanted: Tensor) -> float:
    """F1 of edges (3, H, W): the harmonic mean of the shares of either's edges that the other has within a pixel."""
    edges = [(hint[:1] >= LEVELS).float()[None] for hint in (found, wanted)]
    near = [functional.max_pool2d(edge, 2 * EDGE_TOLERANCE + 1, 1, EDGE_TOLERANCE) for edge in edges]
    matches = [(edges[0] * near[1]).sum(), (edges[1] * near[0]).sum()]
    precision, recall = (float(match / edge.sum().clamp(min=1)) for match, edge in zip(matches, edges, strict=True))
    return 2 * precision * recall / max(1e-9, precision + recall)


def similarity(found: Tensor, wanted: Tensor) -> float:
    """Structural similarity (Wang et al. 2004) of two pictures (3, H, W) in [0, 1]."""
    compare: Callable[..., float] = structural_similarity
    return float(compare(found.numpy(), wanted.numpy(), channel_axis=0, data_range=1.0))
