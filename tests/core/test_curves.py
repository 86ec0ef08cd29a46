"""The curves of block weights: the paper's numbers, real block heights, and the errors of wrong settings."""

from __future__ import annotations

import pytest
import torch

from controlnet_core.config import SD15, SDXL, UNetConfig
from controlnet_core.control.curves import Curve, block_weights, check_curve, default_side
from controlnet_core.errors import SettingError


def weights_of(curve: Curve, config: UNetConfig, latent_height: int) -> list[float]:
    return list(block_weights(curve, config.block_levels, latent_height))


def test_cfg_resolution_has_the_papers_numbers() -> None:
    assert weights_of("cfg_resolution", SD15, 64) == [1, 1, 1, 2, 2, 2, 4, 4, 4, 8, 8, 8, 8]
    assert weights_of("cfg_resolution", SDXL, 128) == [1, 1, 1, 2, 2, 2, 4, 4, 4, 4]


def test_normalised_is_the_same_divided_by_its_largest() -> None:
    assert weights_of("cfg_resolution_normalised", SD15, 64) == [1 / 8] * 3 + [1 / 4] * 3 + [1 / 2] * 3 + [1] * 4
    assert weights_of("cfg_resolution_normalised", SDXL, 128) == [1 / 4] * 3 + [1 / 2] * 3 + [1] * 4


def test_guess_rises_to_the_middle_block() -> None:
    expected = [0.0994, 0.1205, 0.1461, 0.1770, 0.2146, 0.2601, 0.3153, 0.3822, 0.4633, 0.5615, 0.6806, 0.8250, 1]
    assert weights_of("guess", SD15, 64) == pytest.approx(expected, abs=5e-5)
    assert weights_of("guess", SDXL, 128) == pytest.approx([*expected[3:12], 1], abs=5e-5)


def test_flat_and_custom() -> None:
    assert weights_of("flat", SD15, 64) == [1] * 13
    custom = tuple(index / 10 for index in range(10))
    assert weights_of(custom, SDXL, 128) == list(custom)


@pytest.mark.parametrize("height", [64, 65, 50, 9])
def test_heights_are_those_of_the_convolutions_that_halve(height: int) -> None:
    latents, heights = torch.zeros(1, 1, height, 8), []
    halve = torch.nn.Conv2d(1, 1, 3, stride=2, padding=1)
    for _ in range(4):
        heights.append(latents.shape[-2])
        latents = halve(latents)
    expected = [height / heights[level] for level in (*SD15.block_levels.skips, SD15.block_levels.middle)]
    assert weights_of("cfg_resolution", SD15, height) == expected


def test_curves_for_control_without_a_prompt_act_on_the_conditional_side() -> None:
    conditional = [default_side(curve) for curve in ("cfg_resolution", "cfg_resolution_normalised", "guess")]
    assert conditional == ["conditional"] * 3
    assert [default_side("flat"), default_side((1.0, 2.0))] == ["both", "both"]


def test_errors_say_what_is_expected() -> None:
    with pytest.raises(SettingError, match="found 12 weights; expected 13 for this net: 12 skips"):
        weights_of((1.0,) * 12, SD15, 64)
    with pytest.raises(SettingError, match="cfg_resolution_normalised, guess, or numbers"):
        check_curve("soft")  # type: ignore[arg-type]  # the wrong name is the point
    with pytest.raises(SettingError, match="finite"):
        check_curve([1.0, float("nan")])
