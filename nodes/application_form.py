"""Shared parts of the nodes' forms: custom sockets, and the inputs that say how a net is applied."""

from __future__ import annotations

import re
from typing import Any

from comfy_api.latest import io

from ..controlnet_core.control.application import Application
from ..controlnet_core.control.curves import CURVES, SIDES
from ..controlnet_core.errors import SettingError

ControlNetStack = io.Custom("CONTROL_NET_STACK")
"""A list of (CONTROL_NET, IMAGE, strength, start, end), as several extensions exchange it."""
ControlNetDataset = io.Custom("CONTROL_NET_DATASET")
"""The data to train on: a `TrainingData`."""

CUSTOM = "custom"
OWN_SIDE = "curve's own"

CURVE_TOOLTIP = """\
How strongly the net acts on each block of the UNet.
flat: the same on all blocks.
cfg_resolution: the paper's CFG resolution weighting; the coarser a block, the stronger.
cfg_resolution_normalised: the same, scaled to at most 1.
guess: guess mode; a little weaker at each finer block.
custom: the numbers in block_weights.
All but flat and custom act on the positive side only, which suits an empty prompt."""


def application_inputs() -> list[Any]:
    """Strength, window, curve and side."""
    return [
        io.Float.Input(
            "strength",
            default=1.0,
            min=0.0,
            max=10.0,
            step=0.01,
            tooltip="How strongly the net acts; 0 leaves the conditioning unchanged.",
        ),
        io.Float.Input(
            "start_percent",
            default=0.0,
            min=0.0,
            max=1.0,
            step=0.001,
            tooltip="Where in the noise schedule the net begins to act; 0 is pure noise. A fraction of the schedule, "
            "not of the steps, as in the native node.",
            advanced=True,
        ),
        io.Float.Input(
            "end_percent",
            default=1.0,
            min=0.0,
            max=1.0,
            step=0.001,
            tooltip="Where in the noise schedule the net stops acting; 1 is the finished picture.",
            advanced=True,
        ),
        io.Combo.Input(
            "curve", options=[*CURVES, CUSTOM], default="flat", tooltip=CURVE_TOOLTIP, optional=True
        ),
        io.Combo.Input(
            "side",
            options=[OWN_SIDE, *SIDES],
            default=OWN_SIDE,
            tooltip="The side of guidance that the net acts on. On the conditional (positive) side only, CFG "
            "strengthens the hint too; on both, it strengthens only the prompt.",
            optional=True,
            advanced=True,
        ),
        io.String.Input(
            "block_weights",
            default="",
            tooltip="For the curve custom: one number for each skip of the UNet, finest first, then one for the middle "
            "block. 13 for SD1.5 and SD2.1, 10 for SDXL. For example: 1 1 1 0.8 0.8 0.8 0.5 0.5 0.5 0 0 0 0",
            optional=True,
            advanced=True,
        ),
    ]


def read_application(
    strength: float, start_percent: float, end_percent: float, curve: str, side: str, block_weights: str
) -> Application:
    """The application that a form asks for.

    Raises:
        SettingError: If custom block weights are not numbers, or block weights are given for another curve; if a
            strength, a window, a curve or a side is impossible.
    """
    chosen = _custom_weights(block_weights) if curve == CUSTOM else curve
    if curve != CUSTOM and block_weights.strip():
        raise SettingError(f"block weights for the curve {curve}", "the curve custom", "choose it, or clear them")
    named = None if side == OWN_SIDE else side
    # `Application` checks the names.
    return Application(strength, start_percent, end_percent, chosen, named)  # type: ignore[arg-type]


def _custom_weights(block_weights: str) -> tuple[float, ...]:
    """The numbers in a text."""
    try:
        return tuple(float(number) for number in re.split(r"[\s,;]+", block_weights) if number)
    except ValueError as error:
        raise SettingError(
            found=f"block_weights = {block_weights!r}",
            expected="numbers, separated by spaces or commas",
            do="write one for each block, such as 1 1 1 0.5",
        ) from error
