"""Says what a weights file is, whether it is whole, and what is odd about it."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from ..errors import CheckpointError
from .detect import detect, near_miss
from .facts import stored_facts
from .keymap import Comparison
from .layouts.kinds import AutoencoderLayout, BaseLayout, ControlNetLayout, ForeignKind, Layout, UNetLayout
from .parts.base_in_file import find_parts
from .parts.base_in_folder import base_in_folder, is_base_folder
from .parts.controlnet_part import controlnet_part
from .parts.part import read_part
from .quantised import dequantised
from .safetensors_file import open_tensor_file
from .source import WeightSource, numbers_by_dtype


@dataclass(frozen=True)
class CheckpointReport:
    """What a weights file holds.

    Attributes:
        path: The file, or the diffusers folder.
        kind: "controlnet", "base", "unet", "autoencoder" or "text_encoder"; "unsupported" for other known
            kinds; or "unknown".
        description: What it is, as a phrase.
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
        metadata: The metadata stored in the file, as texts by name.
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
    if is_base_folder(Path(path)):
        return _folder_report(Path(path))
    file = open_tensor_file(path)
    detected = detect(file.shapes)
    report = _counted(file)
    if detected is None:
        return replace(report, kind="unknown", description=near_miss(file.shapes))
    kind = detected.kind
    report = replace(report, description=kind.description)
    if isinstance(kind, ForeignKind):
        return replace(report, kind="unsupported", notes=(kind.do,))
    report = replace(report, kind=kind.model, layout=kind.name)
    try:
        return _compared(report, file, kind, detected.prefix)
    except CheckpointError as error:
        return replace(report, notes=(str(error),))


def _counted(source: WeightSource) -> CheckpointReport:
    """A report with what can be counted in any file."""
    counts = numbers_by_dtype(source)
    return CheckpointReport(
        path=source.place,
        kind="unknown",
        description="",
        parameters=counts.total(),
        tensors=len(source.shapes),
        dtype=max(counts, key=lambda dtype: counts[dtype], default=None),
        metadata=source.metadata,
    )


def _compared(report: CheckpointReport, source: WeightSource, kind: Layout, prefix: str) -> CheckpointReport:
    """The report with what the key map of its kind says; a text encoder alone is not looked into."""
    source = dequantised(source)
    if isinstance(kind, BaseLayout):
        parts = find_parts(source)
        report = _with(report, parts.keymap().compare(source.shapes), parts.unet.config.family)
        return replace(report, notes=parts.lacking())
    if isinstance(kind, ControlNetLayout):
        net = controlnet_part(source)
        report = replace(report, hint_channels=net.config.hint_channels, hint_encoder=net.config.hint_encoder)
        return _with(report, net.keymap.compare(source.shapes), net.config.unet.family)
    if isinstance(kind, UNetLayout):
        unet = read_part(source, kind, stored_facts(source), prefix)
        return _with(report, unet.keymap.compare(source.shapes), unet.config.family)
    if isinstance(kind, AutoencoderLayout):
        autoencoder = read_part(source, kind, stored_facts(source), prefix)
        return _with(report, autoencoder.keymap.compare(source.shapes), None)
    return report


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
        parts = base_in_folder(folder)
    except CheckpointError as error:
        return replace(report, notes=(str(error),))
    sources = (parts.unet.source, parts.autoencoder.source, *(part.source for part in parts.text_encoders))
    counted = [_counted(source) for source in sources]
    return replace(
        report,
        family=parts.family.unet.family,
        parameters=sum(part.parameters for part in counted),
        tensors=sum(part.tensors for part in counted),
        dtype=counted[0].dtype,
        unused=parts.unused,
        metadata=parts.metadata,
    )
