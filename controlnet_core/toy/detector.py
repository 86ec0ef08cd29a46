"""Finds and names the shape in a drawn picture, from the picture alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn import functional

from ..expect import expect
from .scenes import SHAPES, palette

PART = 16
"""Pictures processed at once: few enough for the cache of a CPU."""
RENAMINGS = 6
"""How often each round of `_largest_region` follows its renamings: chains of up to 2^6, so that few rounds suffice."""
BORDER = 1 / 32
"""Width of the frame that shows the background, as a fraction of the picture's shorter side."""
CONTRAST = 0.2
"""The least distance in RGB of a shape from its background; named colours are more than twice as far apart."""
HARMONICS = (3, 4, 5)
SIGNATURES = MappingProxyType(
    {
        "circle": (0.00, 0.00, 0.00),
        "triangle": (0.55, 0.00, 0.00),
        "square": (0.00, 0.29, 0.00),
        "star": (0.00, 0.00, 0.59),
        "cross": (0.00, 0.49, 0.00),
    }
)
"""The strength of HARMONICS in each shape."""
NOTHING = -1


@dataclass(frozen=True, eq=False)
class Recognised:
    """What N pictures show; shape and colour are NOTHING (-1) where no shape was found.

    Attributes:
        shape: (N,) index into SHAPES.
        colour: (N,) index into COLOURS, of the shape.
        background: (N,) index into COLOURS.
    """

    shape: Tensor
    colour: Tensor
    background: Tensor


def find_masks(images: Tensor) -> Tensor:
    """Find the shape in each picture: the largest connected region that differs from the border's colour.

    The region ends halfway between its colour and the border's, so neither blur nor mild noise moves its boundary.

    Arguments:
        images: (N, 3, H, W) in [0, 1].

    Returns:
        (N, H, W) bool; all False where there is only background.
    """
    expect(images, "N 3 H W", "images")
    return torch.cat([_find_masks(part.float()) for part in torch.split(images, PART)])


def recognise(images: Tensor) -> Recognised:
    """Name the shape and both colours of each picture, from (N, 3, H, W) in [0, 1]."""
    found = find_masks(images)
    names = palette(images.device)
    colour, background = (torch.cdist(_median_colour(images, where), names).argmin(1) for where in (found, ~found))
    nothing = ~found.flatten(1).any(1)
    shape = recognise_shapes(found).masked_fill(nothing, NOTHING)
    return Recognised(shape, colour.masked_fill(nothing, NOTHING), background)


def recognise_shapes(masks: Tensor) -> Tensor:
    """Name the shape of each mask (N, H, W) by the symmetry of its area around its centre: (N,) index into SHAPES."""
    signatures = torch.tensor([SIGNATURES[shape] for shape in SHAPES], device=masks.device)
    return torch.cdist(_harmonics(masks), signatures).argmin(1)


def _find_masks(images: Tensor) -> Tensor:
    offset = images - _border_colour(images)[:, :, None, None]
    distance = offset.square().sum(1).sqrt()
    # The shape's colour is the median of what is clearly not background: neither edges nor an autoencoder's ringing.
    strongest = distance.flatten(1).topk(max(1, distance[0].numel() // 100)).values[:, -1]
    clearly = distance > (0.7 * strongest).clamp(min=CONTRAST)[:, None, None]
    axis = _median_colour(offset, clearly)[:, :, None, None]
    # Without any clear pixel the axis is 0, and nothing is strictly nearer to the shape.
    nearer = (offset * axis).sum(1) > axis.square().sum(1) / 2
    return _largest_region(nearer & (axis != 0).any(1))


def _border_colour(images: Tensor) -> Tensor:
    """Return the median colour of the frame, (N, 3): right as long as a shape covers less than half of it."""
    height, width = images.shape[-2:]
    frame = torch.zeros(height, width, dtype=torch.bool, device=images.device)
    thickness = max(1, round(min(height, width) * BORDER))
    frame[:thickness] = frame[-thickness:] = frame[:, :thickness] = frame[:, -thickness:] = True
    return images[:, :, frame].median(-1).values


def _median_colour(images: Tensor, where: Tensor) -> Tensor:
    """Return the median colour (N, 3) of the pixels at which `where` (N, H, W) is true, 0 if there are none."""
    chosen = images.float().masked_fill(~where[:, None], math.nan)
    return chosen.flatten(2).nanmedian(-1).values.nan_to_num(0.0)


def _largest_region(masks: Tensor) -> Tensor:
    """Keep the largest region of each mask whose pixels touch by sides or corners; (N, H, W) bool.

    Every pixel starts with a number of its own and takes the largest number around it. The number that it gives up is
    renamed everywhere, chains of renamings included, so that a region agrees on one number after a few rounds.
    """
    inside = masks.flatten(1)
    own = torch.arange(inside.shape[1] + 1, device=masks.device).expand(len(masks), -1)
    number = own[:, 1:] * inside
    while True:
        around = _largest_around(number.view_as(masks)).flatten(1) * inside
        renamed = own.scatter_reduce(1, number, around, "amax")
        for _ in range(RENAMINGS):
            renamed = renamed.gather(1, renamed)
        agreed = renamed.gather(1, around)
        if torch.equal(agreed, number):
            break
        number = agreed
    area = torch.zeros_like(own).scatter_add(1, number, inside.long())
    return ((number == area.argmax(1, keepdim=True)) & inside).view_as(masks)


def _largest_around(number: Tensor) -> Tensor:
    """Take the maximum over the 3 x 3 neighbourhood of every pixel of (N, H, W) numbers that are not negative."""
    padded = functional.pad(number, (1, 1, 1, 1))
    rows = padded[:, :-2].maximum(padded[:, 1:-1]).maximum(padded[:, 2:])
    return rows[:, :, :-2].maximum(rows[:, :, 1:-1]).maximum(rows[:, :, 2:])


def _harmonics(masks: Tensor) -> Tensor:
    """Measure how strongly the area repeats k times around its centre, for each k of HARMONICS.

    It is |sum of r^2 exp(i k angle)| / sum of r^2 over the pixels of the mask, r and angle measured from their mean:
    0 to 1, (N, 3), and the same for a shape of any size, place and rotation.
    """
    weight = masks.float()
    x, y = _from_mean(weight.sum(1)), _from_mean(weight.sum(2))
    x, y = x[:, None, :], y[:, :, None]
    moment = weight * (x.square() + y.square())
    angle = torch.atan2(y, x)
    waves = [torch.polar(moment, k * angle).sum((1, 2)).abs() for k in HARMONICS]
    return torch.stack(waves, 1) / moment.sum((1, 2)).clamp(min=1e-6)[:, None]


def _from_mean(weight: Tensor) -> Tensor:
    """Measure the positions in a row of weights (N, L) from their weighted mean: (N, L), in pixels."""
    position = torch.arange(weight.shape[1], device=weight.device, dtype=weight.dtype)
    return position - (weight @ position / weight.sum(1).clamp(min=1))[:, None]
