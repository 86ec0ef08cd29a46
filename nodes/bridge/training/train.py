"""Trains a ControlNet inside ComfyUI: the core's own loop, on a copy of the graph's base."""

from __future__ import annotations

import gc
import os
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.model_management
import torch
from torch import Tensor

from ....controlnet_core.errors import SettingError
from ....controlnet_core.pictures.read import load_image
from ....controlnet_core.pictures.sheet import to_image
from ....controlnet_core.training.run_folder import PICTURE, RunFolder
from ....controlnet_core.training.session import Session
from ....controlnet_core.training.settings import TrainSettings
from ....controlnet_core.whole_file import whole_file
from ..host.folders import runs_path, trained_path
from ..host.messages import show, warn
from ..host.types import HostClip, HostControlNet, HostModel, HostVae
from ..loading.net_file import load_control_net_file
from .base_from_graph import base_of, checkpoint_path
from .display import TrainingDisplay
from .training_data import TrainingData, settings_file

SETTINGS = "settings.toml"


@dataclass(frozen=True, eq=False)
class Trained:
    """What a training gives the graph.

    Attributes:
        control_net: The trained net as ComfyUI's CONTROL_NET.
        path: Its file.
        losses: The loss of each step.
        report: The report as IMAGE, (1, H, W, 3).
        settings: The run as a settings file of `controlnet-core train`.
    """

    control_net: HostControlNet
    path: Path
    losses: list[float]
    report: Tensor
    settings: str


def train_in_graph(
    sources: tuple[HostModel, HostClip, HostVae],
    data: TrainingData,
    settings: TrainSettings,
    name: str,
    node_id: str | None,
) -> Trained:
    """Train a net, resume training it, or read back the finished one.

    All of it runs outside ComfyUI's inference mode, whose tensors can have no gradients.

    Arguments:
        sources: MODEL, CLIP and VAE.
        data: The data to train on.
        settings: The run's settings; device and folder are ComfyUI's.
        name: The name of the net's file, to which the run's own name is added.
        node_id: The node that shows progress.

    Raises:
        CheckpointError: If no ControlNet can be trained on the base.
        DatasetError: If the data cannot be used.
        WriteError: If the output folder cannot be written.
        SettingError: If the name is not one for a file.
        TrainingError: If the loss is not finite.
    """
    _check_name(name)
    device = comfy.model_management.get_torch_device()
    settings = settings.model_copy(update={"out": runs_path(), "device": str(device)})
    try:
        with torch.inference_mode(False), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            folder, report, display = _trained_run(sources, data, settings, node_id, device)
    finally:
        for warning in caught:
            if issubclass(warning.category, UserWarning):
                warn(str(warning.message), node_id)
        gc.collect()
        comfy.model_management.soft_empty_cache()
    path = _published(folder, name)
    losses = [line.loss for line in folder.metrics.read() if line.loss is not None]
    picture = load_image(folder.path / PICTURE)
    settings_text = (folder.path / SETTINGS).read_text(encoding="utf-8")
    control_net = load_control_net_file(path, path.name).control_net
    display.finish(report, to_image(picture[0]), path.name)
    return Trained(control_net, path, losses, picture.movedim(1, -1).contiguous(), settings_text)


def _trained_run(
    sources: tuple[HostModel, HostClip, HostVae],
    data: TrainingData,
    settings: TrainSettings,
    node_id: str | None,
    device: torch.device,
) -> tuple[RunFolder, dict[str, Any], TrainingDisplay]:
    """The folder of a finished run, its report, and what shows it."""
    show("reading the base", node_id)
    base = base_of(*sources)
    # The base is still on the CPU, and the run is named by what is usual where it will be trained.
    precision = settings.choices(base.unet.config, device).precision
    settings = settings.model_copy(update={"precision": precision})
    dataset, validation = data.open(settings, base)
    title = f"{base.family.unet.family} ControlNet trained on {data.description}"
    session = Session(settings, base, dataset, validation, title)
    folder = RunFolder(session.run.path)
    folder.write_text(SETTINGS, settings_file(settings, data, checkpoint_path(*sources)))
    if not session.finished:
        comfy.model_management.unload_all_models()
        base.to(device)
    display = TrainingDisplay(settings, node_id, None if validation is None else validation.hints)
    return folder, session.go(display), display


def _check_name(name: str) -> None:
    """Check that a name is a file name on every system, and leads into no other folder."""
    if not name.strip() or name.startswith(".") or set(name) & set('/\\:*?"<>|') or not name.isprintable():
        raise SettingError(f"name = {name!r}", "a plain file name, without folders", "use for example my_net")


def _published(folder: RunFolder, name: str) -> Path:
    """Put the net where loaders list it, unless it is there already; a link takes no space."""
    path = trained_path(f"{name}-{folder.path.name}.safetensors")
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(folder.net_path, path)
        except OSError:  # file systems without links
            with whole_file(path) as temporary:
                shutil.copyfile(folder.net_path, temporary)
    return path
