"""The outputs of the dataset node: data to train on, a preview and a report; nothing is encoded yet."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import comfy.model_management
import comfy.utils
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from ....controlnet_core.data.dataset import PairDataset
from ....controlnet_core.data.folder.examine import FolderReport, examine
from ....controlnet_core.data.folder.folder_dataset import FolderDataset
from ....controlnet_core.data.hints import HintMaker
from ....controlnet_core.data.in_memory import InMemoryDataset, preview
from ....controlnet_core.errors import DatasetError
from ....controlnet_core.toy.shapes_dataset import ShapesDataset
from ....controlnet_core.training.job import FolderData, ShapesData
from ....controlnet_core.whole_file import write_whole
from ..host.folders import dataset_path, runs_path
from ..host.images import host_picture
from ..host.messages import show, warn
from .training_data import TrainingData

Inputs = Mapping[str, Any]
Outputs = tuple[TrainingData, Tensor, str]
"""The data, the preview as IMAGE, and the report."""
PREVIEW_SIDE = 256
SHAPES_SIDE = 64


def folder_data(inputs: Inputs, node_id: str | None) -> Outputs:
    """Pairs from a folder.

    Raises:
        DatasetError: If training on the folder would fail; the message is the whole report.
    """
    path, size, hint = dataset_path(inputs["folder"]), inputs["size"] or None, inputs["hint"]
    report = _examined(inputs)
    if report.problems:
        show(report.text, node_id)
        raise DatasetError(
            found=f"{path}:\n{report.text}", expected="only pairs that can be used", do="correct what is listed"
        )
    data = FolderData(path=path, size=size, hint=hint)
    shown = FolderDataset(path, size or PREVIEW_SIDE, hint)
    return _outputs(TrainingData(data, inputs["folder"]), shown, report.text, bool(report.warnings), node_id)


def _examined(inputs: Inputs) -> FolderReport:
    """Examine a folder, which may take minutes, or read back the report if the folder is unchanged."""
    path, size, hint = dataset_path(inputs["folder"]), inputs["size"] or None, inputs["hint"]
    name = hashlib.blake2b(repr((folder_stamp(inputs), size, hint)).encode(), digest_size=12).hexdigest()
    saved, adapter = runs_path() / "cache" / "reports" / f"{name}.json", TypeAdapter(FolderReport)
    with suppress(FileNotFoundError, ValidationError):
        return adapter.validate_json(saved.read_bytes())
    bar = comfy.utils.ProgressBar(1)

    def progress(done: int, total: int) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        bar.update_absolute(done, total)

    report = examine(path, size, hint, progress)
    if not report.problems:
        write_whole(saved, adapter.dump_json(report))
    return report


def folder_stamp(inputs: Inputs) -> str:
    """A value that changes with the name, size or time of any file in a folder."""
    path = dataset_path(inputs["folder"])
    files = sorted(file for file in path.rglob("*") if file.is_file())
    facts = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.blake2b(repr(facts).encode(), digest_size=16).hexdigest()


def picture_data(inputs: Inputs, node_id: str | None) -> Outputs:
    """Pairs of images that the graph loaded or made.

    Raises:
        DatasetError: If there are not as many hints or captions as images, or their sizes differ.
    """
    images = inputs["images"].movedim(-1, 1)[:, :3]
    if inputs["hint"] == "images":
        given = inputs.get("hints")
        if given is None:
            raise DatasetError("no hints", "a hint for each picture", "connect hints, or choose canny, blur or grey")
        hints = given.movedim(-1, 1)[:, :3]
    else:
        hints = torch.cat([HintMaker(inputs["hint"])(image[None]) for image in images])
    lines = [line.strip() for line in inputs["captions"].strip().split("\n")]
    captions = lines[0] if len(lines) == 1 else lines
    with torch.inference_mode(False):
        pairs = InMemoryDataset(images.clone(), hints.clone(), captions)
    report = f"{len(pairs)} pairs of {images.shape[-1]} x {images.shape[-2]} pixels"
    return _outputs(TrainingData(pairs, "images of a graph"), pairs, report, False, node_id)


def shapes_data(inputs: Inputs, node_id: str | None) -> Outputs:
    """Pairs of shapes, drawn as needed."""
    data = ShapesData(count=inputs["count"], seed=inputs["seed"], hint=inputs["hint"])
    description = f"{data.hint.replace('_', ' ')}s of shapes"
    shown = ShapesDataset(data.count, SHAPES_SIDE, data.seed, hint=data.hint)
    return _outputs(TrainingData(data, description), shown, f"{data.count:,} pairs, {description}", False, node_id)


def _outputs(data: TrainingData, shown: PairDataset, report: str, has_warnings: bool, node_id: str | None) -> Outputs:
    """Show the report on the node, and draw some pairs."""
    (warn if has_warnings else show)(report, node_id)
    return data, host_picture(preview(shown)), report
