"""What identifies a run: everything that affects its net, and nothing else.

A run's *trunk* is everything that affects it from the first step on. Two runs of one trunk are identical until the
learning rate of one of them begins to fall, so the trunk, the number of steps and the cool-down together name a run.
What changes no net (evaluation, checkpoints, device, folder) is left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from ..base import Base
from ..data.dataset import PairDataset
from ..errors import SettingError
from ..keyed import digest, file_digest
from .run_folder import NET
from .settings import TrainSettings

FORMAT = 2
"""The format of a run's folder; raise it with any change that an older version would misread."""

ALWAYS: Final = object()
TRUNK: Mapping[str, object] = MappingProxyType(
    {
        "batch_size": ALWAYS,
        "learning_rate": ALWAYS,
        "warm_up_steps": ALWAYS,
        "weight_decay": ALWAYS,
        "gradient_clip": ALWAYS,
        "average_decay": ALWAYS,
        "prompt_drop": ALWAYS,
        "hint_encoder": ALWAYS,
        "seed": ALWAYS,
        "start_from": None,
        "hint_start": "zero",
        "loss_weighting": "plain",
        "timestep_density": "uniform",
        "offset_noise": 0.0,
        "precision": "float32",
        "weights_dtype": "float32",
        "optimizer": "adamw",
        "average_every": 1,
    }
)
"""The settings of a trunk. A setting that was added later is left out at the value given here, which stands for the
behaviour before it existed, so that adding it renames no run."""
COMPUTE_DTYPE, USUAL_DTYPE = "compute_dtype", "float32"
"""What the base's UNet computes in; a trunk leaves out the usual one."""
BRANCH = ("steps", "cool_down_steps")
"""The settings in which two runs of one trunk differ."""
WITHOUT_EFFECT = (
    "checkpoint_every",
    "evaluation",
    "memory",
    "gradient_accumulation",
    "activation_checkpointing",
    "average_on",
    "sharded",
    "device",
    "out",
)
"""The settings that change no net."""

Trunk = Mapping[str, Any]


def trunk_of(settings: TrainSettings, base: Base, dataset: PairDataset) -> Trunk:
    """Everything that affects a run's net from the first step on, as JSON values.

    Raises:
        SettingError: If there is no net to start from.
    """
    choices = asdict(settings.choices(base.unet.config, base.device))
    values = settings.model_dump(mode="json", include=set(TRUNK))
    values |= {name: value for name, value in choices.items() if name in TRUNK}
    if settings.start_from is not None:
        values["start_from"] = _start_digest(settings.start_from)
    counted = {name: value for name, value in values.items() if TRUNK[name] is ALWAYS or value != TRUNK[name]}
    dtype = str(base.dtype).removeprefix("torch.")
    computed = {} if dtype == USUAL_DTYPE else {COMPUTE_DTYPE: dtype}
    return {"base": base.fingerprint, "data": dataset.fingerprint, **computed, **counted}


def run_name(trunk: Trunk, settings: TrainSettings) -> str:
    """The name of a run's folder: 12 digits, the same for the same trunk, steps and cool-down."""
    branch = {name: getattr(settings, name) for name in BRANCH}
    return digest(FORMAT, json.dumps({**trunk, **branch}, sort_keys=True), size=6)


def differences(trunk: Trunk, other: Trunk) -> list[str]:
    """What a trunk has in place of another's, in phrases such as "learning_rate 0.001 instead of 0.01"."""
    phrases, left_out = [], {**TRUNK, COMPUTE_DTYPE: USUAL_DTYPE}
    for name in sorted({*trunk, *other}):
        value, other_value = (values.get(name, left_out.get(name)) for values in (trunk, other))
        if value != other_value and name in ("base", "data", "start_from"):
            phrases.append({"base": "another base", "data": "other data", "start_from": "another start"}[name])
        elif value != other_value:
            phrases.append(f"{name} {value} instead of {other_value}")
    return phrases


def start_file(start_from: Path) -> Path:
    """The net that `start_from` means: the file, or the net of the run whose folder it is."""
    return start_from / NET if start_from.is_dir() else start_from


def _start_digest(start_from: Path) -> str:
    """The net to start from, by its content: wherever it lies, it is the same start."""
    try:
        return file_digest(start_file(start_from))
    except OSError as error:
        raise SettingError(
            found=f"start_from = {start_from} ({error.strerror})",
            expected="a net's file, or the folder of a finished run",
            do="correct start_from, or leave it out",
        ) from error
