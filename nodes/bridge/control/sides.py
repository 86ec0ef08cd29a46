"""On which side of guidance each part of a batch is, as far as an applied net can know.

Of each part, ComfyUI tells a net only the position in the guider's own list: [positive, negative] in plain guidance,
[negative, middle, positive] in dual guidance, [negative] alone in others. So Apply marks each conditioning with the
side on which it was applied. The mark is a model condition: ComfyUI joins those of a batch part by part, in every
guider's order, and hands them to the net.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ....controlnet_core.control.step import GuidanceSide

KEY = "controlnet_core_sides"
SIDE_UNKNOWN = (
    "this guider has other sides than positive and negative, and the net was not applied by Apply or Stack ControlNets "
    "(Core), so it acts on all of them"
)


@dataclass(frozen=True)
class Applied:
    """That a net was applied, and on which sides.

    Attributes:
        name: Tells this application from all others.
        sides: The sides of the conditionings it was applied to.
    """

    sides: tuple[GuidanceSide, ...]
    name: str = field(default_factory=lambda: uuid.uuid4().hex)


class SideMarks:
    """For each part of a batch, the side on which each application was made; a model condition of ComfyUI.

    Arguments:
        parts: For each part, the side by the application's name.
    """

    def __init__(self, parts: Sequence[Mapping[str, GuidanceSide]]) -> None:
        self.parts = tuple(parts)

    def process_cond(self, batch_size: int, **area: object) -> SideMarks:
        """The mark of one part, whatever its number of pictures and its area."""
        return self

    def can_concat(self, other: object) -> bool:
        """Whether two parts may share a batch: marks are no obstacle."""
        return True

    def concat(self, others: Sequence[SideMarks]) -> SideMarks:
        """The marks of several parts, in their order."""
        return SideMarks([part for marks in (self, *others) for part in marks.parts])

    def size(self) -> list[int]:
        """A shape, from which ComfyUI estimates memory."""
        return [1]


def marked(options: Mapping[str, Any], applied: Applied, side: GuidanceSide) -> dict[str, Any]:
    """The model conditions of a conditioning's entry, with the mark that a net was applied on this side."""
    conditions = options.get("model_conds", {})
    earlier = conditions[KEY].parts[0] if KEY in conditions else {}
    return {**conditions, KEY: SideMarks([{**earlier, applied.name: side}])}


def read_marks(cond: dict[str, Any], transformer_options: dict[str, Any]) -> SideMarks | None:
    """The marks of a batch, which are moved out of the UNet's sight; None if it has none.

    They are moved to where the nets before this one and wrappers that call it again find them.
    """
    if KEY in cond:
        transformer_options[KEY] = cond.pop(KEY)
    marks: SideMarks | None = transformer_options.get(KEY)
    return marks


@dataclass
class GuidanceSides:
    """Finds the side of each part of the batches of one sampling.

    Attributes:
        applied: How the net was applied; None if by a node that makes no marks.
        positions: The position at which each conditioning was first seen.
    """

    applied: Applied | None
    positions: dict[object, int] = field(default_factory=dict)

    def of_parts(self, marks: SideMarks | None, transformer_options: Mapping[str, Any]) -> list[GuidanceSide] | None:
        """The side of each part of a batch; None if it cannot be known.

        Without marks, positions count, as long as they are those of plain guidance. A conditioning that is predicted
        again, alone, keeps the position at which it was first seen.
        """
        if self.applied is not None and marks is not None:
            other: GuidanceSide = "conditional" if self.applied.sides == ("unconditional",) else "unconditional"
            return [part.get(self.applied.name, other) for part in marks.parts]
        indices = transformer_options["cond_or_uncond"]
        names = transformer_options.get("uuids", indices)
        found = [self.positions.setdefault(name, index) for name, index in zip(names, indices, strict=True)]
        if max(self.positions.values()) > 1:
            return None
        return ["conditional" if index == 0 else "unconditional" for index in found]

