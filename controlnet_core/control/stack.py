"""Applied nets while sampling: when, where and on which side each one acts, and their sum."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import add

import torch
from torch import Tensor

from ..config import UNetConfig
from ..errors import FamilyMismatchError, SettingError
from ..model.controlnet import ControlNet
from ..model.residuals import Residuals
from ..pictures.read import HintImage
from ..schedule import NoiseSchedule
from .curves import SIDES, Sides, Weights, block_weights, check_application, check_weights, default_sides
from .hint import fit_hint, fit_mask, read_hint, read_mask
from .notes import ControlWarning, crop_note, hint_count_note, window_note
from .step import Side, StepInput, Window, run_net

PIXELS_PER_LATENT = 8


@dataclass(frozen=True, eq=False)
class Control:
    """A net applied with a hint; several applied nets make a stack.

    Attributes:
        net: The net.
        hint: What the picture should follow, in any layout that `read_hint` takes and of any size. Hint i steers
            picture i; fewer hints than pictures are repeated.
        strength: Factor of all residuals.
        start: Fraction of the training schedule, 0 to 1, at which the net begins to act.
        end: The fraction at which it stops.
        weights: A curve of block weights (see `block_weights`), or one number for each skip and then the middle block.
        mask: Where the net acts, 0 to 1, of the hint's extent, in a layout that `read_mask` takes; None is everywhere.
        sides: The sides of classifier-free guidance it acts on; None is the curve's own (`default_sides`).
        hint_pixels: The hint as read, shape (B, hint_channels, H, W) in [0, 1].
        mask_pixels: The mask as read, shape (B, 1, H, W) in [0, 1], or None.

    Raises:
        HintError: If the hint or the mask cannot be used.
        SettingError: If a setting is impossible.
    """

    net: ControlNet
    hint: HintImage
    strength: float = 1.0
    start: float = 0.0
    end: float = 1.0
    weights: Weights = "flat"
    mask: HintImage | None = None
    sides: Sides | None = None
    hint_pixels: Tensor = field(init=False, repr=False)
    mask_pixels: Tensor | None = field(init=False, repr=False)

    def __post_init__(self) -> None:
        check_application(self.strength, self.start, self.end)
        if self.sides is not None and self.sides not in SIDES:
            raise SettingError(f"sides = {self.sides!r}", f"one of {', '.join(SIDES)}", "choose one")
        self.block_factors(latent_height=1)
        object.__setattr__(self, "hint_pixels", read_hint(self.hint, self.net.hint_channels))
        object.__setattr__(self, "mask_pixels", None if self.mask is None else read_mask(self.mask))

    @property
    def acting_sides(self) -> Sides:
        """The sides of classifier-free guidance that the net acts on."""
        return self.sides or default_sides(self.weights)

    def block_factors(self, latent_height: int) -> tuple[float, ...]:
        """Strength times block weight for each skip and then the middle block."""
        config = self.net.config
        weights = block_weights(check_weights(self.weights), config.skip_levels, config.middle_level, latent_height)
        return tuple(self.strength * weight for weight in weights)


class ControlRun:
    """One applied net during one sampling run.

    Arguments:
        control: The applied net.
        schedule: The base's noise schedule.
        latent_size: Rows and columns of the latents.
        embedded_hints: Where embedded hints of this run are kept, to share one among runs of one net and hint.

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
        self.control = control
        self.factors = control.block_factors(latent_size[0])
        self.window = Window(schedule.sigma_at(control.start), schedule.sigma_at(control.end))
        self.latent_size = latent_size
        self.mask = None if control.mask_pixels is None else fit_mask(control.mask_pixels, *latent_size)
        self.hint_encodings = 0
        self.forwards = 0
        self._embedded_hints = {} if embedded_hints is None else embedded_hints

    def residuals(self, step: StepInput) -> Residuals | None:
        """What the net adds at one step: zeros in rows of a side that is off, None if it does not act at all."""
        control = self.control
        if not self.window.holds(step.sigma):
            return None
        output = run_net(control.net, step, control.acting_sides, self.factors, self._embedded_hint, self.mask)
        self.forwards += output is not None
        return output

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
    """All applied nets of one sampling run. What cannot act as asked is said at once, with `ControlWarning`.

    Arguments:
        controls: The applied nets.
        schedule: The base's noise schedule.
        sigmas: The noise levels that sampling visits, shape (steps + 1,).
        latents: The shape of the latents, (B, C, h, w), B pictures.
        sides: The sides of guidance that sampling computes.

    Attributes:
        runs: One `ControlRun` for each applied net, with its counters.
        warnings: What was warned about, in words.
    """

    def __init__(
        self,
        controls: Sequence[Control],
        schedule: NoiseSchedule,
        sigmas: Tensor,
        latents: torch.Size | tuple[int, ...],
        sides: tuple[Side, ...] = ("unconditional", "conditional"),
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
    """See that a net's residuals and inputs have the sizes of a base.

    Raises:
        FamilyMismatchError: If they do not.
    """
    net = control.net.config
    sizes = [
        (one.in_channels, one.skip_levels, one.skip_channels, one.context_dim, one.vector_dim) for one in (net, config)
    ]
    if sizes[0] != sizes[1]:
        raise FamilyMismatchError(
            found=f"a {net.family} net (channels {net.level_channels}, context {net.context_dim})",
            expected=f"one of {config.family} (channels {config.level_channels}, context {config.context_dim})",
            do="use a net and a base of the same family",
        )


def _notes(run: ControlRun, sigmas: list[float], pictures: int, sides: tuple[Side, ...]) -> list[str]:
    """In words, how an applied net will act otherwise than one may expect."""
    control = run.control
    height, width = (PIXELS_PER_LATENT * side for side in run.latent_size)
    notes = [crop_note(control.hint_pixels, height, width)]
    if control.mask_pixels is not None:
        notes.append(crop_note(control.mask_pixels, height, width, "mask"))
    notes.append(window_note(run.window, sigmas, control.start, control.end))
    if control.acting_sides not in ("both", *sides):
        notes.append("it acts on the unconditional side only, which is not computed at guidance 1")
    notes.append(hint_count_note(len(control.hint_pixels), pictures))
    return [note for note in notes if note is not None]
