"""How strongly a net acts on each block of the UNet: the named curves of block weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

from ..errors import SettingError

Curve = Literal["flat", "cfg_resolution", "cfg_resolution_normalised", "guess"]
CURVES: tuple[Curve, ...] = get_args(Curve)
Weights = Curve | tuple[float, ...]
Sides = Literal["both", "conditional", "unconditional"]
SIDES: tuple[Sides, ...] = get_args(Sides)

GUESS_BASE = 0.825


def default_sides(weights: Weights) -> Sides:
    """The sides of classifier-free guidance on which a curve acts unless told otherwise.

    The curves made for control without a prompt act on the conditional side: with equal prompts and the same control
    on both sides, guidance would have nothing to amplify.
    """
    return "conditional" if weights in ("cfg_resolution", "cfg_resolution_normalised", "guess") else "both"


def check_application(strength: float, start: float, end: float) -> None:
    """See that a strength is finite, and that a window is a part of the schedule.

    Raises:
        SettingError: If not.
    """
    if not math.isfinite(strength):
        raise SettingError(f"strength = {strength}", "a finite number", "use 1 for the net's full strength")
    if not 0 <= start <= end <= 1:
        raise SettingError(
            found=f"start = {start}, end = {end}",
            expected="0 <= start <= end <= 1",
            do="give fractions of the schedule, such as 0 and 0.8",
        )


def check_weights(weights: Weights | Sequence[float]) -> Weights:
    """Give back the name of a curve, or custom weights as a tuple of finite numbers.

    Raises:
        SettingError: If it is neither.
    """
    if isinstance(weights, str):
        if weights in CURVES:
            return weights
        raise SettingError(
            found=f"weights = {weights!r}",
            expected=f"{', '.join(CURVES)}, or numbers",
            do="choose a curve, or give one number for each skip and one for the middle block",
        )
    custom = tuple(map(float, weights))
    if not all(map(math.isfinite, custom)):
        raise SettingError(found=f"weights {custom}", expected="finite numbers", do="leave out NaN and infinity")
    return custom


def block_weights(
    weights: Weights, skip_levels: Sequence[int], middle_level: int, latent_height: int
) -> tuple[float, ...]:
    """The weight of each skip, shallowest first, and then of the middle block.

    `cfg_resolution` is the paper's CFG resolution weighting (Zhang et al. 2023, section 3.4): w_i = 64 / h_i at 512
    pixels, where h_i is the height of block i and 64 that of the latents; at another size the latents' height
    takes the place of 64. `cfg_resolution_normalised` divides it by its largest value. `guess` is the guess mode of
    the paper's implementation: 0.825**(n - i) for skip i of n, and 1 for the middle.

    Arguments:
        weights: A curve's name or custom weights.
        skip_levels: The level of each skip; each level halves the resolution, rounding up.
        middle_level: The level of the middle block.
        latent_height: Rows of the latents (an eighth of the picture's).

    Raises:
        SettingError: If there are more or fewer custom weights than blocks.
    """
    count = len(skip_levels)
    if weights == "flat":
        return (1.0,) * (count + 1)
    if weights == "guess":
        return (*(GUESS_BASE ** (count - index) for index in range(count)), 1.0)
    if isinstance(weights, str):
        literal = tuple(latent_height / _height(latent_height, level) for level in (*skip_levels, middle_level))
        largest = max(literal) if weights == "cfg_resolution_normalised" else 1.0
        return tuple(weight / largest for weight in literal)
    if len(weights) == count + 1:
        return weights
    raise SettingError(
        found=f"{len(weights)} weights",
        expected=f"{count + 1} for this net: {count} skips, shallowest first, and the middle block",
        do="give one number for each",
    )


def _height(latent_height: int, level: int) -> int:
    """Rows of a block: each step down is a convolution of stride 2 and padding 1, which rounds up."""
    return math.ceil(latent_height / 2.0**level)
