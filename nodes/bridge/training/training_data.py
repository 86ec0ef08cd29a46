"""The value of a CONTROL_NET_DATASET socket, and the settings file for the same run in a terminal."""

from __future__ import annotations

from dataclasses import dataclass

from ....controlnet_core.base import Base
from ....controlnet_core.data.in_memory import InMemoryDataset
from ....controlnet_core.training.job import FolderData, ShapesData
from ....controlnet_core.training.open_data import OpenedData, hold_out, open_data
from ....controlnet_core.training.settings import TrainSettings
from ....controlnet_core.training.toml_text import toml_text

NO_BASE = """
# The graph's base is not in a single file: save it (Save Checkpoint), then add
# [base]
# path = "..."
"""
NO_DATA = """
# The pictures came from the graph: save them, then add
# [data]
# kind = "folder"
# path = "..."
"""


@dataclass(frozen=True, eq=False)
class TrainingData:
    """The data to train on.

    Attributes:
        source: The table [data] of a settings file, or pairs from the graph.
        description: What it is, for headlines.
    """

    source: ShapesData | FolderData | InMemoryDataset
    description: str

    def open(self, settings: TrainSettings, base: Base) -> OpenedData:
        """The pairs in the base's own size, unless another was chosen, and what measures a run on them."""
        if isinstance(self.source, InMemoryDataset):
            return hold_out(self.source, settings.evaluation, base)
        return open_data(self.source, settings, base)


def settings_file(settings: TrainSettings, data: TrainingData, base: str | None) -> str:
    """A run as a settings file of `controlnet-core train`, which resumes it in the same folder.

    Arguments:
        settings: The run's settings.
        data: The data to train on.
        base: The file of the base; None if there is none.
    """
    values = settings.model_dump(mode="json") | {"device": "auto"}
    comments = ""
    if base is None:
        comments += NO_BASE
    else:
        values["base"] = {"path": base}
    if isinstance(data.source, InMemoryDataset):
        comments += NO_DATA
    else:
        values["data"] = data.source.model_dump(mode="json")
    return toml_text(values) + comments
