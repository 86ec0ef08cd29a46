"""What a run is known by: what has a say in its net, and nothing else.

A run's *trunk* is all that counts from its first step on. Two runs of one trunk do the same until the learning rate of
one of them begins to fall: the trunk, the number of steps and the cool-down together name a run. What changes no net
(evaluation, checkpoints, device, folder) has no part in it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from ..base import Base
from ..data.dataset import PairDataset
from ..keyed import digest
from .run_folder import NET
from .settings import TrainSettings

FORMAT = 2
"""The number of this form of a run's folder; raise it with any change that an older version would misread."""

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
    }
)
"""The settings of a trunk. One that was added later is left out where it has the value given here, which means what was
done before there was such a setting: so it renames no run."""
BRANCH = ("steps", "cool_down_steps")
"""The settings in which two runs of one trunk differ."""
NO_SAY = ("checkpoint_every", "evaluation", "device", "out")
"""The settings that change no net."""

Trunk = Mapping[str, Any]


def trunk_of(settings: TrainSettings, base: Base, dataset: PairDataset) -> Trunk:
    """All that has a say in a run's net from the first step on, as JSON has it."""
    values = settings.model_dump(mode="json", include=set(TRUNK))
    if settings.start_from is not None:
        values["start_from"] = digest(start_file(settings.start_from).read_bytes())
    counted = {name: value for name, value in values.items() if TRUNK[name] is ALWAYS or value != TRUNK[name]}
    return {"base": base.fingerprint, "data": dataset.fingerprint, **counted}


def run_name(trunk: Trunk, settings: TrainSettings) -> str:
    """The name of a run's folder: 12 digits, the same for the same trunk, steps and cool-down."""
    branch = {name: getattr(settings, name) for name in BRANCH}
    return digest(FORMAT, json.dumps({**trunk, **branch}, sort_keys=True), size=6)


def differences(trunk: Trunk, other: Trunk) -> list[str]:
    """In which parts a trunk differs from another one, as sentences have it: "learning_rate 0.001 instead of 0.01"."""
    told = []
    for name in sorted({*trunk, *other}):
        here, there = (one.get(name, TRUNK.get(name)) for one in (trunk, other))
        if here != there and name in ("base", "data", "start_from"):
            told.append({"base": "another base", "data": "other data", "start_from": "another start"}[name])
        elif here != there:
            told.append(f"{name} {here} instead of {there}")
    return told


def start_file(start_from: Path) -> Path:
    """The net that `start_from` means: the file, or the net of the run whose folder it is."""
    return start_from / NET if start_from.is_dir() else start_from
