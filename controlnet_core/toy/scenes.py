"""The shapes generator: endless captioned scenes, each of one coloured shape on a coloured background.

A scene is a handful of numbers; `drawing` turns them into pictures. Training and held-out scenes are disjoint by
construction: the centre of a shape falls into one cell of a fine grid over the picture, and the cells with
(2 * column + row) % 5 == 0 belong to the held-out scenes, all others to training. Every held-out cell is surrounded
by training cells, and the centre of a scene alone tells its side.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from types import MappingProxyType

import torch
from torch import Tensor

SHAPES = ("circle", "triangle", "square", "star", "cross")

PALETTE = MappingProxyType(
    {
        "red": (0.92, 0.02, 0.08),
        "orange": (1.00, 0.54, 0.00),
        "yellow": (1.00, 0.97, 0.25),
        "green": (0.05, 0.72, 0.15),
        "cyan": (0.10, 0.90, 1.00),
        "blue": (0.02, 0.25, 1.00),
        "purple": (0.50, 0.05, 0.70),
        "pink": (1.00, 0.45, 0.76),
        "brown": (0.46, 0.28, 0.04),
        "black": (0.00, 0.00, 0.00),
        "white": (1.00, 1.00, 1.00),
        "grey": (0.52, 0.54, 0.54),
    }
)
"""RGB of every named colour, in [0, 1]; any two are at least 0.49 apart, so a shape always stands out."""

COLOURS = tuple(PALETTE)

PHRASINGS = (
    "{colour} {shape} on {background} background",
    "{colour} {shape} in front of {background} background",
    "{colour} {shape}, {background} background",
    "{colour} {shape} on {background}",
    "{background} background with {colour} {shape}",
)
ARTICLES = (True, True, False, False, True)
"""Whether a phrasing has articles: "a red circle" and "a blue background", not "red circle" and "blue background"."""

SMALLEST_RADIUS, LARGEST_RADIUS = 0.14, 0.28
CIRCUMRADII = (1.0, 1.5552, 1.2534, 1.5413, 1.2534)
"""How far each shape reaches from its centre, in radii of the circle of the same area."""
MARGIN = 0.03
"""The least distance of a shape from the border, as a fraction of the side."""

CELLS = 64
LATTICE = 5
MOST_GAPS = 3
MOST_STROKES = 8
LONGEST_STROKE = 0.18
UNCLUTTERED = 0.4
"""The share of scenes whose hint is the bare outline."""

UNIFORMS_PER_SCENE = 12 + 2 * MOST_GAPS + 5 * MOST_STROKES


@dataclass(frozen=True, eq=False)
class Scenes:
    """N scenes as a struct of tensors, the first dimension of each being N. Fractions are of the picture's side.

    Attributes:
        shape: (N,) index into SHAPES.
        colour: (N,) index into COLOURS, of the shape.
        background: (N,) index into COLOURS, never equal to `colour`.
        phrasing: (N,) index into PHRASINGS.
        centre: (N, 2) fractions x (to the right) and y (down).
        radius: (N,) fraction; that of the circle with the area of the shape, so all shapes are comparable in area.
        rotation: (N,) radians, clockwise on the screen; at 0 a corner (of a cross: an arm) points to the right.
        gaps: (N, MOST_GAPS, 2) direction from the centre and half width, in radians, of what is missing from the
            outline hint; half width 0 is no gap.
        strokes: (N, MOST_STROKES, 5) stray strokes of the outline hint: x and y of the middle, direction (radians),
            length (fraction; 0 is no stroke), bow (height of the arc as a fraction of the length, of either sign).
    """

    shape: Tensor
    colour: Tensor
    background: Tensor
    phrasing: Tensor
    centre: Tensor
    radius: Tensor
    rotation: Tensor
    gaps: Tensor
    strokes: Tensor

    def __len__(self) -> int:
        return len(self.shape)

    def __getitem__(self, rows: slice | Tensor) -> Scenes:
        """Select scenes by a slice, a tensor of indices or a boolean mask."""
        return Scenes(*(getattr(self, field.name)[rows] for field in fields(self)))

    def to(self, device: torch.device | str | None) -> Scenes:
        """Move every tensor to `device`; None leaves them where they are."""
        return self if device is None else Scenes(*(getattr(self, field.name).to(device) for field in fields(self)))


def palette(device: torch.device | str | None = None) -> Tensor:
    """Return the colours of COLOURS as RGB in [0, 1], of shape (12, 3)."""
    return torch.tensor(tuple(PALETTE.values()), device=device)


def draw_scenes(count: int, generator: torch.Generator, held_out: bool = False) -> Scenes:
    """Draw `count` scenes; a seed of the generator always gives the same bits. About 5 microseconds a scene in batches.

    Arguments:
        count: How many.
        generator: A CPU generator; it advances by UNIFORMS_PER_SCENE numbers a scene.
        held_out: Draw centres from the held-out cells, instead of from the training cells.
    """
    return scenes_from_uniforms(torch.rand(count, UNIFORMS_PER_SCENE, generator=generator), held_out)


def scenes_from_uniforms(uniforms: Tensor, held_out: bool = False) -> Scenes:
    """Turn rows of uniform numbers into scenes, row by row.

    Arguments:
        uniforms: (N, UNIFORMS_PER_SCENE) float32 in [0, 1).
        held_out: Use the held-out cells, instead of the training cells.
    """
    single, gaps, strokes = torch.split(uniforms, [12, 2 * MOST_GAPS, 5 * MOST_STROKES], dim=1)
    shape = (single[:, 0] * len(SHAPES)).long()
    colour = (single[:, 1] * len(COLOURS)).long()
    background = (colour + 1 + (single[:, 2] * (len(COLOURS) - 1)).long()) % len(COLOURS)
    radius = SMALLEST_RADIUS + (LARGEST_RADIUS - SMALLEST_RADIUS) * single[:, 3]
    reach = radius * torch.tensor(CIRCUMRADII)[shape]
    centre = _centres(reach + MARGIN, single[:, 4:8], held_out)
    clutter = ((single[:, 10] - UNCLUTTERED) / (1 - UNCLUTTERED)).clamp(min=0)
    return Scenes(
        shape=shape,
        colour=colour,
        background=background,
        phrasing=(single[:, 8] * len(PHRASINGS)).long(),
        centre=centre,
        radius=radius,
        rotation=2 * math.pi * single[:, 9],
        gaps=_gaps(clutter, gaps.reshape(-1, MOST_GAPS, 2)),
        strokes=_strokes(clutter, centre, radius, strokes.reshape(-1, MOST_STROKES, 5)),
    )


def is_held_out(scenes: Scenes) -> Tensor:
    """Tell from the centres alone which scenes training never draws: (N,) bool."""
    column, row = (scenes.centre * CELLS).long().unbind(1)
    return (2 * column + row) % LATTICE == 0


def captions(scenes: Scenes) -> list[str]:
    """Describe each scene, such as "a red circle on a blue background"."""
    columns = (scenes.phrasing, scenes.colour, scenes.shape, scenes.background)
    return [_caption(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]


def _caption(phrasing: int, colour: int, shape: int, background: int) -> str:
    name = _with_article if ARTICLES[phrasing] else str
    return PHRASINGS[phrasing].format(
        colour=name(COLOURS[colour]), shape=SHAPES[shape], background=name(COLOURS[background])
    )


def _with_article(colour: str) -> str:
    return f"an {colour}" if colour[0] in "aeiou" else f"a {colour}"


def _centres(clearance: Tensor, uniforms: Tensor, held_out: bool) -> Tensor:
    """Draw centres (N, 2) at least `clearance` (N,) from every border, in cells of one side of the split."""
    first = (clearance * CELLS).ceil().long()
    count = CELLS - 2 * first
    column = first + (uniforms[:, 0] * count).long()
    # Rows offset, offset + 5, ... of the allowed ones are held out; `count` is never below 5, so both sides have some.
    offset = -(2 * column + first) % LATTICE
    kept_out = (count - 1 - offset) // LATTICE + 1
    if held_out:
        row = first + offset + LATTICE * (uniforms[:, 1] * kept_out).long()
    else:
        rank = (uniforms[:, 1] * (count - kept_out)).long()
        row = first + rank + (rank - offset + LATTICE - 1) // (LATTICE - 1)
    # Keep away from the edges of the cell, where rounding could move a centre to the other side of the split.
    jitter = 0.05 + 0.9 * uniforms[:, 2:4]
    return (torch.stack((column, row), 1) + jitter) / CELLS


def _gaps(clutter: Tensor, uniforms: Tensor) -> Tensor:
    slot = torch.arange(MOST_GAPS)
    present = slot < (clutter * MOST_GAPS).round()[:, None]
    half_width = present * (0.04 + 0.18 * uniforms[..., 1])
    return torch.stack((2 * math.pi * uniforms[..., 0], half_width), -1)


def _strokes(clutter: Tensor, centre: Tensor, radius: Tensor, uniforms: Tensor) -> Tensor:
    """Place every third stroke inside the shape, no longer than its radius, and the others anywhere."""
    place, direction, length, bow = torch.split(uniforms, [2, 1, 1, 1], dim=-1)
    angle, distance = 2 * math.pi * place[..., 0], 0.7 * radius[:, None] * place[..., 1].sqrt()
    inside = centre[:, None] + distance[..., None] * torch.stack((angle.cos(), angle.sin()), -1)
    slot = torch.arange(MOST_STROKES)[None, :, None]
    present = slot < (clutter * MOST_STROKES).ceil()[:, None, None]
    length = 0.03 + (LONGEST_STROKE - 0.03) * length.square()
    length = torch.where(slot % 3 == 1, length.minimum(radius[:, None, None]), length)
    middle = torch.where(slot % 3 == 1, inside, place)
    return torch.cat((middle, 2 * math.pi * direction, present * length, 0.5 * bow - 0.25), -1)
