"""Laws of the report picture: its axes, its choice of samples, and that every run, however short or broken, draws."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image, ImageColor

from controlnet_core.errors import TensorShapeError, WriteError
from controlnet_core.evaluation.convergence import Convergence
from controlnet_core.pictures.charts import LOGARITHMIC_FROM, MOST_TICKS, Axis, Canvas, loss_axis
from controlnet_core.pictures.sheet import ACCENT
from controlnet_core.training.report_picture import (
    MOST_COLUMNS,
    EvaluationPoint,
    ReportData,
    chosen_evaluations,
    draw_report,
    running_mean,
    write_report,
)

NAN = math.nan
AXES = [
    Axis(0, 1000, 50, 600),
    Axis(0, 1, 300, 80),
    Axis(0, 5, 0, 100),
    Axis(-0.003, 0.0042, 0, 100),
    Axis(0.004, 0.09, 300, 80, logarithmic=True),
    Axis(0.0913, 1.9, 300, 80, logarithmic=True),
    Axis(1e-9, 1e6, 300, 80, logarithmic=True),
]


def level(step: int) -> float:
    """One level of red for each step, to find its pictures again."""
    return (step // 100 + 1) * 10 / 255


def evaluation(step: int) -> EvaluationPoint:
    pictures = torch.tensor([level(step), 0.0, 1.0])[:, None, None].expand(2, 3, 64, 64)
    return EvaluationPoint(step, 0.2 if step < 500 else 0.8, pictures, {"colour": 0.9, "shape": 0.7})


def run_data(begins: int | None = 500) -> ReportData:
    return ReportData(
        title="A run",
        losses=[(step, 0.2 + 0.1 * math.cos(step)) for step in range(1, 101)],
        evaluations=[evaluation(step) for step in range(0, 2000, 100)],
        hints=torch.zeros(2, 3, 64, 64),
        captions=["a red circle on a blue background", "white cross"],
        convergence=None if begins is None else Convergence(begins, 0.9, 1.0),
        ceiling=0.9,
        without_control=0.2,
        notes=["100 steps in 3 s"],
    )


def shown_steps(image: Image.Image) -> list[int]:
    """The steps whose pictures are in a report, by their colour."""
    counts = {colour: count for count, colour in image.getcolors(1 << 20) or []}
    return [step for step in range(0, 2000, 100) if counts.get((round(level(step) * 255), 0, 255), 0) >= 64 * 64]


def accent_pixels(image: Image.Image) -> int:
    return int((numpy.asarray(image) == ImageColor.getrgb(ACCENT)).all(-1).sum())


@pytest.mark.parametrize("axis", AXES)
def test_axes_keep_order_and_reach_both_ends(axis: Axis) -> None:
    share = torch.linspace(0, 1, 33, dtype=torch.float64).tolist()
    values = [axis.low * (axis.high / axis.low) ** part for part in share] if axis.logarithmic else []
    places = [axis.place(value) for value in values or (axis.low + part * (axis.high - axis.low) for part in share)]
    forward = axis.end > axis.start
    assert all((after > before) == forward for before, after in pairwise(places))
    error = max(abs(places[0] - axis.start), abs(places[-1] - axis.end))
    assert error < 1e-9, error


@pytest.mark.parametrize("axis", AXES)
def test_ticks_are_round_few_and_inside(axis: Axis) -> None:
    ticks = axis.ticks()
    assert 2 <= len(ticks) <= MOST_TICKS and ticks == sorted(set(ticks))
    slack = 1e-9 * (axis.high - axis.low)
    assert axis.low - slack <= ticks[0] and ticks[-1] <= axis.high + slack
    round_numbers = ticks if axis.logarithmic else [after - before for before, after in pairwise(ticks)]
    assert {f"{number:.6e}"[0] for number in round_numbers} <= {"1", "2", "5"}
    assert all(f"{number:.6e}"[1:8] == ".000000" for number in round_numbers)


@pytest.mark.parametrize(
    ("values", "logarithmic"),
    [([0.1, 0.1 * LOGARITHMIC_FROM], True), ([0.1, 1.0], False), ([0.0, 9.0], False), ([], False), ([3.0], False)],
)
def test_loss_axis_holds_every_loss(values: list[float], logarithmic: bool) -> None:
    axis = loss_axis(values, 300, 80)
    assert axis.logarithmic == logarithmic
    assert all(80 <= axis.place(value) <= 300 for value in values)


def test_running_mean_of_a_straight_line_is_that_line_and_of_noise_is_calmer() -> None:
    line = [(float(step), 2.0 * step) for step in range(100)]
    error = max(abs(mean - 2 * step) for step, mean in running_mean(line, 7)[3:-3])
    assert error < 1e-9, error
    noise = torch.rand(3000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    means = running_mean(list(enumerate(noise.tolist())), 51)
    assert len(means) == 500 and means[-1][0] == 2999
    calm = torch.tensor([mean for _, mean in means]).std() / noise.std()
    assert calm < 0.25, calm


@pytest.mark.parametrize("count", [1, 2, 7, 8, 9, 40])
@pytest.mark.parametrize("begins", [None, 0, 1, 5, 39])
def test_chosen_evaluations_hold_both_ends_and_the_beginning(count: int, begins: int | None) -> None:
    steps = [50 * number for number in range(count)]
    chosen = chosen_evaluations(steps, None if begins is None else 50 * begins)
    assert chosen == sorted(set(chosen)) and len(chosen) == min(count, MOST_COLUMNS)
    wanted = {0, count - 1} | ({begins, max(0, begins - 1)} if begins is not None and begins < count else set())
    assert wanted <= set(chosen)


def test_chosen_evaluations_leave_no_wide_gap() -> None:
    chosen = chosen_evaluations(range(100), None)
    assert max(after - before for before, after in pairwise(chosen)) <= 2 * 100 / MOST_COLUMNS


def test_report_shows_the_chosen_evaluations_and_frames_the_beginning() -> None:
    data = run_data()
    image = draw_report(data)
    steps = [point.step for point in data.evaluations]
    assert shown_steps(image) == [steps[index] for index in chosen_evaluations(steps, 500)]
    assert {400, 500} <= set(shown_steps(image))
    assert accent_pixels(image) > 1000
    assert accent_pixels(draw_report(run_data(begins=None))) == 0


def test_the_beginning_is_a_line_through_both_charts_at_its_step() -> None:
    charts = [numpy.asarray(draw_report(run_data(begins)))[:500].astype(int) for begins in (None, 500, 1000)]
    changed = [(numpy.abs(chart - charts[0]).sum(-1) > 60).sum(0) > 200 for chart in charts[1:]]
    half = charts[0].shape[1] // 2
    for columns in ((chart[:half], chart[half:]) for chart in changed):
        assert [1 <= side.sum() <= 3 for side in columns] == [True, True]
    assert all(changed[0][side].argmax() < changed[1][side].argmax() for side in (slice(half), slice(half, None)))


@pytest.mark.parametrize(
    "change",
    [
        {"title": "A fun"},
        {"notes": ["100 steps in 4 s"]},
        {"captions": ["a red circle on a blue background", "black cross"]},
        {"losses": [*run_data().losses[:-1], (100, 0.3)]},
        {"ceiling": 0.91},
        {"without_control": 0.21},
        {"convergence": Convergence(500, 0.2, 0.4)},
        {"hints": torch.ones(2, 3, 64, 64)},
        {"evaluations": [*run_data().evaluations[:-1], replace(evaluation(1900), following=0.5)]},
        {"evaluations": [*run_data().evaluations[:-1], replace(evaluation(1900), measures={"colour": 0.5})]},
        {"evaluations": [*run_data().evaluations[:-1], replace(evaluation(1900), measures={"shape": 0.5})]},
        {"evaluations": [*run_data().evaluations[:-1], replace(evaluation(1900), measures={"clarity": 0.5})]},
    ],
)
def test_all_that_a_report_is_given_shows(change: dict[str, object]) -> None:
    data = run_data()
    assert draw_report(replace(data, **change)).tobytes() != draw_report(data).tobytes()  # type: ignore[arg-type]


def test_the_same_run_draws_the_same_bits_and_changes_nothing() -> None:
    data = run_data()
    before = data.evaluations[0].pictures.clone()
    assert draw_report(data).tobytes() == draw_report(data).tobytes()
    assert torch.equal(before, data.evaluations[0].pictures)


@pytest.mark.parametrize(
    "change",
    [
        {"losses": [(1, 0.3)], "evaluations": [], "convergence": None},
        {"losses": [(1, 0.3)], "evaluations": [evaluation(1)], "convergence": Convergence(1, 0.0, 1.0)},
        {"losses": [], "evaluations": [], "convergence": None, "notes": []},
        {"losses": [(1, 0.0), (2, 0.0)], "evaluations": [evaluation(0)], "convergence": None},
        {"losses": [(1, 1e-8), (2, 1e8)], "ceiling": NAN, "without_control": NAN},
        {"ceiling": 0.02, "without_control": 0.0},
        {"evaluations": [replace(evaluation(0), following=NAN, measures={})], "convergence": None},
        {"evaluations": [replace(evaluation(0), following=-0.5)], "convergence": Convergence(10**7, 0.0, 1.0)},
    ],
)
def test_short_and_strange_runs_draw_and_differ(change: dict[str, object]) -> None:
    usual, image = draw_report(run_data()), draw_report(replace(run_data(), **change))  # type: ignore[arg-type]
    assert image.width == usual.width and image.tobytes() != usual.tobytes()


def test_losses_that_are_no_numbers_are_left_out_and_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    text = Canvas.text

    def recorded(self: Canvas, place: tuple[float, float], label: str, *rest: object) -> None:
        written.append(label)
        text(self, place, label, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Canvas, "text", recorded)
    good = run_data()
    draw_report(good)
    assert not any("left out" in label for label in written)
    draw_report(replace(good, losses=[*good.losses, (101, NAN), (102, math.inf)]))
    assert "2 of 102 losses are not finite numbers and are left out" in written
    draw_report(replace(good, losses=[(1, NAN)]))
    assert "no loss yet" in written


def test_hints_captions_and_pictures_must_fit() -> None:
    data = run_data()
    with pytest.raises(TensorShapeError, match="K = 3"):
        draw_report(replace(data, captions=["one", "two", "three"]))
    with pytest.raises(TensorShapeError, match="pictures of step 7"):
        draw_report(replace(data, evaluations=[EvaluationPoint(7, 0.1, torch.zeros(1, 3, 8, 8), {})]))


def test_write_report_writes_the_drawn_picture(tmp_path: Path) -> None:
    path = write_report(run_data(), tmp_path / "run")
    with Image.open(path) as image:
        assert path == tmp_path / "run" / "report.png"
        assert image.tobytes() == draw_report(run_data()).tobytes()
    with pytest.raises(WriteError, match="cannot be written"):
        write_report(run_data(), path)
