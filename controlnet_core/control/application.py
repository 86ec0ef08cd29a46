"""How a net is applied: how strongly, when, where, on which blocks of the UNet and on which side of guidance."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from ..config import BlockLevels
from ..errors import SettingError
from ..pictures.read import HintImage
from .controller import Controller
from .curves import SIDES, Curve, Side, block_weights, check_curve, default_side
from .hint import read_mask

BOUND_TOLERANCE = 1e-5
"""Relative room around a window's sigmas, so that rounding does not decide whether a step is inside."""


@dataclass(frozen=True)
class Window:
    """The noise levels between which a net acts, both included.

    Attributes:
        sigma_start: Where it begins, the higher one.
        sigma_end: Where it stops.
    """

    sigma_start: float
    sigma_end: float

    def holds(self, sigma: float) -> bool:
        """Whether a noise level lies inside."""
        return self.sigma_end * (1 - BOUND_TOLERANCE) <= sigma <= self.sigma_start * (1 + BOUND_TOLERANCE)


@dataclass(frozen=True, eq=False)
class Application:
    """How one net is applied.

    Attributes:
        strength: Factor of all residuals.
        start: Fraction of the training schedule, 0 to 1, at which the net begins to act.
        end: The fraction at which it stops.
        curve: A curve of block weights (see `block_weights`), or one number for each skip and then the middle block.
        side: The side of classifier-free guidance it acts on, or "both"; None is the curve's default (`default_side`).
        mask: Where the net acts, 0 to 1 over the hint's area, in a layout that `read_mask` takes; None is everywhere.
        mask_pixels: The mask as read, shape (B, 1, H, W) in [0, 1], or None.

    Raises:
        HintError: If the mask cannot be used.
        SettingError: If a setting is impossible.
    """

    strength: float = 1.0
    start: float = 0.0
    end: float = 1.0
    curve: Curve = "flat"
    side: Side | None = None
    mask: HintImage | None = field(default=None, repr=False)
    mask_pixels: Tensor | None = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not math.isfinite(self.strength):
            raise SettingError(f"strength = {self.strength}", "a finite number", "use 1 for the net's full strength")
        if not 0 <= self.start <= self.end <= 1:
            raise SettingError(
                found=f"start = {self.start}, end = {self.end}",
                expected="0 <= start <= end <= 1",
                do="give fractions of the schedule, such as 0 and 0.8",
            )
        if self.side is not None and self.side not in SIDES:
            raise SettingError(f"side = {self.side!r}", f"one of {', '.join(SIDES)}", "choose one")
        object.__setattr__(self, "curve", check_curve(self.curve))
        object.__setattr__(self, "mask_pixels", None if self.mask is None else read_mask(self.mask))

    @property
    def acting_side(self) -> Side:
        """The side of classifier-free guidance that the net acts on, or "both"."""
        return self.side or default_side(self.curve)

    def side_of(self, net: Controller) -> Side:
        """The side that a net acts on: the chosen one, else the conditional one for a net with pooled residuals."""
        return "conditional" if self.side is None and net.pooled else self.acting_side

    def window(self, sigma_at: Callable[[float], float]) -> Window:
        """The noise levels between which the net acts; `sigma_at` maps a fraction of the schedule to a noise level."""
        return Window(sigma_at(self.start), sigma_at(self.end))

    def block_factors(self, levels: BlockLevels, latent_height: int) -> tuple[float, ...]:
        """Strength times block weight for each skip, shallowest first, and then the middle block.

        Raises:
            SettingError: If there are more or fewer custom weights than blocks.
        """
        return tuple(self.strength * weight for weight in block_weights(self.curve, levels, latent_height))

    def factors_at(self, sigma: float, window: Window, levels: BlockLevels, latent_height: int) -> tuple[float, ...]:
        """The factor of each block's residual at one noise level.

        Arguments:
            sigma: The noise level.
            window: This application's `window`, computed once for a run.
            levels: The levels of the net's blocks.
            latent_height: Rows of the latents.

        Returns:
            Strength times block weight for each skip, shallowest first, and then the middle block; empty outside the
            window.
        """
        return self.block_factors(levels, latent_height) if window.holds(sigma) else ()
