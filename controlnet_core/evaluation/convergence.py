"""Sudden convergence: when a net begins to follow its hints, and how abruptly.

Figure 4 of Zhang et al. 2023 (section 3.3) shows a net that ignores its hint at step 6,100 and follows it at step
6,133. Whether a run behaves like that is measured here; its rise may also be gradual, or the evaluations too few to
tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

Pace = Literal["sudden", "gradual", "unresolved"]

RISEN, FOLLOWING = 0.25, 0.5
"""Shares of the distance from the score without control to the ceiling: above chance, and following."""
QUARTER, THREE_QUARTERS = 0.25, 0.75
"""The shares of its own height between which a rise is timed."""
SUDDEN = 0.75
"""The least abruptness of a sudden rise: it takes at most a third of the steps that went by before it."""


@dataclass(frozen=True)
class Convergence:
    """The rise of a following score.

    Abruptness is the step at which a quarter of the rise is done, over that at which three quarters are: nearly 1 for
    a jump after a long wait (0.995 in the paper's figure), 1/3 for a straight rise from the first step on. It does not
    depend on how fast the net learns. Since evaluations are some steps apart, it is known only between two bounds.

    Attributes:
        begins: The step of the evaluation at which following begins, a quarter of the distance to the ceiling.
        least_abruptness: The lower bound of the abruptness.
        most_abruptness: The upper bound of the abruptness.
    """

    begins: int
    least_abruptness: float
    most_abruptness: float

    @property
    def pace(self) -> Pace:
        """Sudden or gradual; unresolved where the evaluations are too far apart to tell."""
        if self.least_abruptness >= SUDDEN:
            return "sudden"
        return "gradual" if self.most_abruptness < SUDDEN else "unresolved"

    @property
    def sentence(self) -> str:
        """What a report says about the rise."""
        pace = "too few evaluations to tell how suddenly" if self.pace == "unresolved" else self.pace
        return f"begins to follow at step {self.begins:,}; {pace}"


def convergence(scores: Sequence[tuple[int, float]], without_control: float, ceiling: float) -> Convergence | None:
    """Find where following begins, and how abruptly it rises.

    A net that does not follow scores as the base does without control; one that follows perfectly scores the ceiling.
    A run has converged if the median of its last three evaluations is at least half way between the two, so a net that
    forgets again has not converged. The rise is read off the rising curve nearest to the scores, so that no single
    lucky or unlucky evaluation decides.

    Arguments:
        scores: Steps and following scores, in the order of steps, of all hints or of a single one.
        without_control: The score of the base alone.
        ceiling: The score that cannot be surpassed.

    Returns:
        None if the net does not follow at the end, or if nothing could: the ceiling is not above the score without
        control.
    """
    steps, values = [step for step, _ in scores], rising_fit([score for _, score in scores])
    distance = ceiling - without_control
    if distance <= 0 or not values:
        return None
    if median(score for _, score in scores[-3:]) < without_control + FOLLOWING * distance:
        return None
    begins = next(index for index, value in enumerate(values) if value >= without_control + RISEN * distance)
    first, last = (_reached(values, without_control, share) for share in (QUARTER, THREE_QUARTERS))
    before_first, before_last = (steps[max(0, index - 1)] for index in (first, last))
    return Convergence(
        begins=steps[begins],
        least_abruptness=before_first / max(1, steps[last]),
        most_abruptness=min(1.0, steps[first] / max(1, before_last)),
    )


def _reached(values: Sequence[float], start: float, share: float) -> int:
    """The index at which rising values have covered a share of the distance from `start` to their end."""
    return next(index for index, value in enumerate(values) if value >= start + share * (values[-1] - start))


def rising_fit(values: Sequence[float]) -> list[float]:
    """The rising curve with the least squared distance from the values: isotonic regression.

    Neighbours that fall are pooled until none does (Barlow et al. 1972, "pool adjacent violators").
    """
    pools: list[tuple[float, int]] = []
    for value in values:
        mean, count = value, 1
        while pools and pools[-1][0] >= mean:
            pool_mean, pool_count = pools.pop()
            mean, count = (mean * count + pool_mean * pool_count) / (count + pool_count), count + pool_count
        pools.append((mean, count))
    return [mean for mean, count in pools for _ in range(count)]
