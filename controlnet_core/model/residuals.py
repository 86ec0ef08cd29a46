"""The output of a ControlNet: one tensor to add to each skip of the UNet, and one for its middle block."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from ..errors import ResidualShapeError


@dataclass(frozen=True)
class Residuals:
    """The outputs of a ControlNet, immutable.

    Attributes:
        skips: One tensor for each encoder block, shallowest first: 12 for Stable Diffusion, 9 for SDXL. Fewer
            if the deeper ones were not computed; nothing is added there.
        middle: The tensor for the middle block, or None if it was not computed.
    """

    skips: tuple[Tensor, ...]
    middle: Tensor | None

    def map(self, function: Callable[[Tensor], Tensor]) -> Residuals:
        """Apply a function to each skip and to the middle."""
        middle = None if self.middle is None else function(self.middle)
        return Residuals(tuple(function(skip) for skip in self.skips), middle)

    def scaled(self, factors: float | Sequence[float]) -> Residuals:
        """Multiply all tensors by one factor, or each skip and then the middle by its own."""
        count = len(self.skips) + (self.middle is not None)
        each = [factors] * count if isinstance(factors, (int, float)) else list(factors)
        if len(each) < count:
            raise ResidualShapeError(
                found=f"{len(each)} factors",
                expected=f"{count}, one for each skip and one for the middle",
                do="give one number for all or one for each",
            )
        middle = None if self.middle is None else self.middle * each[-1]
        return Residuals(tuple(skip * factor for skip, factor in zip(self.skips, each, strict=False)), middle)

    def masked(self, mask: Tensor) -> Residuals:
        """Multiply by a mask (B or 1, 1, H, W), resized to each block by averaging over its area."""
        return self.map(
            lambda tensor: tensor * functional.interpolate(mask.to(tensor), size=tensor.shape[-2:], mode="area")
        )

    def pooled(self) -> Residuals:
        """Average each tensor over the picture, for nets that were trained to give style, not position (shuffle)."""
        return self.map(lambda tensor: tensor.mean(dim=(2, 3), keepdim=True).expand_as(tensor))

    def __add__(self, other: Residuals) -> Residuals:
        """Add another net's residuals directly, without extra weights (Zhang et al. 2023, section 3.4)."""
        longer, shorter = (self, other) if len(self.skips) >= len(other.skips) else (other, self)
        shared = len(shorter.skips)
        skips = tuple(_sum(a, b) for a, b in zip(longer.skips, shorter.skips, strict=False)) + longer.skips[shared:]
        if self.middle is None or other.middle is None:
            return Residuals(skips, self.middle if other.middle is None else other.middle)
        return Residuals(skips, _sum(self.middle, other.middle))


def _sum(a: Tensor, b: Tensor) -> Tensor:
    """Add two residuals of the same block, refusing to broadcast."""
    if a.shape != b.shape:
        raise ResidualShapeError(
            found=f"residuals of shapes {tuple(a.shape)} and {tuple(b.shape)} for one block",
            expected="the same shape",
            do="apply nets of one model family to latents of one size",
        )
    return a + b
