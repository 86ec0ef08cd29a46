"""The outputs of the dataset node: data to train on, a preview and a report; nothing is encoded yet.

ComfyUI gives the node all values of an input at once, in a list, so that pictures that come one by one are one dataset.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
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

Inputs = Mapping[str, Sequence[Any]]
"""For each input its values: one of a widget, any number of a socket."""
Settings = Mapping[str, Any]
Outputs = tuple[TrainingData, Tensor, str]
"""The data, the preview as IMAGE, and the report."""
PREVIEW_SIDE = 256
SHAPES_SIDE = 64


def folder_data(inputs: Inputs, node_id: str | None) -> Outputs:
    """Pairs from a folder.

    Raises:
        DatasetError: If training on the folder would fail; the message is the whole report.
    """
    settings = single_values(inputs)
    path, size, hint = dataset_path(settings["folder"]), settings["size"] or None, settings["hint"]
    report = _examined(settings)
    if report.problems:
        show(report.text, node_id)
        raise DatasetError(
            found=f"{path}:\n{report.text}", expected="only pairs that can be used", do="correct what is listed"
        )
    data = FolderData(path=path, size=size, hint=hint)
    shown = FolderDataset(path, size or PREVIEW_SIDE, hint)
    return _outputs(TrainingData(data, settings["folder"]), shown, report.text, bool(report.warnings), node_id)


def single_values(inputs: Inputs) -> dict[str, Any]:
    """The value of each input that must have a single one.

    Raises:
        DatasetError: If one is given several different ones.
    """
    for name, values in inputs.items():
        if not values or any(value != values[0] for value in values):
            shown = ", ".join(map(repr, values[:3]))
            raise DatasetError(f"{len(values)} values for {name} ({shown})", "one", "give each dataset its own node")
    return {name: values[0] for name, values in inputs.items()}


def _examined(settings: Settings) -> FolderReport:
    """Examine a folder, which may take minutes, or read back the report if the folder is unchanged."""
    path, size, hint = dataset_path(settings["folder"]), settings["size"] or None, settings["hint"]
    name = hashlib.blake2b(repr((folder_stamp(settings["folder"]), size, hint)).encode(), digest_size=12).hexdigest()
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


def folder_stamp(folder: str) -> str:
    """A value that changes with the name, size or time of any file in a folder that the form lists."""
    path = dataset_path(folder)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    facts = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.blake2b(repr(facts).encode(), digest_size=16).hexdigest()


def picture_data(inputs: Inputs, node_id: str | None) -> Outputs:
    """Pairs of images that the graph loaded or made: in batches, one by one, or both.

    Raises:
        DatasetError: If there are not as many hints or captions as images, or their sizes differ.
    """
    hint = single_values({"hint": inputs["hint"]})["hint"]
    given = inputs.get("hints")
    if hint == "images" and not given:
        raise DatasetError("no hints", "a hint for each picture", "connect hints, or choose canny, blur or grey")
    images, captions = _pictures(inputs["images"], "pictures"), _captions(inputs["captions"])
    if hint == "images":
        hints = _pictures(given or (), "hints")
    else:
        hints = torch.cat([HintMaker(hint)(image[None]) for image in images])
    _check_counts(len(images), len(hints), len(captions))
    with torch.inference_mode(False):
        pairs = InMemoryDataset(images.clone(), hints.clone(), captions[0] if len(captions) == 1 else captions)
    report = f"{len(pairs)} pairs of {images.shape[-1]} x {images.shape[-2]} pixels"
    return _outputs(TrainingData(pairs, "images of a graph"), pairs, report, False, node_id)


def _pictures(images: Sequence[Tensor], name: str) -> Tensor:
    """All pictures of some IMAGEs, of which each is a batch or a picture, (N, 3, H, W)."""
    if not images:
        raise DatasetError(f"an empty list of {name}", "at least one", "connect a node that gives some")
    batches = [image if image.ndim == 4 else image[None] for image in images]
    sizes: Counter[str] = Counter()
    for batch in batches:
        sizes[f"{batch.shape[2]} x {batch.shape[1]}"] += len(batch)
    if len(sizes) > 1:
        counts = ", ".join(f"{count} of {size} pixels" for size, count in sizes.most_common(4))
        raise DatasetError(
            found=f"{name} of {len(sizes)} sizes ({counts})",
            expected="one size, that of the pictures which the base draws",
            do="crop and resize them, for example with Crop Image (Center), or read them as a folder, which does it",
        )
    coloured = [batch[..., :3] if batch.shape[-1] > 2 else batch[..., :1].expand(-1, -1, -1, 3) for batch in batches]
    return torch.cat(coloured).movedim(-1, 1)


def _captions(texts: Sequence[str]) -> list[str]:
    """The captions in some texts: in each one, or in each line of a single text."""
    return [text.strip() for text in (texts[0].strip().split("\n") if len(texts) == 1 else texts)]


def _check_counts(pictures: int, hints: int, captions: int) -> None:
    """Check that each picture has its hint and its caption, unless one caption is for all."""
    wrong = [_counted(hints, "hint")] if hints != pictures else []
    if captions not in (1, pictures):
        wrong.append(_counted(captions, "caption"))
    if wrong:
        raise DatasetError(
            found=f"{' and '.join(wrong)} for {_counted(pictures, 'picture')}",
            expected="a hint for each picture, and a caption for each or one for all",
            do="leave out what has no partner, in the same order everywhere",
        )


def _counted(count: int, name: str) -> str:
    return f"{count} {name}{'' if count == 1 else 's'}"


def shapes_data(inputs: Inputs, node_id: str | None) -> Outputs:
    """Pairs of shapes, drawn as needed."""
    data = ShapesData.model_validate(single_values(inputs))
    description = f"{data.hint.replace('_', ' ')}s of shapes"
    shown = ShapesDataset(data.count, SHAPES_SIDE, data.seed, hint=data.hint)
    return _outputs(TrainingData(data, description), shown, f"{data.count:,} pairs, {description}", False, node_id)


def _outputs(data: TrainingData, shown: PairDataset, report: str, has_warnings: bool, node_id: str | None) -> Outputs:
    """Show the report on the node, and draw some pairs."""
    (warn if has_warnings else show)(report, node_id)
    return data, host_picture(preview(shown)), report
