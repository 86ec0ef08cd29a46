"""What a file is, told by its keys: the kinds are data, so that a near miss can be explained."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from ..errors import CheckpointError
from .layouts import registry
from .layouts.kinds import ForeignKind, Kind, Layout, matches_any

AnyKind = TypeVar("AnyKind", bound=Kind, covariant=True)
AnyLayout = TypeVar("AnyLayout", bound=Layout)


@dataclass(frozen=True)
class Detected(Generic[AnyKind]):
    """A kind, and what stands before its keys."""

    kind: AnyKind
    prefix: str


def detect(keys: Iterable[str]) -> Detected[ForeignKind | Layout] | None:
    """The first of all kinds that a file's keys fit, or None."""
    names = tuple(keys)
    return next(
        (Detected(kind, prefix) for kind in registry.KINDS if (prefix := kind.prefix_in(names)) is not None), None
    )


def locate(keys: Iterable[str], wanted: type[AnyLayout]) -> Detected[AnyLayout] | None:
    """A model of the wanted sort in a file that may hold other models beside it, or None."""
    names = tuple(keys)
    for kind in registry.KINDS:
        if isinstance(kind, ForeignKind | wanted) and (prefix := kind.prefix_in(names)) is not None:
            return Detected(kind, prefix) if isinstance(kind, wanted) else None
    return None


def refusal(keys: Iterable[str], expected: str, place: str) -> CheckpointError:
    """The error for a file that is another kind than asked for, saying what it is or what it comes near to."""
    names = tuple(keys)
    detected = detect(names)
    if detected is not None:
        kind = detected.kind
        do = kind.do if isinstance(kind, ForeignKind) else "give it where that kind is asked for"
        return CheckpointError(f"{kind.description}, {place}", expected, do)
    return CheckpointError(f"{near_miss(names)}, {place}", expected, "see what it is with `controlnet-core inspect`")


def near_miss(keys: Iterable[str]) -> str:
    """What an unknown file comes nearest to, and the keys it lacks for that."""
    names = tuple(keys)
    lacking = {
        kind: [pattern for pattern in kind.has_all if not matches_any(pattern, names)]
        for kind in registry.KINDS
        if not isinstance(kind, ForeignKind)
    }
    nearest = min(lacking, key=lambda kind: len(lacking[kind]) / len(kind.has_all))
    if len(lacking[nearest]) == len(nearest.has_all):
        return f"tensors of no known kind ({', '.join(names[:3]) or 'none at all'})"
    gone = lacking[nearest] or list(nearest.has_any)
    return f"what looks like {nearest.description}, but without {', '.join(pattern.lstrip('*') for pattern in gone)}"
