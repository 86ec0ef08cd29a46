"""Applied nets while sampling: what each adds at a step, and their sum."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from typing import TypedDict, Unpack

import torch
from torch import Tensor

from ..config import UNetConfig
from ..errors import FamilyMismatchError, SettingError
from ..hint_statistics import hint_notes
from ..model.residuals import Residuals
from ..pictures.read import HintImage
from ..schedule import NoiseSchedule
from .application import Application
from .controller import Controller
from .curves import Curve, Side
from .hint import fit_hint, fit_mask, read_hint
from .notes import ControlWarning, crop_note, hint_count_note, window_note
from .step import GuidanceSide, StepInput, run_net

PIXELS_PER_LATENT = 8


class ControlSettings(TypedDict, total=False):
    """The settings of an `Application`, as keyword arguments."""

    strength: float
    start: float
    end: float
    curve: Curve
    side: Side | None
    mask: HintImage | None


@dataclass(frozen=True, eq=False, init=False)
class Control:
    """A net applied with a hint; several applied nets make a stack.

    `Control(net, hint, strength=0.8, end=0.5)` is short for `Control(net, hint, Application(strength=0.8, end=0.5))`.

    Attributes:
        net: The net.
        hint: What the picture should follow, in any layout that `read_hint` takes and of any size. Hint i steers
            picture i; fewer hints than pictures are repeated.
        application: How strongly, when, where, on which blocks and on which side it acts.
        hint_pixels: The hint as `read_hint` gives it, shape (B, hint_channels, H, W).

    Raises:
        HintError: If the hint or the mask cannot be used.
        SettingError: If a setting is impossible, or there are custom weights for another number of blocks.
    """

    net: Controller
    hint: HintImage
    application: Application
    hint_pixels: Tensor = field(repr=False)

    def __init__(
        self,
        net: Controller,
        hint: HintImage,
        application: Application | None = None,
        **settings: Unpack[ControlSettings],
    ) -> None:
        if application is not None and settings:
            raise SettingError(
                found=f"an application together with {', '.join(settings)}",
                expected="one or the other",
                do=f"put {', '.join(settings)} into the application",
            )
        application = application or Application(**settings)
        application.block_factors(net.block_levels, latent_height=1)
        values = {
            "net": net,
            "hint": hint,
            "application": application,
            "hint_pixels": read_hint(hint, net.hint_channels),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)


class ControlRun:
    """One applied net during one sampling run.

    Arguments:
        control: The applied net.
        schedule: The base's noise schedule.
        latent_size: Rows and columns of the latents.
        embedded_hints: Keeps embedded hints, so that the runs of the same net and hint share one.

    Attributes:
        hint_encodings: How often this run encoded the hint.
        forwards: How often it ran the net.
    """

    def __init__(
        self,
        control: Control,
        schedule: NoiseSchedule,
        latent_size: tuple[int, int],
        embedded_hints: dict[tuple[int, int], Tensor] | None = None,
    ) -> None:
        mask = control.application.mask_pixels
        self.control = control
        self.window = control.application.window(schedule.sigma_at)
        self.latent_size = latent_size
        self.mask = None if mask is None else fit_mask(mask, *latent_size)
        self.hint_encodings = 0
        self.forwards = 0
        self._embedded_hints = {} if embedded_hints is None else embedded_hints

    def residuals(self, step: StepInput) -> Residuals | None:
        """What the net adds at one step: zeros in the rows of a side that is off, None if it does not act.

        The net computes in its own dtype, and what it adds is in the step's.
        """
        net, application = self.control.net, self.control.application
        factors = application.factors_at(step.sigma, self.window, net.block_levels, self.latent_size[0])
        output = run_net(net, step.to(net.dtype), application.side_of(net), factors, self._embedded_hint, self.mask)
        self.forwards += output is not None
        return None if output is None else output.map(lambda residual: residual.to(step.x.dtype))

    def _embedded_hint(self, x: Tensor) -> Tensor:
        """The hint fitted to the picture and encoded, once for each net and hint of the run."""
        key = (id(self.control.net), id(self.control.hint))
        if key not in self._embedded_hints:
            height, width = (PIXELS_PER_LATENT * side for side in self.latent_size)
            pixels = fit_hint(self.control.hint_pixels, height, width)
            self._embedded_hints[key] = self.control.net.embed_hint(pixels.to(x))
            self.hint_encodings += 1
        return self._embedded_hints[key]


class ControlStack:
    """All applied nets of one sampling run. A `ControlWarning` says at once what will not act as asked.

    Arguments:
        controls: The applied nets.
        schedule: The base's noise schedule.
        sigmas: The noise levels that sampling visits, shape (steps + 1,).
        latents: The shape of the latents, (B, C, h, w), B pictures.
        sides: The sides of guidance that sampling computes.

    Attributes:
        runs: One `ControlRun` for each applied net, with its counters.
        warnings: The text of each warning.
    """

    def __init__(
        self,
        controls: Sequence[Control],
        schedule: NoiseSchedule,
        sigmas: Tensor,
        latents: torch.Size | tuple[int, ...],
        sides: tuple[GuidanceSide, ...] = ("unconditional", "conditional"),
    ) -> None:
        embedded_hints: dict[tuple[int, int], Tensor] = {}
        size = (latents[-2], latents[-1])
        self.runs = tuple(ControlRun(control, schedule, size, embedded_hints) for control in controls)
        self.warnings = tuple(
            f"control {number}: {note}"
            for number, run in enumerate(self.runs, start=1)
            for note in _notes(run, sigmas[:-1].tolist(), latents[0], sides)
        )
        for text in self.warnings:
            warnings.warn(text, ControlWarning, stacklevel=2)

    def residuals(self, step: StepInput) -> Residuals | None:
        """What all nets add at one step, summed without further weights (Zhang et al. 2023, section 3.4)."""
        acting = [part for run in self.runs if (part := run.residuals(step)) is not None]
        return reduce(add, acting) if acting else None


def check_family(control: Control, config: UNetConfig) -> None:
    """Check that a net's inputs and residuals have the sizes of a base.

    Raises:
        FamilyMismatchError: If they do not.
    """
    net = control.net
    if net.joints != config.joints:
        differing = [name for name, size in config.joints.items() if net.joints[name] != size]
        net_sizes, base_sizes = (
            ", ".join(f"{name} {joints[name]}" for name in differing) for joints in (net.joints, config.joints)
        )
        raise FamilyMismatchError(
            found=f"a net of {net.family} ({net_sizes})",
            expected=f"one of {config.family} ({base_sizes})",
            do="use a net and a base of the same family",
        )


def _notes(run: ControlRun, sigmas: list[float], pictures: int, sides: tuple[GuidanceSide, ...]) -> list[str]:
    """The warnings about one applied net."""
    control, application = run.control, run.control.application
    height, width = (PIXELS_PER_LATENT * side for side in run.latent_size)
    notes = [crop_note(control.hint_pixels, height, width)]
    if application.mask_pixels is not None:
        notes.append(crop_note(application.mask_pixels, height, width, "mask"))
    notes.append(window_note(run.window, sigmas, application.start, application.end))
    if application.side_of(control.net) not in ("both", *sides):
        notes.append("it acts on the unconditional side only, which is not computed at guidance 1")
    notes.append(hint_count_note(len(control.hint_pixels), pictures))
    notes += hint_notes(control.hint_pixels, control.net.hint_statistics)
    return [note for note in notes if note is not None]
