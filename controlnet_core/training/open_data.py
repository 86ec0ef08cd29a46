"""Opens the data that a job names, with the validation that measures a run on it."""

from __future__ import annotations

from dataclasses import replace

from ..base import Base
from ..data.dataset import PairDataset
from ..data.folder.folder_dataset import FolderDataset
from ..data.held_out import FEWEST, split_held_out
from ..evaluation.hint_preference import HintPreferenceValidation
from ..sampling.generate import SamplingSettings
from ..toy.shapes_dataset import ShapesDataset
from ..toy.shapes_validation import ShapesValidation
from .job import FolderData, ShapesData
from .report import ShownValidation
from .settings import EvaluationSettings, TrainSettings

FILE_HASHES = "files.sqlite"

OpenedData = tuple[PairDataset, ShownValidation | None]
"""The pairs to train on, and the validation on held-out pairs; None if there are too few pairs."""


def open_data(data: ShapesData | FolderData, settings: TrainSettings, base: Base) -> OpenedData:
    """Open the pairs that a job names, in the base's own size unless it names another.

    Arguments:
        data: The data to train on.
        settings: The run's settings: how it is measured, and where the hashes of files are kept.
        base: The base to train on.

    Raises:
        DatasetError: If a folder holds no pairs that can be used.
    """
    size = data.size or base.family.image_size
    if isinstance(data, FolderData):
        index = settings.out / "cache" / FILE_HASHES
        folder = FolderDataset(data.path, size, data.hint, data.canny, data.blur, index)
        return hold_out(folder, settings.evaluation, base)
    dataset = ShapesDataset(data.count, size, data.seed, hint=data.hint)
    evaluation = settings.evaluation
    held_out = replace(dataset, count=evaluation.hints, held_out=True)
    return dataset, ShapesValidation(base, held_out, _sampling(evaluation, size, size), evaluation.side)


def hold_out(pairs: PairDataset, evaluation: EvaluationSettings, base: Base) -> OpenedData:
    """Hold some pairs out from training, to measure a run on them.

    Arguments:
        pairs: All pairs.
        evaluation: How to measure a run.
        base: The base to train on.

    Returns:
        The pairs to train on and the validation for `train`; if there are fewer than 20, all pairs and None.
    """
    training, held_out = split_held_out(pairs)
    if held_out is None:
        return training, None
    shown = replace(held_out, indices=held_out.indices[: max(FEWEST, evaluation.hints)])
    height, width = shown.hints([0]).shape[-2:]
    sampling = _sampling(evaluation, height, width)
    return training, HintPreferenceValidation(base, shown, sampling, evaluation.side, evaluation.pictures)


def _sampling(evaluation: EvaluationSettings, height: int, width: int) -> SamplingSettings:
    """How samples are drawn."""
    return SamplingSettings(evaluation.sampling_steps, evaluation.guidance, (height, width))
