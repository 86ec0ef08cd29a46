"""The report picture of a training run: its loss, how well it follows its hints, and its samples over time."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, nan
from pathlib import Path
from types import MappingProxyType

import numpy
from PIL import Image
from torch import Tensor

from ..evaluation.convergence import Convergence
from ..expect import expect
from ..pictures.charts import (
    HEADING,
    LABEL,
    Axis,
    Canvas,
    Point,
    Series,
    draw_axes,
    draw_legend,
    draw_series,
    loss_axis,
)
from ..pictures.sheet import ACCENT, INK, MUTED, PADDING, PAPER, ROW_TITLE_WIDTH, font, sheet, wrapped, write_png
from .run_folder import PICTURE

WIDTH, MARGIN, SPACE = 1464, 44, 36
"""Pixels: of the whole picture, around it, and between its parts."""
LOSS_WIDTH, CHART_HEIGHT = 600, 380
PLOT_LEFT, PLOT_TOP, PLOT_BOTTOM = 58, 82, 328
LEGEND_MIDDLE, NOTE_MIDDLE = 40, 66
"""Heights of the rows between the title of a chart and its plot."""
LEVEL_NAMES, NAME_HEIGHT = 156, 50
"""Pixels to the right of the plot for the names of the dashed lines, and the height of a name."""
MOST_COLUMNS = 8
LARGEST_CELL, CELL_GAP = 128, 10
MOST_MEANS = 500
"""Points of the running mean: about as many as the plot has pixels."""
FEWEST_STEPS = 5
"""The shortest axis of steps: its ticks are whole numbers."""

BLUE, PALE_BLUE, GREEN, VIOLET, OCHRE, PALE_ACCENT = "#22609f", "#c3d6ea", "#5fa37f", "#a483b8", "#c9a24b", "#eec3b0"
MEASURES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "colour": ("right colour", GREEN),
        "clarity": ("clear pictures", OCHRE),
        "shape": ("right shape", VIOLET),
        "loss_saved": ("loss saved by own hint", GREEN),
    }
)
"""The label and the colour of each measure that is drawn beside the following score."""


@dataclass(frozen=True, eq=False)
class EvaluationPoint:
    """What one evaluation of a run found.

    Attributes:
        step: The optimizer step it was made at.
        following: The following score, in [0, 1].
        pictures: (K, 3, H, W) in [0, 1], drawn from the report's K hints.
        measures: Other measures, by name; those in `MEASURES` are drawn.
    """

    step: int
    following: float
    pictures: Tensor
    measures: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class ReportData:
    """Everything that a report shows.

    Attributes:
        title: The headline.
        losses: (step, loss) in the order of steps.
        evaluations: In the order of steps.
        hints: (K, 3, H, W) in [0, 1], held out from training; None if nothing was drawn.
        captions: The K captions.
        convergence: Where following begins and how abruptly; None if it does not.
        ceiling: The best possible following score; NaN if unknown.
        ceiling_label: What the ceiling is.
        without_control: The following score of pictures drawn without control; NaN if unknown.
        notes: Lines below the headline.
    """

    title: str
    losses: Sequence[tuple[int, float]]
    evaluations: Sequence[EvaluationPoint] = ()
    hints: Tensor | None = None
    captions: Sequence[str] = ()
    convergence: Convergence | None = None
    ceiling: float = nan
    ceiling_label: str = "encoded and decoded true images"
    without_control: float = nan
    notes: Sequence[str] = ()


def write_report(data: ReportData, folder: str | os.PathLike[str]) -> Path:
    """Draw a report into a run's folder, and return its path.

    Raises:
        RunFolderError: If it cannot be written; an earlier report stays.
        TensorShapeError: If hints, pictures and captions do not fit each other.
    """
    write_png(draw_report(data), path := Path(folder) / PICTURE)
    return path


def draw_report(data: ReportData) -> Image.Image:
    """Draw a report: headline, loss and following score over the steps, and samples over time; the same bits each time.

    Raises:
        TensorShapeError: If hints, pictures and captions do not fit each other.
    """
    if data.hints is not None:
        expect(data.hints, "K 3 H W", "the hints", K=len(data.captions))
    for point in data.evaluations:
        expect(point.pictures, "K 3 h w", f"the pictures of step {point.step}", K=len(data.captions))
    charts = _side_by_side(_loss_chart(data), _following_chart(data))
    samples = [] if data.hints is None else [_samples(data, data.hints)]
    return _stacked([_heading(data), charts, *samples])


def chosen_evaluations(steps: Sequence[int], begins: int | None) -> list[int]:
    """Choose at most MOST_COLUMNS evaluations to show: the first and the last, the one where following begins and the
    one before it, then repeatedly the one farthest from those chosen.

    Returns:
        Indices into `steps`, in order.
    """
    if not steps:
        return []
    chosen = {0, len(steps) - 1}
    if begins in steps:
        place = steps.index(begins)
        chosen |= {place, max(0, place - 1)}
    while len(chosen) < min(MOST_COLUMNS, len(steps)):
        chosen.add(max(range(len(steps)), key=lambda index: min(abs(index - other) for other in chosen)))
    return sorted(chosen)


def running_mean(losses: Sequence[Point], window: int) -> list[Point]:
    """Average losses with their neighbours, an odd `window` in all, fewer near the ends; at most MOST_MEANS of them."""
    sums = numpy.cumsum([0.0, *(loss for _, loss in losses)])
    middle = numpy.linspace(0, len(losses) - 1, min(MOST_MEANS, len(losses))).round().astype(int)
    first, last = (middle - window // 2).clip(0), (middle + window // 2 + 1).clip(max=len(losses))
    means = (sums[last] - sums[first]) / (last - first)
    return [(losses[index][0], mean) for index, mean in zip(middle.tolist(), means.tolist(), strict=True)]


def _heading(data: ReportData) -> Image.Image:
    lines = "\n".join(wrapped(note, LABEL + 1, WIDTH - 2 * MARGIN, 3) for note in data.notes)
    canvas = Canvas(WIDTH - 2 * MARGIN, 44 + (LABEL + 6) * (lines.count("\n") + 1 if lines else 0))
    canvas.text((0, 0), wrapped(data.title, 30, canvas.width, 1), 30)
    canvas.text((0, 46), lines, LABEL + 1, MUTED)
    return canvas.image()


def _loss_chart(data: ReportData) -> Image.Image:
    raw = Series("loss", data.losses, PALE_BLUE, 1.0)
    finite = raw.finite()
    window = max(1, len(finite) // 40) * 2 + 1
    mean = Series(f"mean of {window} losses", running_mean(finite, window), BLUE, 2.2)
    canvas = Canvas(LOSS_WIDTH, CHART_HEIGHT)
    x = _step_axis(data, LOSS_WIDTH - 24)
    y = loss_axis([loss for _, loss in finite], PLOT_BOTTOM, PLOT_TOP)
    draw_axes(canvas, "Loss (logarithmic)" if y.logarithmic else "Loss", x, y)
    if finite:
        draw_legend(canvas, (PLOT_LEFT, LEGEND_MIDDLE), (raw, mean))
    else:
        canvas.text(_middle(x, y), "no loss yet", LABEL + 1, MUTED, "mm")
    _draw_beginning(canvas, x, y, data.convergence, PALE_ACCENT)
    for series in (raw, mean):
        draw_series(canvas, x, y, series)
    left_out = len(data.losses) - len(finite)
    if left_out:
        note = f"{left_out:,} of {len(data.losses):,} losses are not finite numbers and are left out"
        canvas.text((PLOT_LEFT, NOTE_MIDDLE), note, LABEL, ACCENT, "lm")
    return canvas.image()


def _following_chart(data: ReportData) -> Image.Image:
    shown = [series for series in _score_series(data.evaluations) if series.finite()]
    levels = [data.ceiling, data.without_control]
    values = [*(score for series in shown for _, score in series.finite()), *filter(isfinite, levels)]
    canvas = Canvas(WIDTH - 2 * MARGIN - LOSS_WIDTH - SPACE, CHART_HEIGHT)
    x = _step_axis(data, canvas.width - LEVEL_NAMES)
    y = Axis(min([0.0, *values]), max([1.0, *values]), PLOT_BOTTOM, PLOT_TOP)
    draw_axes(canvas, "How well held-out hints are followed", x, y)
    draw_legend(canvas, (PLOT_LEFT, LEGEND_MIDDLE), shown)
    _draw_levels(canvas, x, y, data)
    _draw_beginning(canvas, x, y, data.convergence)
    if data.convergence is not None:
        words = data.convergence.sentence
        reach = font(LABEL).getlength(words) / 2
        canvas.text((_kept_within(x, data.convergence.begins, reach), NOTE_MIDDLE), words, LABEL, ACCENT, "mm")
    for one in reversed(shown):
        draw_series(canvas, x, y, one)
    if not data.evaluations:
        canvas.text(_middle(x, y), "not evaluated", LABEL + 1, MUTED, "mm")
    return canvas.image()


def _score_series(evaluations: Sequence[EvaluationPoint]) -> tuple[Series, ...]:
    """The following score, which is drawn last and so on top, and the other measures."""
    following = [(point.step, point.following) for point in evaluations]
    beside = [
        Series(label, [(point.step, point.measures.get(name, nan)) for point in evaluations], colour, 1.3)
        for name, (label, colour) in MEASURES.items()
    ]
    return Series("following score", following, BLUE, 2.4, dots=True), *beside


def _draw_levels(canvas: Canvas, x: Axis, y: Axis, data: ReportData) -> None:
    """Draw the ceiling and chance as dashed lines with their names to the right."""
    ceiling_label = wrapped(data.ceiling_label, LABEL - 1, LEVEL_NAMES - 10, 2)
    levels = ((ceiling_label, data.ceiling), ("without control", data.without_control))
    known = [(name, level) for name, level in levels if isfinite(level)]
    for (name, level), place in zip(known, _name_places(y, [level for _, level in known]), strict=True):
        canvas.dashes((x.start, y.place(level)), (x.end, y.place(level)), MUTED)
        canvas.text((x.end + 10, place), f"{name}\n{level:.2f}", LABEL - 1, MUTED, "lm")


def _name_places(y: Axis, levels: Sequence[float]) -> list[float]:
    """Heights of the names of levels: beside them, without covering each other or the ticks below."""
    lowest = y.start - NAME_HEIGHT / 2
    places = [min(y.place(level), lowest) for level in levels]
    if len(places) == 2 and abs(places[1] - places[0]) < NAME_HEIGHT:
        upper = min(sum(places) / 2, lowest - NAME_HEIGHT / 2) - NAME_HEIGHT / 2
        return [upper, upper + NAME_HEIGHT]
    return places


def _draw_beginning(canvas: Canvas, x: Axis, y: Axis, rise: Convergence | None, colour: str = ACCENT) -> None:
    """Mark where following begins; if it begins abruptly, that is sudden convergence (Zhang et al. 2023, figure 4)."""
    if rise is not None:
        canvas.line([(x.place(rise.begins), y.start), (x.place(rise.begins), y.end - 6)], colour, 1.5)


def _samples(data: ReportData, hints: Tensor) -> Image.Image:
    steps = [point.step for point in data.evaluations]
    begins = _begins(data)
    chosen = chosen_evaluations(steps, begins)
    columns = [hints, *(data.evaluations[index].pictures for index in chosen)]
    available = WIDTH - 2 * MARGIN - ROW_TITLE_WIDTH - PADDING - CELL_GAP * len(columns)
    grid = sheet(
        [[column[row] for column in columns] for row in range(len(data.captions))],
        column_titles=["hint", *(f"step {steps[index]:,}" for index in chosen)],
        row_titles=data.captions,
        cell=min(LARGEST_CELL, available // len(columns)),
        gap=CELL_GAP,
        highlighted=next((1 + place for place, index in enumerate(chosen) if steps[index] == begins), None),
    )
    title = Canvas(WIDTH - 2 * MARGIN, HEADING + 17)
    title.text((0, 0), "Samples from held-out hints", HEADING, INK)
    return _stacked([title.image(), grid], margin=0, space=0)


def _begins(data: ReportData) -> int | None:
    return None if data.convergence is None else data.convergence.begins


def _step_axis(data: ReportData, end: float) -> Axis:
    steps = [step for step, _ in data.losses] + [point.step for point in data.evaluations]
    return Axis(0, max([*steps, _begins(data) or 0, FEWEST_STEPS]), PLOT_LEFT, end)


def _middle(x: Axis, y: Axis) -> Point:
    return (x.start + x.end) / 2, (y.start + y.end) / 2


def _kept_within(x: Axis, step: int, reach: float) -> float:
    """The middle of a text over a step, moved so that its half width `reach` stays on the axis."""
    return min(max(x.place(step), x.start + reach), x.end - reach)


def _side_by_side(left: Image.Image, right: Image.Image) -> Image.Image:
    image = Image.new("RGB", (left.width + SPACE + right.width, max(left.height, right.height)), PAPER)
    image.paste(left, (0, 0))
    image.paste(right, (left.width + SPACE, 0))
    return image


def _stacked(parts: Sequence[Image.Image], margin: int = MARGIN, space: int = SPACE) -> Image.Image:
    width = max(part.width for part in parts) + 2 * margin
    height = sum(part.height for part in parts) + space * (len(parts) - 1) + 2 * margin
    image = Image.new("RGB", (width, height), PAPER)
    y = margin
    for part in parts:
        image.paste(part, (margin, y))
        y += part.height + space
    return image
