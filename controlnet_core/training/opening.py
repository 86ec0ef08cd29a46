"""Opens the data that a job names, with what measures a run on it."""

from __future__ import annotations

from ..base import Base
from ..data.folder import FolderDataset
from ..data.pairs import PairDataset, ShapesDataset
from ..evaluation.following import ShapesValidation
from ..sampling.generate import SamplingSettings
from .job import FolderData, ShapesData
from .result import ShownValidation
from .settings import EvaluationSettings


def open_data(data: ShapesData | FolderData, base: Base) -> PairDataset:
    """Open the pairs to train on, in the base's own size unless the job names another.

    Raises:
        DatasetError: If a folder holds no pairs that can be used.
    """
    size = data.size or base.family.image_size
    if isinstance(data, FolderData):
        return FolderDataset(data.path, size, data.hint, data.canny, data.blur)
    return ShapesDataset(data.count, size, data.seed, hint=data.hint)


def open_validation(
    data: ShapesData | FolderData, evaluation: EvaluationSettings, base: Base
) -> ShownValidation | None:
    """What measures whether held-out hints are followed; None for a folder, whose kind of hint nobody detects."""
    if isinstance(data, FolderData):
        return None
    size = data.size or base.family.image_size
    held_out = ShapesDataset(evaluation.hints, size, data.seed, held_out=True, hint=data.hint)
    sampling = SamplingSettings(evaluation.sampling_steps, evaluation.guidance, (size, size))
    return ShapesValidation(base, held_out, sampling, evaluation.sides)
