"""The metrics of a run: one line of JSON for each step, written and read only here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..evaluation.validation import Evaluation
from ..whole_file import write_whole, writing

SCORE_DIGITS = 4


@dataclass(frozen=True)
class Measured:
    """What an evaluation measured.

    Attributes:
        following: The mean following score, 0 to 1.
        scores: The score of each hint.
        measures: Other measures, by name.
        seconds: How long it took.
        settings: The settings it was measured with.
    """

    following: float
    scores: list[float]
    measures: dict[str, float]
    seconds: float
    settings: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, evaluation: Evaluation, seconds: float, settings: dict[str, Any]) -> Measured:
        """What is kept of an evaluation."""
        scores = [round(score, SCORE_DIGITS) for score in evaluation.scores]
        return cls(evaluation.following, scores, dict(evaluation.measures), seconds, settings)


@dataclass(frozen=True)
class MetricsLine:
    """One line: a step, an evaluation, or both.

    Attributes:
        step: Optimizer steps done by then.
        session: The session of the run it belongs to, counted from 1.
        loss: The step's loss; None where there was no step.
        gradient_norm: The gradient's norm before clipping.
        seconds: Time of the step.
        evaluation: What was measured after it, if anything was.
    """

    step: int
    session: int
    loss: float | None = None
    gradient_norm: float | None = None
    seconds: float = 0.0
    evaluation: Measured | None = None


class Metrics:
    """The file of a run's metrics.

    Arguments:
        path: The file, which need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, line: MetricsLine) -> None:
        """Add a line.

        Raises:
            WriteError: If it cannot be written.
        """
        with writing(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(_text(line))

    def read(self) -> list[MetricsLine]:
        """All lines; a last line that a kill cut off is left out."""
        if not self.path.exists():
            return []
        lines = []
        for text in self.path.read_text(encoding="utf-8").splitlines():
            try:
                values = json.loads(text)
            except json.JSONDecodeError:
                break
            evaluation = values.pop("evaluation", None)
            lines.append(MetricsLine(**values, evaluation=None if evaluation is None else Measured(**evaluation)))
        return lines

    def rewind(self, step: int) -> list[MetricsLine]:
        """Remove the lines after `step`, whose work is lost and will be done again; return those that are kept."""
        kept = [line for line in self.read() if line.step <= step]
        self.write(kept)
        return kept

    def write(self, lines: Sequence[MetricsLine]) -> None:
        """Replace all lines.

        Raises:
            WriteError: If they cannot be written; the old ones stay.
        """
        write_whole(self.path, "".join(map(_text, lines)).encode())


def _text(line: MetricsLine) -> str:
    return json.dumps({name: value for name, value in asdict(line).items() if value is not None}) + "\n"
