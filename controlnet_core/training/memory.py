"""What of a run is chosen by the memory of a card: four recipes, and presets that name one for a base."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal, get_args

from ..config import UNetConfig

Precision = Literal["float32", "bfloat16"]
OptimizerName = Literal["adamw", "adamw_8bit"]
Place = Literal["device", "cpu"]
Preset = Literal[8, 12, 16, 24, 48, 80]
PRESETS: tuple[Preset, ...] = get_args(Preset)


@dataclass(frozen=True)
class MemoryChoices:
    """The settings of a run that a card's memory decides; `TrainSettings` describes them.

    Attributes:
        gradient_accumulation: Parts of a batch, or of a process's share of one, that are computed one after another.
        activation_checkpointing: Whether blocks are computed again for gradients.
        precision: What the locked UNet and the net's forward pass compute in.
        weights_dtype: The dtype of the net's weights.
        optimizer: What updates them.
        average_every: Steps between two updates of their moving average.
        average_on: Where the average is.
    """

    gradient_accumulation: int = 1
    activation_checkpointing: bool = False
    precision: Precision = "float32"
    weights_dtype: Precision = "float32"
    optimizer: OptimizerName = "adamw"
    average_every: int = 1
    average_on: Place = "device"


FASTEST = MemoryChoices(precision="bfloat16")
AVERAGE_AWAY = replace(FASTEST, average_every=10, average_on="cpu")
SMALL = replace(AVERAGE_AWAY, activation_checkpointing=True, optimizer="adamw_8bit")
SMALLEST = replace(SMALL, weights_dtype="bfloat16")

SD: Mapping[Preset, tuple[MemoryChoices, int]] = MappingProxyType(
    {
        8: (SMALL, 2),
        12: (AVERAGE_AWAY, 1),
        16: (FASTEST, 2),
        24: (FASTEST, 4),
        48: (FASTEST, 8),
        80: (FASTEST, 16),
    }
)
"""For SD1.5, SD2.1 and smaller bases: the recipe, and the most pairs that are computed at once."""
SDXL: Mapping[Preset, tuple[MemoryChoices, int]] = MappingProxyType(
    {
        8: (SMALLEST, 1),
        12: (SMALLEST, 1),
        16: (SMALLEST, 1),
        24: (SMALL, 2),
        48: (AVERAGE_AWAY, 2),
        80: (FASTEST, 4),
    }
)
"""For SDXL, which 8 and 12 GB do not hold."""


def preset_choices(preset: Preset, config: UNetConfig, pairs: int) -> MemoryChoices:
    """What a preset chooses.

    Arguments:
        preset: The card's memory in GB.
        config: The base.
        pairs: Those that a process computes in a step.
    """
    recipe, at_once = (SD if config.vector_dim is None else SDXL)[preset]
    return replace(recipe, gradient_accumulation=math.ceil(pairs / at_once))
