"""The jump is marked where following rises, and nowhere on a run that never follows."""

from __future__ import annotations

import pytest
import torch

from controlnet_core.evaluation.convergence import jump_step
from controlnet_core.keyed import keyed_generator


def scores(values: list[float]) -> list[tuple[int, float]]:
    return [(50 * number, value) for number, value in enumerate(values)]


def test_the_rise_is_marked() -> None:
    assert jump_step(scores([0.25, 0.24, 0.3, 0.72, 0.8, 0.85]), 0.25, 0.95) == 150


def test_a_slow_rise_is_marked_where_it_begins() -> None:
    assert jump_step(scores([0.26, 0.25, 0.26, 0.29, 0.40, 0.48, 0.57, 0.59, 0.61, 0.63]), 0.26, 0.92) == 250
    assert jump_step(scores([0.28, 0.34, 0.48, 0.58, 0.65, 0.67, 0.70]), 0.28, 0.93) == 100


def test_a_lucky_draw_is_not_the_jump_and_an_unlucky_one_does_not_hide_it() -> None:
    assert jump_step(scores([0.25, 0.7, 0.26, 0.24, 0.25, 0.8, 0.8, 0.8, 0.8]), 0.25, 0.95) == 250
    assert jump_step(scores([0.25, 0.25, 0.8, 0.5, 0.8, 0.8]), 0.25, 0.95) == 100


def test_nothing_is_marked_where_nothing_follows() -> None:
    for seed in range(200):
        noise = 0.05 * torch.randn(20, generator=keyed_generator("noise", seed))
        assert jump_step(scores((0.25 + noise).tolist()), 0.25, 0.95) is None
    assert jump_step([], 0.25, 0.95) is None
    assert jump_step(scores([0.25, 0.8, 0.8]), 0.25, 0.2) is None
    assert jump_step(scores([0.25, 0.8, 0.8, 0.25, 0.25, 0.25]), 0.25, 0.95) is None


@pytest.mark.parametrize("rise", [2, 5, 9])
def test_the_mark_is_within_one_evaluation_of_a_noisy_rise(rise: int) -> None:
    for seed in range(100):
        noise = 0.05 * torch.randn(14, generator=keyed_generator("rise", seed))
        curve = [(0.25 if place < rise else 0.8) + noise[place].item() for place in range(14)]
        assert abs((jump_step(scores(curve), 0.25, 0.95) or 0) - 50 * rise) <= 50
