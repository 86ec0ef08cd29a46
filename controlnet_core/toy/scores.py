"""How well drawn pictures of shapes follow the scenes of their hints."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import TensorShapeError
from .detector import find_masks, recognise
from .drawing import masks
from .scenes import Scenes


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


def picture_scores(images: Tensor, scenes: Scenes) -> dict[str, float]:
    """Measure pictures (N, 3, size, size) in [0, 1] apart from following.

    Returns:
        `colour`, `background` and `shape`: the fraction of the pictures that show what their caption says; `clarity`:
        how good the pictures are, whatever they show. All from 0 to 1.
    """
    found, truth = recognise(images), scenes.to(images.device)
    return {
        "colour": _share(found.colour == truth.colour),
        "background": _share(found.background == truth.background),
        "shape": _share(found.shape == truth.shape),
        "clarity": float(clarity(images).mean()),
    }


def clarity(images: Tensor) -> Tensor:
    """Score how good pictures are as pictures of one flat shape on a flat ground, whatever shape and colours.

    It is the share of a picture's variance that two colours explain, one in the shape that is found and one around it:
    noise, blotches and fog leave much unexplained.

    Arguments:
        images: (N, 3, H, W) in [0, 1].

    Returns:
        (N,) in [0, 1]; 0 where no shape is found.
    """
    pixels = images.double().flatten(2)
    inside = find_masks(images).flatten(1)[:, None]
    unexplained = _squared_distances(pixels, inside) + _squared_distances(pixels, ~inside)
    total = _squared_distances(pixels, torch.ones_like(inside))
    found = inside.flatten(1).any(1)
    return torch.where(found, 1 - unexplained / total.clamp(min=1e-12), 0.0).clamp(0, 1).float()


def _squared_distances(pixels: Tensor, where: Tensor) -> Tensor:
    """The summed squared distances from their mean colour of the pixels (N, 3, P) in `where` (N, 1, P): (N,)."""
    mean = (pixels * where).sum(2, keepdim=True) / where.sum(2, keepdim=True).clamp(min=1)
    return ((pixels - mean).square() * where).sum((1, 2))


def _share(right: Tensor) -> float:
    return float(right.float().mean())
