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
    "it cannot tell the sides of guidance, so it acts on all of them: either the guider has others than positive and "
    "negative, and the net was not applied by Apply or Stack ControlNets (Core), or a patch of the model has taken the "
    "sides apart without saying which is which"
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


@dataclass(frozen=True)
class BatchMarks:
    """The marks of a batch as the guider made it.

    Attributes:
        parts: For each part, the side by the application's name.
        positions: For each part, its position in the guider's list.
    """

    parts: tuple[Mapping[str, GuidanceSide], ...]
    positions: tuple[int, ...]

    def at(self, positions: Sequence[int]) -> list[Mapping[str, GuidanceSide]] | None:
        """The marks of the parts at these positions, which a wrapper may have chosen, repeated or put in another order.

        None if a position is not one of the batch, or the wrapper did so before a net could read the marks.
        """
        if len(self.positions) != len(self.parts):
            return None
        if tuple(positions) == self.positions:
            return list(self.parts)
        by_position = dict(zip(self.positions, self.parts, strict=True))
        if not by_position.keys() >= set(positions):
            return None
        return [by_position[position] for position in positions]


def read_marks(cond: dict[str, Any], transformer_options: dict[str, Any]) -> BatchMarks | None:
    """The marks of a batch, which are moved out of the UNet's sight; None if it has none.

    They are moved to where the nets before this one and wrappers that call it again find them.
    """
    if KEY in cond:
        transformer_options[KEY] = BatchMarks(cond.pop(KEY).parts, tuple(transformer_options["cond_or_uncond"]))
    marks: BatchMarks | None = transformer_options.get(KEY)
    return marks


@dataclass
class GuidanceSides:
    """Finds the side of each part of the batches of one sampling.

    Attributes:
        applied: How the net was applied; None if by a node that makes no marks.
        positions: The positions of each conditioning in the batch in which it was first seen.
    """

    applied: Applied | None
    positions: dict[object, set[int]] = field(default_factory=dict)

    def of_parts(
        self, marks: BatchMarks | None, transformer_options: Mapping[str, Any], parts: int
    ) -> list[GuidanceSide] | None:
        """The side of each of the `parts` of a batch; None if it cannot be known.

        Without marks, positions count, as long as they are those of plain guidance.
        """
        indices = transformer_options["cond_or_uncond"]
        if len(indices) != parts:
            return None
        if self.applied is None or marks is None:
            return self._by_position(transformer_options.get("uuids", indices), indices)
        found = marks.at(indices)
        if found is None:
            return None
        other: GuidanceSide = "conditional" if self.applied.sides == ("unconditional",) else "unconditional"
        return [part.get(self.applied.name, other) for part in found]

    def _by_position(self, names: Sequence[object], indices: Sequence[int]) -> list[GuidanceSide] | None:
        """The sides of plain guidance.

        A conditioning that is predicted again, alone, keeps the position at which it was first seen. An area has the
        name of its conditioning on both sides.
        """
        if len(names) != len(indices):
            return None
        seen: dict[object, set[int]] = {}
        for name, index in zip(names, indices, strict=True):
            seen.setdefault(name, set()).add(index)
        self.positions = seen | self.positions
        if max(map(max, self.positions.values())) > 1:
            return None
        places = zip(indices, (self.positions[name] for name in names), strict=True)
        found = [index if index in known else min(known) for index, known in places]
        return ["conditional" if index == 0 else "unconditional" for index in found]
