"""Sudden convergence: the step at which a net begins to follow its hints (Zhang et al. 2023, section 3.3, figure 4)."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median


def jump_step(scores: Sequence[tuple[int, float]], without_control: float, ceiling: float) -> int | None:
    """Find the evaluation at which following jumps.

    A net that does not follow scores as the base without control does; one that follows perfectly scores the ceiling.
    The jump is the first evaluation in the upper half of that range at which two conditions hold: the median of it and
    the next two is there too, and so is the median of all that follow. So neither one lucky draw nor one unlucky one
    decides, and a net that forgets again has not converged.

    Arguments:
        scores: Steps and following scores, in the order of steps.
        without_control: The score of the base alone.
        ceiling: The score of encoded and decoded true images.

    Returns:
        The step, or None if the net does not follow at the end, or if nothing could: the ceiling is not above the
        score without control.
    """
    if ceiling <= without_control:
        return None
    half = (without_control + ceiling) / 2
    for position, (step, score) in enumerate(scores):
        rest = [later for _, later in scores[position:]]
        if min(score, median(rest[:3]), median(rest)) >= half:
            return step
    return None
