"""Line charts drawn with Pillow alone: axes with round ticks, smooth lines, legends."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from .sheet import HAIRLINE, INK, MUTED, PAPER, font, write

OVERSAMPLING = 4
"""Lines are drawn this many times larger and then averaged, which makes them smooth."""
HEADING, LABEL, TICK = 19, 14, 13
"""Sizes of text in pixels."""
MOST_TICKS = 6
LOGARITHMIC_FROM = 20.0
"""The ratio of the largest to the smallest value from which a logarithmic axis reads better."""

Point = tuple[float, float]


class Canvas:
    """A white canvas for lines and text; places and widths are in pixels from the upper left corner.

    Arguments:
        width: Width of the image in pixels.
        height: Height of the image in pixels.
    """

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self._lines = Image.new("RGB", (width * OVERSAMPLING, height * OVERSAMPLING), PAPER)
        self._draw = ImageDraw.Draw(self._lines)
        self._texts: list[tuple[Point, str, float, str, str]] = []

    def line(self, points: Sequence[Point], colour: str, width: float) -> None:
        """Draw a line through the points."""
        scaled = [self._scaled(point) for point in points]
        # Round corners take long and do not show in thin lines.
        joint = "curve" if width >= 2 else None
        self._draw.line(scaled, colour, max(1, round(width * OVERSAMPLING)), joint)

    def dashes(self, start: Point, end: Point, colour: str, width: float = 1.5, dash: float = 6.0) -> None:
        """Draw a dashed line; dashes and spaces are `dash` pixels long."""
        length = math.dist(start, end)
        for number in range(math.ceil(length / dash / 2)):
            ends = (2 * number * dash / length, min(1.0, (2 * number + 1) * dash / length))
            between = [tuple(a + part * (b - a) for a, b in zip(start, end, strict=True)) for part in ends]
            self.line([(x, y) for x, y in between], colour, width)

    def disc(self, centre: Point, radius: float, colour: str) -> None:
        """Draw a filled disc with a thin white rim."""
        x, y = self._scaled(centre)
        size = radius * OVERSAMPLING
        self._draw.ellipse((x - size, y - size, x + size, y + size), colour, PAPER, OVERSAMPLING)

    def text(self, place: Point, text: str, size: float = LABEL, colour: str = INK, anchor: str = "la") -> None:
        """Write text over all lines; `anchor` as Pillow names it."""
        self._texts.append((place, text, size, colour, anchor))

    def image(self) -> Image.Image:
        """The image drawn so far."""
        image = self._lines.reduce(OVERSAMPLING)
        draw = ImageDraw.Draw(image)
        for text in self._texts:
            write(draw, *text)
        return image

    def _scaled(self, point: Point) -> Point:
        return point[0] * OVERSAMPLING, point[1] * OVERSAMPLING


@dataclass(frozen=True)
class Axis:
    """Places values along a line.

    Arguments:
        low: The smallest value; above 0 if the axis is logarithmic.
        high: The largest value, above `low`.
        start: The pixel of `low`.
        end: The pixel of `high`, on either side of `start`.
        logarithmic: Whether equal ratios, not equal differences, are equally far apart.
    """

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def place(self, value: float) -> float:
        """The pixel of a value."""
        scale: Callable[[float], float] = math.log if self.logarithmic else float
        part = (scale(value) - scale(self.low)) / (scale(self.high) - scale(self.low))
        return self.start + part * (self.end - self.start)

    def ticks(self) -> list[float]:
        """At most MOST_TICKS round values on the axis, in order."""
        return _logarithmic_ticks(self.low, self.high) if self.logarithmic else _linear_ticks(self.low, self.high)


@dataclass(frozen=True)
class Series:
    """One line of a chart: points (step, value) in the order of steps; those that are not finite are left out."""

    name: str
    points: Sequence[Point]
    colour: str
    width: float
    dots: bool = False

    def finite(self) -> list[Point]:
        """The points that can be drawn."""
        return [point for point in self.points if math.isfinite(point[1])]


def loss_axis(values: Sequence[float], start: float, end: float) -> Axis:
    """An axis that holds all (finite) values: logarithmic if they are positive and far apart, else linear from 0."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    if low > 0 and high / low >= LOGARITHMIC_FROM:
        return Axis(low / 1.1, high * 1.1, start, end, logarithmic=True)
    low = min(low, 0.0)
    return Axis(low, high + 0.05 * (high - low) if high > low else low + 1.0, start, end)


def draw_axes(canvas: Canvas, title: str, x: Axis, y: Axis) -> None:
    """Draw a title, the axis of steps, the axis of values and a pale grid."""
    canvas.text((0, 0), title, HEADING)
    for value in y.ticks():
        height = y.place(value)
        canvas.line([(x.start, height), (x.end, height)], HAIRLINE, 1)
        canvas.text((x.start - 10, height), f"{value:g}", TICK, MUTED, "rm")
    for value in x.ticks():
        canvas.line([(x.place(value), y.start), (x.place(value), y.start + 5)], MUTED, 1)
        canvas.text((x.place(value), y.start + 9), f"{value:,.0f}", TICK, MUTED, "ma")
    canvas.line([(x.start, y.start), (x.end, y.start)], MUTED, 1)
    canvas.text(((x.start + x.end) / 2, y.start + 29), "step", TICK, MUTED, "ma")


def draw_series(canvas: Canvas, x: Axis, y: Axis, series: Series) -> None:
    """Draw one line, and its points if it has dots; a single point is always drawn."""
    places = [(x.place(step), y.place(value)) for step, value in series.finite()]
    if len(places) > 1:
        canvas.line(places, series.colour, series.width)
    for place in places if series.dots or len(places) == 1 else ():
        canvas.disc(place, 2.6 + series.width / 2, series.colour)


def draw_legend(canvas: Canvas, place: Point, all_series: Sequence[Series]) -> None:
    """Name the lines side by side, from `place` to the right."""
    left, middle = place
    letters = font(LABEL)
    for series in all_series:
        canvas.line([(left, middle), (left + 22, middle)], series.colour, max(series.width, 1.5))
        if series.dots:
            canvas.disc((left + 11, middle), 2.6 + series.width / 2, series.colour)
        canvas.text((left + 29, middle), series.name, LABEL, MUTED, "lm")
        left += 29 + letters.getlength(series.name) + 24


def _linear_ticks(low: float, high: float) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten."""
    least = (high - low) / (MOST_TICKS - 1)
    power = 10.0 ** math.floor(math.log10(least))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def _logarithmic_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times the powers of ten; if those are too many, the powers alone, or every n-th of them."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 2, 5), (1,)):
        ticks = [factor * 10.0**power for power in powers for factor in factors]
        inside = [tick for tick in ticks if low <= tick <= high]
        if len(inside) <= MOST_TICKS:
            return inside
    return inside[:: math.ceil(len(inside) / MOST_TICKS)]
