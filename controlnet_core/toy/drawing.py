"""Draws scenes: pictures, masks, outline hints and colour map hints, all from one exact signed distance.

Each shape is symmetric under rotations by 2 pi / k and under mirrors, so a pixel is folded into one wedge of its shape,
where the boundary is at most two straight segments. At 128 x 128 one CPU thread draws about 2,000 pictures, or 1,400
outlines, a second.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from .scenes import LONGEST_STROKE, SHAPES, Scenes, palette

LINE_WIDTH = 1.25
"""Width of outlines and strokes in pixels, at any size of the picture."""
STAR_NOTCH = 0.45
"""The radius of a star's inner corners; its tips are at 1."""
COLOUR_CELLS = 4

Corners = tuple[tuple[float, float], tuple[float, float], tuple[float, float]]


def images(scenes: Scenes, size: int, device: torch.device | str | None = None) -> Tensor:
    """Draw the scenes, anti-aliased, as (N, 3, size, size) float32 in [0, 1]."""
    return _in_parts(_images, scenes, size, device)


def masks(scenes: Scenes, size: int, device: torch.device | str | None = None) -> Tensor:
    """Mark the pixels whose centre lies in the shape, as (N, size, size) bool."""
    return _in_parts(_masks, scenes, size, device)


def outlines(scenes: Scenes, size: int, device: torch.device | str | None = None) -> Tensor:
    """Draw the outline hints: thin white lines on black, with the gaps and stray strokes of a photograph's edges.

    Returns:
        (N, 3, size, size) float32 in [0, 1], three equal channels.
    """
    return _in_parts(_outlines, scenes, size, device)


def colour_maps(scenes: Scenes, size: int, device: torch.device | str | None = None) -> Tensor:
    """Draw the colour map hints: the picture averaged over 4 x 4 cells, as (N, 3, size, size) in [0, 1]."""
    cells = functional.adaptive_avg_pool2d(images(scenes, size, device), COLOUR_CELLS)
    return functional.interpolate(cells, size=(size, size), mode="nearest")


