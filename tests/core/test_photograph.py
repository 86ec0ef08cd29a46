"""The photograph of coins: the shipped crop, hints that look like the training outlines, and the rule for all coins."""

from __future__ import annotations

import math
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy
import pytest
import torch
from torch.nn import functional

from controlnet_core.keyed import keyed_generator
from controlnet_core.model.controlnet import ControlNet
from controlnet_core.sampling.generate import SamplingSettings
from controlnet_core.toy import drawing
from controlnet_core.toy.photograph import SIDE, coin_hint, coin_photograph, edge_hint
from controlnet_core.toy.scenes import LARGEST_RADIUS, SHAPES, SMALLEST_RADIUS, draw_scenes
from tests.support.bases import small_base
from tests.support.scripts import benchmark

SHIPPED = 14


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    return benchmark("coins")


@pytest.fixture(scope="module")
def coins(bench: ModuleType) -> list[Any]:
    return list(bench.read_coins())


def near(line: torch.Tensor, reach: int) -> torch.Tensor:
    """Mark the pixels at most `reach` steps, diagonal ones too, from those of `line` (H, W)."""
    return functional.max_pool2d(line.float()[None], 2 * reach + 1, stride=1, padding=reach)[0] > 0


def rim(mask: torch.Tensor) -> torch.Tensor:
    """Mark the pixels of a mask (H, W) that touch its outside."""
    return mask & near(~mask, 1)


def test_edges_of_a_drawing_are_its_outline() -> None:
    scenes = draw_scenes(60, keyed_generator("test", 0))
    scenes = scenes[scenes.shape == SHAPES.index("circle")][:4]
    scenes = replace(scenes, gaps=torch.zeros_like(scenes.gaps), strokes=torch.zeros_like(scenes.strokes))
    pictures, outlines = drawing.masks(scenes, 4 * SIDE).float(), drawing.outlines(scenes, SIDE)
    for picture, outline in zip(pictures, outlines[:, 0], strict=True):
        hint = edge_hint(picture.expand(1, 3, -1, -1))
        assert hint.shape == (1, 3, SIDE, SIDE) and torch.equal(hint[:, :1].expand(-1, 3, -1, -1), hint)
        line = hint[0, 0]
        assert (near(line > 0.3, 1) | (outline < 0.9)).all(), "a gap in the line"
        assert (near(outline > 0.3, 1) | (line < 0.3)).all(), "a line off the outline"
        ink = float(line.sum() / outline.sum())
        assert 0.85 < ink < 1.15, f"lines are {ink:.2f} times as wide as the outlines that nets learn from"


def test_the_shipped_coin_is_one_of_the_photograph(coins: list[Any]) -> None:
    coin, photograph = coins[SHIPPED - 1], coin_photograph()
    difference = float((photograph - coin.photograph).abs().max())
    assert difference == 0, f"pixels differ by {difference}"
    assert torch.equal(coin_hint(), coin.hint)


def test_the_rule_finds_24_coins_of_sizes_the_generator_draws(coins: list[Any]) -> None:
    assert len(coins) == 24
    radii = [math.sqrt(int(coin.mask.sum()) / math.pi) / SIDE for coin in coins]
    assert min(radii) > SMALLEST_RADIUS and max(radii) < LARGEST_RADIUS, f"{min(radii):.3f} to {max(radii):.3f}"
    for coin in coins:
        found = near(coin.hint[0, 0] > 0.3, 1)[rim(coin.mask)].float().mean()
        assert found > 0.95, f"only {found:.2f} of a coin's rim is in its hint"


def test_discs_are_found_on_ground_that_falls_by_more_than_their_contrast(bench: ModuleType) -> None:
    y, x = numpy.mgrid[:180, :300]
    inside = numpy.hypot(y % 60 - 30, x % 60 - 30) < 18
    numbers = bench.find_coins(90 - 0.15 * x + 40 * inside)
    assert numpy.array_equal(numbers[30::60, 30::60], numpy.arange(1, 16).reshape(3, 5))
    wrong = float(((numbers > 0) != inside).sum() / inside.sum())
    assert wrong < 0.02, f"{wrong:.3f} of the pixels of the discs are wrong"


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((100, 140, 100, 130), (84, 156, 79, 151)),
        ((5, 45, 260, 290), (0, 72, 228, 300)),
        ((170, 200, 0, 20), (146, 200, 0, 54)),
    ],
)
def test_crops_are_squares_around_the_coin_inside_the_photograph(
    bench: ModuleType, box: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    rows, columns = bench.crop_box((slice(*box[:2]), slice(*box[2:])), 200, 300)
    assert (rows.start, rows.stop, columns.start, columns.stop) == expected


def test_scores_are_those_of_the_discs_in_the_drawings(bench: ModuleType, coins: list[Any]) -> None:
    masks = torch.stack([coin.mask for coin in coins])
    drawings = masks[:, None].expand(-1, 3, -1, -1) * 0.5
    result = bench.summary(drawings, torch.zeros_like(drawings), coins)
    assert result["median"] == result["best"] == result["worst"] == 1
    assert result["median_without_control"] == 0 and 0 < result["median_with_the_next_coin"] < 1
    assert "median without control" in bench.table(result)
    spoilt = torch.cat([torch.zeros_like(drawings[:1]), drawings[1:]])
    result = bench.summary(spoilt, drawings, coins)
    assert (result["worst"], result["scores"].index(0)) == (0, 0)
    assert bench.picture(spoilt, result["scores"], coins).height > 3 * bench.CELL


def test_a_net_that_has_learned_nothing_draws_what_the_base_draws(bench: ModuleType, coins: list[Any]) -> None:
    base, settings = small_base(), SamplingSettings(steps=1, guidance=1, size=(SIDE, SIDE))
    net = ControlNet.from_unet(base.unet)
    drawings = [bench.draw(base, choice, coins[:2], bench.PROMPT, settings) for choice in (net, None)]
    assert drawings[0].shape == (2, 3, SIDE, SIDE)
    difference = float((drawings[0] - drawings[1]).abs().max())
    assert difference == 0, f"pixels differ by {difference}"
