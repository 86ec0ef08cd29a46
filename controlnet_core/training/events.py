"""What happens in a run, as data: text, a progress bar, a node and TensorBoard are views of the same events."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal

from torch import Tensor

State = Literal["new", "resumed", "branched", "finished"]
"""How a run begins: at its first step, from a checkpoint of its own, from one of another run, or at its end."""


@dataclass(frozen=True)
class Opened:
    """A run was found, or is about to begin.

    Attributes:
        path: Its folder.
        state: How it begins.
        step: Optimizer steps done so far.
        steps: Optimizer steps in all.
        begun_from: The folder of the other run that it goes on from, where it does.
        nearest: For a new run the folder of the run that differs least, if there is one.
        differences: In what they differ.
        misread: Folders of runs of another format, which cannot be gone on with.
    """

    path: str
    state: State
    step: int
    steps: int
    begun_from: str | None = None
    nearest: str | None = None
    differences: tuple[str, ...] = ()
    misread: tuple[str, ...] = ()


@dataclass(frozen=True)
class Encoding:
    """Pairs are encoded.

    Attributes:
        done: How many.
        total: Of how many.
    """

    done: int
    total: int


@dataclass(frozen=True)
class Drawing:
    """Held-out hints are drawn to measure the run.

    Attributes:
        done: How many.
        total: Of how many.
    """

    done: int
    total: int


@dataclass(frozen=True)
class Stepped:
    """An optimizer step was done.

    Attributes:
        step: Steps done by now.
        steps: Steps in all.
        loss: The loss of the step.
        gradient_norm: The gradient's norm before clipping.
        seconds: The time it took.
    """

    step: int
    steps: int
    loss: float
    gradient_norm: float
    seconds: float


@dataclass(frozen=True)
class Evaluated:
    """Following was measured.

    Attributes:
        step: Steps done by now.
        steps: Steps in all.
        following: The mean following score, 0 to 1.
        scores: That of each held-out hint.
        measures: What else was measured, by name.
        seconds: The time it took.
        pictures: What was drawn, shape (N, 3, H, W) in [0, 1]; no part of the JSON.
    """

    step: int
    steps: int
    following: float
    scores: tuple[float, ...]
    measures: dict[str, float]
    seconds: float
    pictures: Tensor = field(repr=False, compare=False)


@dataclass(frozen=True)
class Interrupted:
    """The run was interrupted; the same call resumes it.

    Attributes:
        step: The last step that is kept.
        steps: Steps in all.
    """

    step: int
    steps: int


@dataclass(frozen=True)
class Finished:
    """The run is finished, and its report is written.

    Attributes:
        net: The file of the trained net.
        report: The content of `report.json`.
    """

    net: str
    report: dict[str, Any]


Event = Opened | Encoding | Drawing | Stepped | Evaluated | Interrupted | Finished


def event_json(event: Event) -> dict[str, Any]:
    """An event as JSON has it: its kind under "event", in small letters, and its fields."""
    values = {one.name: getattr(event, one.name) for one in fields(event) if one.name != "pictures"}
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
    return {"event": type(event).__name__.lower(), **plain}


def event_lines(event: Event) -> list[str]:
    """An event in words, for a log: nothing for what a progress bar shows better."""
    match event:
        case Opened():
            return _opened_lines(event)
        case Evaluated():
            return [f"step {event.step}: following {event.following:.3f}"]
        case Interrupted():
            return [f"interrupted after step {event.step:,} of {event.steps:,}, which is kept"]
        case Finished():
            return [f"finished: {event.net}"]
        case Encoding() | Drawing() | Stepped():
            return []


def _opened_lines(event: Opened) -> list[str]:
    lines = [f"run folder {event.path}"]
    if event.state == "finished":
        return [*lines, "this run is finished: it is read back"]
    if event.state == "branched":
        return [*lines, f"it begins from step {event.step} of the run {event.begun_from}"]
    if event.state == "resumed":
        return [*lines, f"it resumes from step {event.step}"]
    if event.nearest is not None:
        differences = ", ".join(event.differences)
        lines.append(f"a new run; the nearest is {event.nearest}, from which it differs: {differences}")
    if event.misread:
        some = ", ".join(event.misread[:3])
        lines.append(f"runs of another version, which named them otherwise, are left as they are: {some}")
    return lines
