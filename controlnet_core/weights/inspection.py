"""Says what a weights file is, whether it is whole, and what is odd about it."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from ..errors import CheckpointError
from . import diffusers_keys, ldm_keys
from .base_parts import find_parts, load_base_parts
from .detect import Detected, detect, near_miss
from .keymap import Comparison, KeyMap
from .load import controlnet_part
from .sizes import has_old_attention, read_autoencoder_config, read_unet_config, strip
from .source import TensorFile, open_tensor_file


@dataclass(frozen=True)
class CheckpointReport:
    """What a weights file holds.

    Attributes:
        path: The file, or the diffusers folder.
        kind: "controlnet", "base", "unet", "autoencoder" or "text_encoder"; "unsupported" for other known
            kinds; or "unknown".
        description: What it is, in words.
        layout: Whose key names it has, "ldm" or "diffusers", for the kinds that can be read.
        family: The model family it belongs to, where its sizes say so.
        parameters: How many numbers it holds.
        tensors: How many tensors it holds.
        dtype: The dtype of most of its numbers.
        hint_channels: Channels of a ControlNet's hint image.
        hint_encoder: Which hint encoder a ControlNet has.
        missing: Keys that should be there.
        extra: Keys that should not.
        unused: Keys that are known and not needed.
        misshapen: Tensors of another shape than the config's.
        metadata: The words stored in the file.
        notes: What else a user should know.
    """

    path: str
    kind: str
    description: str
    layout: str | None = None
    family: str | None = None
    parameters: int = 0
    tensors: int = 0
    dtype: str | None = None
    hint_channels: int | None = None
    hint_encoder: str | None = None
    missing: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    misshapen: tuple[str, ...] = ()
    metadata: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def usable(self) -> bool:
        """Whether `load_controlnet` or `load_base_parts` takes the file as it is."""
        faults = self.missing or self.extra or self.misshapen or self.notes
        return self.kind in ("controlnet", "base") and not faults

    def to_json(self) -> str:
        """The report as one JSON object."""
        return json.dumps({**asdict(self), "usable": self.usable}, indent=2)


def inspect_checkpoint(path: str | os.PathLike[str]) -> CheckpointReport:
    """Say what a file or diffusers folder is, without reading its weights.

    A file that cannot be used is described; only one that cannot be opened as safetensors is an error.

    Raises:
        CheckpointError: If there is no such file, or it is damaged or no safetensors file.
    """
    if (Path(path) / "model_index.json").is_file():
        return _folder_report(Path(path))
    file = open_tensor_file(path)
    detected = detect(file.shapes)
    report = _counted(file)
    if detected is None:
        return replace(report, kind="unknown", description=near_miss(file.shapes))
    report = replace(report, description=detected.kind.words)
    if detected.kind.name is None:
        return replace(report, kind="unsupported", notes=(detected.kind.do,))
    report = replace(report, kind=detected.kind.name, layout=detected.kind.layout)
    try:
        return _compared(report, file, detected)
    except CheckpointError as error:
        return replace(report, notes=(str(error),))


def _counted(file: TensorFile) -> CheckpointReport:
    """A report with what can be counted in any file."""
    counts: Counter[str] = Counter()
    for key, shape in file.shapes.items():
        counts[file.dtypes[key]] += math.prod(shape)
    return CheckpointReport(
        path=str(file.path),
        kind="unknown",
        description="",
        parameters=counts.total(),
        tensors=len(file.shapes),
        dtype=max(counts, key=lambda dtype: counts[dtype], default=None),
        metadata=file.metadata,
    )


def _compared(report: CheckpointReport, file: TensorFile, detected: Detected) -> CheckpointReport:
    """The report with what the key map of its kind says."""
    if report.kind == "controlnet":
        net = controlnet_part(file)
        report = replace(report, hint_channels=net.hint_channels, hint_encoder=net.hint_encoder)
        return _with(report, net.part.keymap.compare(file.shapes), net.part.config.family)
    if report.kind == "base":
        parts = find_parts(file)
        report = _with(report, parts.keymap().compare(file.shapes), parts.unet.config.family)
        return replace(report, notes=parts.lacking())
    if report.kind == "text_encoder":
        return report
    keymap, family = _single(file, detected)
    return _with(report, keymap.compare(file.shapes), family)


def _single(file: TensorFile, detected: Detected) -> tuple[KeyMap, str | None]:
    """The key map of a UNet or autoencoder alone in its file, and the UNet's family."""
    shapes, layout = strip(file.shapes, detected.prefix), detected.kind.layout
    if detected.kind.name == "unet":
        unet = read_unet_config(shapes, layout, file.stored_facts())
        keymap = ldm_keys.unet_keymap(unet) if layout == "ldm" else diffusers_keys.unet_keymap(unet)
        return keymap.prefixed(detected.prefix), unet.family
    config = read_autoencoder_config(shapes, layout, file.stored_facts())
    if layout == "ldm":
        return ldm_keys.autoencoder_keymap(config).prefixed(detected.prefix), None
    return diffusers_keys.autoencoder_keymap(config, has_old_attention(shapes)).prefixed(detected.prefix), None


def _with(report: CheckpointReport, comparison: Comparison, family: str | None) -> CheckpointReport:
    return replace(
        report,
        family=family,
        missing=comparison.missing,
        extra=comparison.extra,
        unused=comparison.unused,
        misshapen=comparison.misshapen,
    )


def _folder_report(folder: Path) -> CheckpointReport:
    """The report on a diffusers folder, from all its parts."""
    report = CheckpointReport(
        path=str(folder), kind="base", description="a base in a diffusers folder", layout="diffusers"
    )
    try:
        parts = load_base_parts(folder)
    except CheckpointError as error:
        return replace(report, notes=(str(error),))
    files = (parts.unet.file, parts.autoencoder.file, *(part.file for part in parts.text_encoders))
    counted = [_counted(file) for file in files]
    return replace(
        report,
        family=parts.family.unet.family,
        parameters=sum(part.parameters for part in counted),
        tensors=sum(part.tensors for part in counted),
        dtype=counted[0].dtype,
        unused=parts.unused,
        metadata=parts.metadata,
    )
