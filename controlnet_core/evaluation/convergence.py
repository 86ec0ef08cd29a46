"""Sudden convergence: the step at which a net begins to follow its hints (Zhang et al. 2023, section 3.3, figure 4)."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

RISEN, FOLLOWING = 0.25, 0.5
"""Shares of the way from the score without control to the ceiling: risen above every accident, and following."""


def jump_step(scores: Sequence[tuple[int, float]], without_control: float, ceiling: float) -> int | None:
    """Find the evaluation at which following jumps.

    A net that does not follow scores as the base without control does; one that follows perfectly scores the ceiling.
    A run has converged if the median of its last three evaluations is at least half way between the two. Its jump is
    where the rise begins: the first evaluation that is a quarter of the way up, as is the median of it and the next
    two. So neither a lucky draw nor an unlucky one decides, and a net that forgets again has not converged.

    Arguments:
        scores: Steps and following scores, in the order of steps.
        without_control: The score of the base alone.
        ceiling: The score that cannot be surpassed.

    Returns:
        The step, or None if the net does not follow at the end, or if nothing could: the ceiling is not above the
        score without control.
    """
    values = [score for _, score in scores]
    risen, following = (without_control + share * (ceiling - without_control) for share in (RISEN, FOLLOWING))
    if ceiling <= without_control or not values or median(values[-3:]) < following:
        return None
    for position, (step, score) in enumerate(scores):
        if min(score, median(values[position : position + 3])) >= risen:
            return step
    return None
