"""What goes through a CONTROL_NET_DATASET socket, and the settings file that says the same to a terminal."""

from __future__ import annotations

from dataclasses import dataclass

from ...controlnet_core.base import Base
from ...controlnet_core.data.pairs import PairDataset
from ...controlnet_core.data.picture_pairs import PicturePairs
from ...controlnet_core.training.job import FolderData, ShapesData
from ...controlnet_core.training.opening import open_data, open_validation
from ...controlnet_core.training.result import ShownValidation
from ...controlnet_core.training.settings import EvaluationSettings, TrainSettings
from ...controlnet_core.training.toml_text import toml_text

NO_BASE = """
# The graph's base is in no one file: save it (Save Checkpoint) and write
# [base]
# path = "..."
"""
NO_DATA = """
# The pictures came from the graph: save them and write
# [data]
# kind = "folder"
# path = "..."
"""


@dataclass(frozen=True, eq=False)
class TrainingData:
    """What to learn from.

    Attributes:
        source: What a settings file would say, or pairs that the graph made.
        words: What it is, for headlines.
    """

    source: ShapesData | FolderData | PicturePairs
    words: str

    def open(self, base: Base) -> PairDataset:
        """The pairs, in the base's own size unless another was chosen."""
        return self.source if isinstance(self.source, PicturePairs) else open_data(self.source, base)

    def open_validation(self, evaluation: EvaluationSettings, base: Base) -> ShownValidation | None:
        """What measures a run, where there is a detector for the kind of hint."""
        return None if isinstance(self.source, PicturePairs) else open_validation(self.source, evaluation, base)


def settings_file(settings: TrainSettings, data: TrainingData, base: str | None) -> str:
    """A run as a settings file of `controlnet-core train`, which goes on with it in the same folder.

    Arguments:
        settings: The run's settings.
        data: What it learns from.
        base: The file of the base; None if there is none.
    """
    values = settings.model_dump(mode="json") | {"device": "auto"}
    missing = ""
    if base is None:
        missing += NO_BASE
    else:
        values["base"] = {"path": base}
    if isinstance(data.source, PicturePairs):
        missing += NO_DATA
    else:
        values["data"] = data.source.model_dump(mode="json")
    return toml_text(values) + missing
