"""How strongly a net acts on each block of the UNet: the named curves of block weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

from ..config import BlockLevels
from ..errors import SettingError

CurveName = Literal["flat", "cfg_resolution", "cfg_resolution_normalised", "guess"]
CURVES: tuple[CurveName, ...] = get_args(CurveName)
Curve = CurveName | tuple[float, ...]
"""The name of a curve, or one weight for each skip and then the middle block."""
Side = Literal["both", "conditional", "unconditional"]
"""The side of classifier-free guidance that a net acts on, or both."""
SIDES: tuple[Side, ...] = get_args(Side)

GUESS_BASE = 0.825


def default_side(curve: Curve) -> Side:
    """The side of classifier-free guidance on which a curve acts unless told otherwise.

    The curves made for control without a prompt act on the conditional side: with equal prompts and the same control
    on both sides, guidance would have nothing to amplify.
    """
    return "conditional" if curve in ("cfg_resolution", "cfg_resolution_normalised", "guess") else "both"


def check_curve(curve: Curve | Sequence[float]) -> Curve:
    """Return the name of a curve, or custom weights as a tuple of finite numbers.

    Raises:
        SettingError: If it is neither.
    """
    if isinstance(curve, str):
        if curve in CURVES:
            return curve
        raise SettingError(
            found=f"curve = {curve!r}",
            expected=f"{', '.join(CURVES)}, or numbers",
            do="choose a curve, or give one number for each skip and one for the middle block",
        )
    custom = tuple(map(float, curve))
    if not all(map(math.isfinite, custom)):
        raise SettingError(found=f"weights {custom}", expected="finite numbers", do="leave out NaN and infinity")
    return custom


def block_weights(curve: Curve, levels: BlockLevels, latent_height: int) -> tuple[float, ...]:
    """The weight of each skip, shallowest first, and then of the middle block.

    `cfg_resolution` is the paper's CFG resolution weighting (Zhang et al. 2023, section 3.4): w_i = 64 / h_i at 512
    pixels, where h_i is the height of block i and 64 that of the latents; at another size the latents' height
    takes the place of 64. `cfg_resolution_normalised` divides it by its largest value. `guess` is the guess mode of
    the paper's implementation: 0.825**(n - i) for skip i of n, and 1 for the middle.

    Arguments:
        curve: A curve's name or custom weights.
        levels: The level of each block; each level halves the resolution, rounding up.
        latent_height: Rows of the latents (an eighth of the picture's).

    Raises:
        SettingError: If there are more or fewer custom weights than blocks.
    """
    count = len(levels.skips)
    if curve == "flat":
        return (1.0,) * (count + 1)
    if curve == "guess":
        return (*(GUESS_BASE ** (count - index) for index in range(count)), 1.0)
    if isinstance(curve, str):
        weights = tuple(latent_height / _height(latent_height, level) for level in (*levels.skips, levels.middle))
        divisor = max(weights) if curve == "cfg_resolution_normalised" else 1.0
        return tuple(weight / divisor for weight in weights)
    if len(curve) == count + 1:
        return curve
    raise SettingError(
        found=f"{len(curve)} weights",
        expected=f"{count + 1} for this net: {count} skips, shallowest first, and the middle block",
        do="give one number for each skip and one for the middle block",
    )


def _height(latent_height: int, level: int) -> int:
    """Rows of a block: each level halves them by a convolution of stride 2 and padding 1, which rounds up."""
    return math.ceil(latent_height / 2.0**level)
