"""A CONTROL_NET that is not ours, with a curve, a side of guidance, and hints that follow their pictures."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import comfy.controlnet
import torch
from torch import Tensor

from ....controlnet_core.config import BlockLevels
from ....controlnet_core.control.application import Application, Window
from ....controlnet_core.control.curves import block_weights
from ..host.types import HostControlNet, HostModel
from .host_residuals import HostResiduals, added
from .notes import RunWarnings
from .residual_hook import previous_residuals
from .rows import Rows, rows_of
from .sides import SIDE_UNKNOWN, Applied, BatchMarks, GuidanceSides, read_marks

Net: Any = object
"""The class that `WeightedControl` is mixed into."""
NO_RESOLUTIONS = "this net's model has no blocks of different resolution, so the curve is not used"


@dataclass
class Weighting:
    """How a net is weighted, and the state of one sampling.

    Attributes:
        application: Its curve and side act here; strength and window in the net itself.
        node_id: The node that shows warnings; None is the one that samples.
        applied: The sides of guidance it was applied on, if our nodes applied it.
        sides: Finds the sides of the current sampling, or of the last one.
        warnings: What it warns of.
    """

    application: Application
    node_id: str | None
    applied: Applied | None = None
    sides: GuidanceSides = field(init=False)
    warnings: RunWarnings = field(init=False)

    def begin(self, name: str) -> None:
        """Begin a sampling; warnings call the net `name`."""
        self.sides, self.warnings = GuidanceSides(self.applied), RunWarnings(name, self.node_id)

    def copy(self) -> Weighting:
        """The same weighting, outside a sampling."""
        return Weighting(self.application, self.node_id, self.applied)


class WeightedControl(Net):
    """What `weighted` adds to the class of a net: a copy of its residuals is weighted, then added to those before.

    Everything else is the net's own, so whatever reads its hint, strength or window, or sets them, finds them.
    """

    weighting: Weighting
    cond_hint_original: Tensor
    cond_hint: Tensor | None
    sub_idxs: Sequence[int] | None = None
    """As in `CoreControlNet`."""

    @property
    def applied(self) -> Applied | None:
        """The sides of guidance it was applied on, if our nodes applied it."""
        return self.weighting.applied

    @applied.setter
    def applied(self, applied: Applied | None) -> None:
        self.weighting.applied = applied

    @property
    def application(self) -> Application:
        """How it is applied: with pooled residuals on the conditional side, as ours, unless told otherwise."""
        application = self.weighting.application
        pooled = application.side is None and getattr(self, "global_average_pooling", False)
        return replace(application, side="conditional") if pooled else application

    def copy(self) -> WeightedControl:
        """A copy to be configured on its own."""
        return weighted(super().copy(), self.weighting.copy())

    def pre_run(self, model: HostModel, percent_to_timestep_function: Callable[[float], float]) -> None:
        """Begin a sampling."""
        super().pre_run(model, percent_to_timestep_function)
        self.weighting.begin(_plain_class(type(self)).__name__)
        self.cond_hint = None  # an interrupted sampling leaves its own, of other tiles or fewer pictures

    def get_control(
        self, x_noisy: Tensor, t: Tensor, cond: dict[str, Any], batched_number: int, transformer_options: dict[str, Any]
    ) -> HostResiduals | None:
        """What this net and those before it add at one step; arguments as `CoreControlNet.get_control`."""
        marks = read_marks(cond, transformer_options)
        step = (x_noisy, t, cond, batched_number, transformer_options)
        rows = rows_of(len(x_noisy), batched_number, transformer_options)
        window = Window(*map(float, self.timestep_range))
        self.weighting.warnings.begin(self, window, x_noisy, rows, transformer_options)
        previous = previous_residuals(self, *step)
        acting = self._acting(marks, transformer_options, batched_number)
        if not any(acting):
            return previous
        with comfy.controlnet.ControlIsolation(self), self._hints_of(rows):
            control: HostResiduals | None = super().get_control(*step)
        if control is None:
            return previous
        if self.application.curve == "flat" and all(acting):
            return added(previous, control)
        on = torch.tensor(acting * rows.tiles, device=x_noisy.device).repeat_interleave(len(rows.frames))
        return added(previous, self._weighted(control, x_noisy.shape[-2], on))

    @contextmanager
    def _hints_of(self, rows: Rows) -> Iterator[None]:
        """While a part of the batch is drawn, show the net only the hints of its pictures."""
        hints: Tensor = self.cond_hint_original
        if rows.whole or len(hints) == 1:
            yield
            return
        self.cond_hint_original, self.cond_hint = hints[[frame % len(hints) for frame in rows.frames]], None
        try:
            yield
        finally:
            self.cond_hint_original, self.cond_hint = hints, None

    def _acting(self, marks: BatchMarks | None, transformer_options: dict[str, Any], parts: int) -> list[bool]:
        """Whether the net acts on each part of the batch."""
        side, known = self.application.acting_side, self.weighting.sides.of_parts(marks, transformer_options, parts)
        if side == "both" or known is None:
            if side != "both":
                self.weighting.warnings.show(SIDE_UNKNOWN)
            return [True] * parts
        return [part == side for part in known]

    def _weighted(self, control: HostResiduals, latent_height: int, rows: Tensor) -> HostResiduals:
        """A weighted copy of the net's residuals, zero in the rows where it does not act."""
        tensors = [residual for items in control.values() for residual in items if residual is not None]
        if any(residual.ndim != 4 for residual in tensors):
            if self.application.curve != "flat":
                self.weighting.warnings.show(NO_RESOLUTIONS)
            factors = {place: [1.0] * len(items) for place, items in control.items()}
        else:
            factors = self._factors(control, latent_height)

        def weighted_rows(residual: Tensor | None, factor: float) -> Tensor | None:
            if residual is None:
                return None
            expanded = residual.expand(len(rows), *residual.shape[1:]) if len(residual) == 1 else residual
            return expanded * rows.to(residual.dtype).reshape(-1, *(1,) * (residual.ndim - 1)) * factor

        return {place: list(map(weighted_rows, items, factors[place])) for place, items in control.items()}

    def _factors(self, control: HostResiduals, latent_height: int) -> dict[str, list[float]]:
        """The weight of each residual. T2I-Adapters give theirs in "input", deepest first."""
        place = "output" if control.get("output") else "input"
        order = 1 if place == "output" else -1
        skips = control[place][::order]
        middles = control.get("middle", [])
        levels = _levels([*skips, middles[0] if middles else None], latent_height)
        blocks = BlockLevels(tuple(levels[:-1]), levels[-1])
        *weights, middle = block_weights(self.application.curve, blocks, latent_height)
        others = {name: [1.0] * len(items) for name, items in control.items()}
        return {**others, "middle": [middle] * len(middles), place: weights[::order]}


def weighted(net: HostControlNet, weighting: Weighting) -> WeightedControl:
    """Let a net, a copy that nobody else uses, weight its own residuals: it stays an instance of its class."""
    net.__class__ = _weighted_class(_plain_class(type(net)))  # type: ignore[arg-type]  # classes are hashable
    net.weighting = weighting
    found: WeightedControl = net
    return found


@cache
def _weighted_class(plain: type[Any]) -> type[Any]:
    """A class of nets, with weighting."""
    return type(plain.__name__, (WeightedControl, plain), {"__module__": plain.__module__})


def _plain_class(cls: type[Any]) -> type[Any]:
    """A class of nets without weighting."""
    plain: type[Any] = cls.__mro__[2] if issubclass(cls, WeightedControl) else cls
    return plain


def _levels(tensors: Sequence[Tensor | None], latent_height: int) -> list[int]:
    """How often each residual's resolution was halved; a missing residual has the level of the one before it."""
    levels = [0]
    for tensor in tensors:
        levels.append(levels[-1] if tensor is None else round(math.log2(latent_height / tensor.shape[-2])))
    return levels[1:]
