"""Sudden convergence: the step at which a net begins to follow its hints (Zhang et al. 2023, section 3.3, figure 4)."""

from __future__ import annotations

from collections.abc import Sequence


def jump_step(scores: Sequence[tuple[int, float]], without_control: float, ceiling: float) -> int | None:
    """Find the evaluation at which following jumps.

    A net that does not follow scores as the base without control does; one that follows perfectly scores the ceiling.
    The jump is the first evaluation in the upper half of that range from which on the scores stay there, judged by
    their median, so that neither one lucky draw nor one unlucky one decides.

    Arguments:
        scores: Steps and following scores, in the order of steps.
        without_control: The score of the base alone.
        ceiling: The score of encoded and decoded true images.

    Returns:
        The step, or None if the net does not follow at the end.
    """
    half = (without_control + ceiling) / 2
    for position, (step, score) in enumerate(scores):
        rest = sorted(later for _, later in scores[position:])
        if score >= half and rest[len(rest) // 2] >= half:
            return step
    return None
