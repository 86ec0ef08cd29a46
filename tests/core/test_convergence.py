"""Where following begins and how abruptly; on a run that never follows nothing is marked."""

from __future__ import annotations

import pytest
import torch
from scipy.optimize import isotonic_regression

from controlnet_core.evaluation.convergence import Convergence, convergence, rising_fit
from controlnet_core.keyed import keyed_generator

RISE_OF_DEMO = [0.28, 0.34, 0.48, 0.58, 0.65, 0.67, 0.70]


def scores(values: list[float], every: int = 50) -> list[tuple[int, float]]:
    return [(every * number, value) for number, value in enumerate(values)]


def found(values: list[float], without_control: float, ceiling: float, every: int = 50) -> Convergence:
    result = convergence(scores(values, every), without_control, ceiling)
    assert result is not None
    return result


def test_the_rise_is_marked() -> None:
    assert found([0.25, 0.24, 0.3, 0.72, 0.8, 0.85], 0.25, 0.95).begins == 150


def test_a_slow_rise_is_marked_where_it_begins() -> None:
    assert found([0.26, 0.25, 0.26, 0.29, 0.40, 0.48, 0.57, 0.59, 0.61, 0.63], 0.26, 0.92).begins == 250
    assert found(RISE_OF_DEMO, 0.28, 0.93).begins == 100


def test_a_lucky_draw_is_not_the_rise_and_an_unlucky_one_does_not_hide_it() -> None:
    assert found([0.25, 0.7, 0.26, 0.24, 0.25, 0.8, 0.8, 0.8, 0.8], 0.25, 0.95).begins == 250
    assert found([0.25, 0.25, 0.8, 0.5, 0.8, 0.8], 0.25, 0.95).begins == 100


def test_nothing_is_marked_where_nothing_follows() -> None:
    for seed in range(200):
        noise = 0.05 * torch.randn(20, generator=keyed_generator("noise", seed))
        assert convergence(scores((0.25 + noise).tolist()), 0.25, 0.95) is None
    assert convergence([], 0.25, 0.95) is None
    assert convergence(scores([0.25, 0.8, 0.8]), 0.25, 0.2) is None
    assert convergence(scores([0.25, 0.8, 0.8, 0.25, 0.25, 0.25]), 0.25, 0.95) is None


@pytest.mark.parametrize("rise", [2, 5, 9])
def test_the_mark_is_within_one_evaluation_of_a_noisy_rise(rise: int) -> None:
    for seed in range(100):
        noise = 0.05 * torch.randn(14, generator=keyed_generator("rise", seed))
        curve = [(0.25 if index < rise else 0.8) + noise[index].item() for index in range(14)]
        assert abs(found(curve, 0.25, 0.95).begins - 50 * rise) <= 50


def test_a_jump_after_a_long_wait_is_sudden_and_a_straight_rise_is_gradual() -> None:
    jump = found([0.25] * 60 + [0.85] * 20, 0.25, 0.95, every=100)
    assert (jump.begins, jump.pace) == (6000, "sudden")
    assert jump.least_abruptness == 5900 / 6000 and jump.most_abruptness == 1.0
    assert jump.sentence == "begins to follow at step 6,000; sudden"
    straight = found([0.25 + 0.6 * index / 40 for index in range(41)], 0.25, 0.95, every=10)
    assert straight.pace == "gradual"
    assert straight.least_abruptness <= 1 / 3 <= straight.most_abruptness
    assert found(RISE_OF_DEMO, 0.28, 0.93).sentence == "begins to follow at step 100; gradual"


def test_abruptness_does_not_depend_on_speed_or_height() -> None:
    curve = [0.0, 0.0, 0.0, 0.0, 0.1, 0.3, 0.6, 0.8, 0.9, 0.9, 0.9]
    bounds = [
        (rise.least_abruptness, rise.most_abruptness)
        for rise in (
            found(curve, 0.0, 1.0, every=10),
            found(curve, 0.0, 1.0, every=170),
            found([0.2 + value / 2 for value in curve], 0.2, 0.7),
        )
    ]
    assert bounds[1] == pytest.approx(bounds[0])
    assert bounds[2] == pytest.approx(bounds[0])


def test_too_few_evaluations_are_no_answer() -> None:
    once = found([0.25, 0.85, 0.85], 0.25, 0.95)
    assert once.pace == "unresolved"
    assert once.sentence == "begins to follow at step 50; too few evaluations to tell how suddenly"
    assert found([0.25, 0.25, 0.85, 0.85], 0.25, 0.95, every=100).pace == "unresolved"


def test_a_net_that_follows_from_the_first_evaluation_on() -> None:
    assert found([0.9, 0.9, 0.9], 0.25, 0.95).begins == 0


def test_the_rising_fit_is_that_of_scipy() -> None:
    for seed in range(50):
        values = torch.randn(17, generator=keyed_generator("fit", seed), dtype=torch.float64)
        worst = max(abs(a - b) for a, b in zip(rising_fit(values.tolist()), isotonic_regression(values).x, strict=True))
        assert worst < 1e-12, f"max abs difference {worst:.1e}"
    assert rising_fit([]) == []
