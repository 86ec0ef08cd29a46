"""How well drawn pictures of shapes follow the scenes they were asked for."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..data.drawing import masks
from ..data.shapes import Scenes
from ..errors import TensorShapeError
from .detect_shapes import find_masks, recognise


@dataclass(frozen=True)
class CaptionAccuracy:
    """Fractions, 0 to 1, of the pictures that show what their captions say."""

    colour: float
    background: float
    shape: float


def intersection_over_union(found: Tensor, truth: Tensor) -> Tensor:
    """Compare masks (N, H, W) bool: the common area over the united one, (N,) in [0, 1]; two empty masks agree.

    Raises:
        TensorShapeError: If the shapes differ.
    """
    if found.shape != truth.shape:
        raise TensorShapeError(
            f"masks {tuple(found.shape)} and truth {tuple(truth.shape)}", "equal shapes", "compare at one size"
        )
    common = (found & truth).flatten(1).sum(1)
    united = (found | truth).flatten(1).sum(1)
    return (common / united.clamp(min=1)).masked_fill(united == 0, 1.0)


def following_scores(images: Tensor, scenes: Scenes) -> Tensor:
    """Score how well pictures follow their hints: IoU of the mask found in each picture with the scene's.

    Arguments:
        images: (N, 3, size, size) in [0, 1]; the detector sees nothing else.
        scenes: The N scenes that the hints were drawn from.

    Returns:
        (N,) in [0, 1] on the device of `images`; their mean is the following score.
    """
    return intersection_over_union(find_masks(images), masks(scenes, images.shape[-1], images.device))


def caption_accuracy(images: Tensor, scenes: Scenes) -> CaptionAccuracy:
    """Tell how often pictures (N, 3, size, size) in [0, 1] show the colour, background and shape of their captions."""
    seen, told = recognise(images), scenes.to(images.device)
    return CaptionAccuracy(
        colour=_share(seen.colour == told.colour),
        background=_share(seen.background == told.background),
        shape=_share(seen.shape == told.shape),
    )


def _share(right: Tensor) -> float:
    return float(right.float().mean())