def _in_parts(
    draw: Callable[[Scenes, int], Tensor], scenes: Scenes, size: int, device: torch.device | str | None
) -> Tensor:
    """Draw a few scenes at a time: on a CPU as many as fit its cache, on a GPU as many as fit next to a model."""
    scenes = scenes.to(device)
    pixels = 1 << 17 if scenes.centre.device.type == "cpu" else 1 << 22
    count = max(1, pixels // size**2)
    first = draw(scenes[:count], size)
    drawn = first.new_empty(len(scenes), *first.shape[1:])
    drawn[:count] = first
    for start in range(count, len(scenes), count):
        drawn[start : start + count] = draw(scenes[start : start + count], size)
    return drawn


def _images(scenes: Scenes, size: int) -> Tensor:
    distance, _, _ = _distances(scenes, size)
    coverage = (0.5 - distance).clamp_(0, 1)[:, None]
    colours = palette(distance.device)[:, :, None, None]
    return torch.lerp(colours[scenes.background], colours[scenes.colour], coverage)


def _masks(scenes: Scenes, size: int) -> Tensor:
    distance, _, _ = _distances(scenes, size)
    return distance < 0


def _outlines(scenes: Scenes, size: int) -> Tensor:
    distance, reach, angle = _distances(scenes, size)
    line = _line_coverage(distance.abs_())
    for gaps in scenes.gaps.unbind(1):
        rows = gaps[:, 1].nonzero()[:, 0]
        direction, half_width = gaps[rows, :, None, None].unbind(1)
        away = (torch.remainder(angle[rows] - direction + math.pi, 2 * math.pi) - math.pi).abs_()
        line[rows] *= ((away - half_width) * reach[rows] + 0.5).clamp_(0, 1)
    return _with_strokes(line, scenes.strokes, size)[:, None].expand(-1, 3, -1, -1)


def _line_coverage(distance: Tensor) -> Tensor:
    return (0.5 + LINE_WIDTH / 2 - distance).clamp_(0, 1)


def _distances(scenes: Scenes, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Measure from every pixel: the signed distance to the boundary (negative inside), the centre's distance and angle.

    Returns:
        Three (N, size, size) tensors: pixels, pixels, radians.
    """
    device = scenes.centre.device
    grid = torch.arange(size, device=device) + 0.5
    x, y = (grid - scenes.centre[..., None] * size).unbind(1)
    x, y = x[:, None, :], y[:, :, None]
    reach, angle = torch.hypot(x, y), torch.atan2(y, x)
    radius = (scenes.radius * size)[:, None, None]

    wedges = _wedges()
    sector = torch.tensor([2 * math.pi / folds for folds, _ in wedges], device=device)[scenes.shape][:, None, None]
    folded = torch.remainder(angle - scenes.rotation[:, None, None], sector)
    folded = torch.minimum(folded, sector - folded)
    u, v = reach * folded.cos(), reach * folded.sin()

    corners = torch.tensor([corners for _, corners in wedges], device=device)[scenes.shape] * radius
    first, second, third = corners[..., None, None].unbind(1)
    near, outside = _segment(u, v, first, second)
    crosses = (scenes.shape == SHAPES.index("cross")).nonzero()[:, 0]
    if len(crosses):
        other, beyond = _segment(u[crosses], v[crosses], second[crosses], third[crosses])
        near[crosses] = torch.minimum(near[crosses], other)
        outside[crosses] |= beyond
    distance = torch.where(outside, near, -near)
    circles = scenes.shape == SHAPES.index("circle")
    return torch.where(circles[:, None, None], reach - radius, distance), reach, angle


def _wedges() -> list[tuple[int, Corners]]:
    """Give each shape's number of rotations, and its boundary in one wedge from angle 0 to pi / k, for area pi.

    The boundary runs counter-clockwise through three corners, the last two equal where one segment is enough.
    A circle needs none: its corners are never used.
    """
    natural = {
        "circle": _tip_to_notch(4, 1.0),
        "triangle": _tip_to_notch(3, math.cos(math.pi / 3)),
        "square": _tip_to_notch(4, math.cos(math.pi / 4)),
        "star": _tip_to_notch(5, STAR_NOTCH),
        "cross": (4, ((3.0, 0.0), (3.0, 1.0), (1.0, 1.0))),
    }
    return [(folds, _with_area_pi(folds, corners)) for folds, corners in (natural[shape] for shape in SHAPES)]


def _tip_to_notch(folds: int, notch: float) -> tuple[int, Corners]:
    """Start at a tip at radius 1 and end at radius `notch` half a turn of 2 pi / folds further."""
    end = (notch * math.cos(math.pi / folds), notch * math.sin(math.pi / folds))
    return folds, ((1.0, 0.0), end, end)


def _with_area_pi(folds: int, corners: Corners) -> Corners:
    (a, b), (c, d), (e, f) = corners
    area = folds * (a * d - b * c + c * f - d * e)
    scale = math.sqrt(math.pi / area)
    return (a * scale, b * scale), (c * scale, d * scale), (e * scale, f * scale)


def _segment(u: Tensor, v: Tensor, start: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    """Measure the distance of (u, v) to a segment, and mark the points to the right of its line."""
    edge_u, edge_v = (end - start).unbind(1)
    u, v = u - start[:, 0], v - start[:, 1]
    along = ((u * edge_u + v * edge_v) / (edge_u**2 + edge_v**2)).clamp_(0, 1)
    return torch.hypot(u - along * edge_u, v - along * edge_v), edge_u * v < edge_v * u


def _with_strokes(line: Tensor, strokes: Tensor, size: int) -> Tensor:
    """Paste each stroke, drawn in a small window of its own, into the (N, size, size) coverage `line`."""
    scene, slot = strokes[..., 3].nonzero().unbind(1)
    middle, direction, length, bow = torch.split(strokes[scene, slot], [2, 1, 1, 1], dim=1)
    middle, half, bow = middle * size, length[..., None] * size / 2, bow[..., None]

    side = math.ceil(LONGEST_STROKE * size) + 4
    window = torch.arange(side, device=line.device) - side // 2
    columns, rows = (middle.long()[..., None] + window).unbind(1)
    x, y = (columns + 0.5 - middle[:, :1])[:, None, :], (rows + 0.5 - middle[:, 1:])[:, :, None]
    cos, sin = direction.cos()[..., None], direction.sin()[..., None]
    along, across = x * cos + y * sin, y * cos - x * sin

    # Distance to the arc bow * 2 * half * (1 - s^2), to first order: the offset across, over the slope's length.
    s = (along / half).clamp(-1, 1)
    off = (across - 2 * bow * half * (1 - s**2)) * (1 + (4 * bow * s) ** 2).rsqrt()
    coverage = _line_coverage(torch.hypot(along - half * s, off))

    seen = _within(rows, size)[:, :, None] & _within(columns, size)[:, None, :]
    pixel = (scene[:, None, None] * size + rows[:, :, None]) * size + columns[:, None, :]
    return line.flatten().scatter_reduce(0, pixel[seen], coverage[seen], "amax").view_as(line)


def _within(index: Tensor, size: int) -> Tensor:
    return (index >= 0) & (index < size)
