"""Train, load, apply and stack ControlNets (Zhang et al. 2023), in pure PyTorch.

The names below are imported when they are first used, so that a command's `--help` need not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from .version import __version__ as __version__

if TYPE_CHECKING:
    from .base import Base as Base
    from .base import TextEmbeddings as TextEmbeddings
    from .config import FAMILIES as FAMILIES
    from .config import SD15 as SD15
    from .config import SD21 as SD21
    from .config import SDXL as SDXL
    from .config import TINY as TINY
    from .config import AutoencoderConfig as AutoencoderConfig
    from .config import Family as Family
    from .config import TextEncoderConfig as TextEncoderConfig
    from .config import UNetConfig as UNetConfig
    from .control.stack import Control as Control
    from .data.dataset import Pair as Pair
    from .data.dataset import PairDataset as PairDataset
    from .data.folder.folder_dataset import FolderDataset as FolderDataset
    from .errors import ControlNetCoreError as ControlNetCoreError
    from .model.autoencoder import Autoencoder as Autoencoder
    from .model.controlnet import ControlNet as ControlNet
    from .model.controlnet import ControlNetBlock as ControlNetBlock
    from .model.residuals import Residuals as Residuals
    from .model.text_encoder import TextEncoder as TextEncoder
    from .model.unet import UNet as UNet
    from .sampling.generate import SamplingSettings as SamplingSettings
    from .sampling.generate import generate as generate
    from .schedule import NoiseSchedule as NoiseSchedule
    from .toy.shapes_dataset import ShapesDataset as ShapesDataset
    from .training.open_data import hold_out as hold_out
    from .training.resume import run_path as run_path
    from .training.run import train as train
    from .training.settings import TrainSettings as TrainSettings
    from .training.step import StepReport as StepReport
    from .weights.inspection import CheckpointReport as CheckpointReport
    from .weights.inspection import inspect_checkpoint as inspect_checkpoint
    from .weights.load import load_controlnet as load_controlnet
    from .weights.load_base import load_base as load_base
    from .weights.save import save_controlnet as save_controlnet

HOMES = {
    "Autoencoder": "model.autoencoder",
    "AutoencoderConfig": "config",
    "Base": "base",
    "CheckpointReport": "weights.inspection",
    "Control": "control.stack",
    "ControlNet": "model.controlnet",
    "ControlNetBlock": "model.controlnet",
    "ControlNetCoreError": "errors",
    "FAMILIES": "config",
    "Family": "config",
    "FolderDataset": "data.folder.folder_dataset",
    "NoiseSchedule": "schedule",
    "Pair": "data.dataset",
    "PairDataset": "data.dataset",
    "Residuals": "model.residuals",
    "SD15": "config",
    "SD21": "config",
    "SDXL": "config",
    "SamplingSettings": "sampling.generate",
    "ShapesDataset": "toy.shapes_dataset",
    "StepReport": "training.step",
    "TINY": "config",
    "TextEmbeddings": "base",
    "TextEncoder": "model.text_encoder",
    "TextEncoderConfig": "config",
    "TrainSettings": "training.settings",
    "UNet": "model.unet",
    "UNetConfig": "config",
    "generate": "sampling.generate",
    "hold_out": "training.open_data",
    "inspect_checkpoint": "weights.inspection",
    "load_base": "weights.load_base",
    "load_controlnet": "weights.load",
    "run_path": "training.resume",
    "save_controlnet": "weights.save",
    "train": "training.run",
}
"""Where each public name lives."""

__all__ = list(HOMES)


def __getattr__(name: str) -> object:
    """Import a public name from its home."""
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{HOMES[name]}", __name__), name)
