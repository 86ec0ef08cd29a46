"""What happens in a run, as data: text, a progress bar, a node and TensorBoard are views of the same events."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import PurePath
from typing import Any, Literal

from torch import Tensor

State = Literal["new", "resumed", "branched", "finished"]
"""How a run begins: at its first step, from its own checkpoint, from one of another run, or already finished."""


@dataclass(frozen=True)
class Opened:
    """A run was found, or is about to begin.

    Attributes:
        path: Its folder.
        state: How it begins.
        step: Optimizer steps done so far.
        steps: Optimizer steps in all.
        begun_from: The folder of the other run whose checkpoint it starts from, if any.
        nearest: For a new run, the folder of the run that differs least, if any.
        differences: What differs between the two.
        misread: Folders of runs of another format, which cannot be resumed.
        evaluation_interval: Steps between two evaluations; None if there are none.
    """

    path: str
    state: State
    step: int
    steps: int
    begun_from: str | None = None
    nearest: str | None = None
    differences: tuple[str, ...] = ()
    misread: tuple[str, ...] = ()
    evaluation_interval: int | None = None


@dataclass(frozen=True)
class Memory:
    """It was counted what a step will take at its peak.

    Attributes:
        gib: All of it, in GiB.
        parts: What it is for, in GiB, by name.
        precision: What is computed in.
        free: What the device has, in GiB; None if nothing tells.
        preset: Where that is less: the largest preset that fits, if there is one.
    """

    gib: float
    parts: dict[str, float]
    precision: str
    free: float | None = None
    preset: int | None = None

    @property
    def fits(self) -> bool:
        """Whether the device has as much, as far as that is known."""
        return self.free is None or self.gib <= self.free


@dataclass(frozen=True)
class Encoding:
    """Pairs are being encoded: their pictures and captions, and hints of which a copy is kept.

    Attributes:
        done: Pictures, captions and hints encoded so far, each counted once, however many pairs it is in.
        total: All of them.
    """

    done: int
    total: int


@dataclass(frozen=True)
class Fitting:
    """The hint encoder is being fitted, before the first step.

    Attributes:
        done: Hints encoded and steps of the fit done so far.
        total: Both in all.
    """

    done: int
    total: int


@dataclass(frozen=True)
class Drawing:
    """Held-out hints are being drawn, to measure the run.

    Attributes:
        done: Hints drawn so far.
        total: Hints to draw.
    """

    done: int
    total: int


@dataclass(frozen=True)
class Stepped:
    """An optimizer step was done.

    Attributes:
        step: Steps done so far.
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
        step: Steps done so far.
        steps: Steps in all.
        following: The mean following score, 0 to 1.
        scores: The score of each held-out hint.
        measures: Other measures, by name.
        seconds: The time it took.
        pictures: The drawn pictures, shape (N, 3, H, W) in [0, 1]; not part of the JSON.
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
        step: The last step that is kept: that of the newest checkpoint; 0 if there is none.
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


Event = Opened | Memory | Encoding | Fitting | Drawing | Stepped | Evaluated | Interrupted | Finished


def event_json(event: Event) -> dict[str, Any]:
    """An event as a JSON object: its kind, in lower case, under "event", and its fields."""
    names = [attribute.name for attribute in fields(event) if attribute.name != "pictures"]
    values = {name: getattr(event, name) for name in names}
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
    return {"event": type(event).__name__.lower(), **plain}


def event_lines(event: Event) -> list[str]:
    """An event as lines for a log; none for what a progress bar shows better."""
    match event:
        case Opened():
            return _opened_lines(event)
        case Memory():
            return _memory_lines(event)
        case Evaluated():
            return [f"step {event.step}: following {event.following:.3f}"]
        case Interrupted():
            return [f"interrupted; step {event.step:,} of {event.steps:,} is kept"]
        case Finished():
            return [f"finished: {event.net}"]
        case Encoding() | Fitting() | Drawing() | Stepped():
            return []


def _memory_lines(event: Memory) -> list[str]:
    parts = ", ".join(f"{name} {gib:.1f}" for name, gib in event.parts.items() if gib >= 0.05)
    lines = [f"a step takes {event.gib:.1f} GiB{f' ({parts})' if parts else ''}, in {event.precision}"]
    if not event.fits:
        instead = "no preset fits" if event.preset is None else f"memory = {event.preset} would fit"
        lines.append(f"the device has {event.free:.1f} GiB: {instead}")
    return lines


def _opened_lines(event: Opened) -> list[str]:
    """All runs lie in one folder, so other runs are named without it."""
    lines = [f"run folder {event.path}"]
    if event.state == "finished":
        return [*lines, "this run is already finished; its result is read back"]
    if event.state == "branched":
        return [*lines, f"it starts from step {event.step} of the run {PurePath(event.begun_from or '').name}"]
    if event.state == "resumed":
        return [*lines, f"it resumes from step {event.step}"]
    if event.nearest is not None:
        differences = ", ".join(event.differences)
        lines.append(f"a new run; the nearest is {PurePath(event.nearest).name}, with these differences: {differences}")
    if event.misread:
        folders = ", ".join(PurePath(path).name for path in event.misread[:3])
        lines.append(f"runs written by another version are left as they are: {folders}")
    return lines
