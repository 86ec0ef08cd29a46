"""One step of sampling: what the nets are given, and how one of them runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from ..model.residuals import Residuals
from .controller import Controller
from .curves import Side

GuidanceSide = Literal["unconditional", "conditional"]
"""One of the two predictions of classifier-free guidance."""


@dataclass(frozen=True, eq=False)
class StepInput:
    """What the UNet and the nets are given at one step.

    Attributes:
        x: Noisy latents scaled for the network, shape (N, C, h, w): one part for each of `sides`, in that order.
        timesteps: Shape (N,).
        context: Text embeddings, shape (N, L, context_dim).
        y: Vector condition, shape (N, vector_dim), or None.
        sigma: The noise level.
        sides: The side of guidance that each part belongs to.
    """

    x: Tensor
    timesteps: Tensor
    context: Tensor
    y: Tensor | None
    sigma: float
    sides: tuple[GuidanceSide, ...]

    @property
    def pictures(self) -> int:
        """How many pictures are drawn."""
        return len(self.x) // len(self.sides)

    def to(self, dtype: torch.dtype) -> StepInput:
        """The same in another dtype; timesteps keep theirs."""
        y = None if self.y is None else self.y.to(dtype)
        return replace(self, x=self.x.to(dtype), context=self.context.to(dtype), y=y)

    def rows(self, index: Tensor) -> StepInput:
        """Select the rows with these indices, shape (n,)."""
        y = None if self.y is None else self.y[index]
        return replace(self, x=self.x[index], timesteps=self.timesteps[index], context=self.context[index], y=y)

    def rows_on(self, side: Side) -> Tensor:
        """The indices of the rows on one side or on both, shape (n,)."""
        parts = [index for index, part_side in enumerate(self.sides) if side in ("both", part_side)]
        return torch.arange(len(self.x), device=self.x.device).reshape(len(self.sides), -1)[parts].flatten()


def run_net(
    net: Controller,
    step: StepInput,
    side: Side,
    factors: Sequence[float],
    embedded_hint: Callable[[Tensor], Tensor],
    mask: Tensor | None = None,
) -> Residuals | None:
    """Run a net on the rows of its side, no deeper than the last block whose factor is not zero.

    Arguments:
        net: The net.
        step: What the UNet is given.
        side: The side of guidance that the net acts on, or both.
        factors: The factor of each skip and then the middle block, from `Application.factors_at`; empty outside the
            window.
        embedded_hint: Maps the latents to the embedded hints: one for each row, or hint i for picture i, and fewer
            hints are repeated.
        mask: Where the net acts, shape (B or 1, 1, h, w); mask i belongs to picture i, and fewer masks are repeated.

    Returns:
        Residuals of all rows, zero on the side that is off; None if the net has nothing to add.
    """
    rows = step.rows_on(side)
    if not len(rows) or not any(factors):
        return None
    whole = len(rows) == len(step.x)
    part = step if whole else step.rows(rows)
    pictures = rows % step.pictures
    hint = embedded_hint(step.x)
    hint_rows = rows if len(hint) == len(step.x) else pictures % len(hint)
    deepest = max(index for index, factor in enumerate(factors, start=1) if factor)
    output: Residuals = net(
        part.x,
        None,
        part.timesteps,
        part.context,
        part.y,
        embedded_hint=hint if len(hint) == 1 else hint[hint_rows],
        blocks=None if deepest == len(factors) else deepest,
    )
    if net.pooled:
        output = output.pooled()
    output = output.scaled(factors)
    if mask is not None:
        output = output.masked(mask.to(step.x.device)[pictures % len(mask)])
    return output if whole else _scattered(output, rows, len(step.x))


def _scattered(residuals: Residuals, rows: Tensor, count: int) -> Residuals:
    """Residuals of `count` rows: the given ones at `rows`, zero elsewhere."""
    return residuals.map(lambda tensor: tensor.new_zeros(count, *tensor.shape[1:]).index_copy(0, rows, tensor))
