"""A net of `controlnet_core` as ComfyUI's CONTROL_NET."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import comfy.controlnet
import comfy.model_management
import comfy.model_patcher
import comfy.utils
import torch
from torch import Tensor

from ....controlnet_core.control.application import Application, Window
from ....controlnet_core.control.curves import Curve, Side
from ....controlnet_core.control.step import GuidanceSide, StepInput, run_net
from ....controlnet_core.model.controlnet import ControlNet
from ..host.images import with_channels
from ..host.messages import explained, warn
from ..host.types import HostControlNet, HostModel
from ..loading.families import check_model
from .host_residuals import HostResiduals, added, host_residuals
from .notes import PIXELS_PER_LATENT, RunWarnings
from .rows import Rows, rows_of
from .sides import SIDE_UNKNOWN, Applied, BatchMarks, GuidanceSides, read_marks

NEVER_ACTED = "its side of guidance was not computed (at CFG 1 the negative side is not), or all its weights are 0"


@dataclass
class HostRun:
    """The state of one sampling.

    Attributes:
        model_sampling: ComfyUI's noise schedule and scaling.
        window: The noise levels between which the net acts.
        sides: The sides of guidance.
        embedded_hints: The encoded hints, by height, width and number of the pictures.
        warnings: What it warns of.
        steps: How many steps fell into the window.
        forwards: How often the net ran.
    """

    model_sampling: Any
    window: Window
    sides: GuidanceSides
    warnings: RunWarnings
    embedded_hints: dict[tuple[int, int, int], Tensor] = field(default_factory=dict)
    steps: int = 0
    forwards: int = 0


class CoreControlNet(comfy.controlnet.ControlBase):
    """A net of `controlnet_core`, for ComfyUI's native nodes as well as for ours.

    Its weights belong to ComfyUI's patcher, which moves, casts and streams them.

    Arguments:
        net: The net, on ComfyUI's operations.
        patcher: The patcher that holds it.
        dtype: What it computes in.
        name: The file it is from, for messages.

    Attributes:
        curve: A curve of block weights, or one weight for each skip and the middle.
        side: The side of guidance it acts on, or "both"; None is the curve's own.
        node_id: The node that shows warnings; None is the one that samples.
        applied: The sides of guidance it was applied on, if our nodes applied it.
        run: The current sampling, or the last one if it was interrupted.
    """

    sub_idxs: Sequence[int] | None = None
    """Set by AnimateDiff-Evolved, which refuses nets without it; `rows_of` reads the same in its options."""

    def __init__(self, net: ControlNet, patcher: HostModel, dtype: torch.dtype, name: str) -> None:
        super().__init__()
        self.net = net
        self.patcher = patcher
        self.dtype = dtype
        self.name = name
        self.curve: Curve = "flat"
        self.side: Side | None = None
        self.node_id: str | None = None
        self.applied: Applied | None = None
        self.run: HostRun | None = None

    @property
    def control_model(self) -> ControlNet:
        """The module, under the name that ComfyUI's own nets use."""
        return self.net

    @property
    def application(self) -> Application:
        """How it is applied now; strength is ComfyUI's, as is the window, which the run holds as noise levels.

        A net with pooled residuals acts on the conditional side unless told otherwise.
        """
        side = "conditional" if self.side is None and self.global_average_pooling else self.side
        return Application(self.strength, curve=self.curve, side=side)

    def copy(self) -> CoreControlNet:
        """A copy with the same net, to be configured on its own."""
        copied = CoreControlNet(self.net, self.patcher, self.dtype, self.name)
        self.copy_to(copied)
        return copied

    def copy_to(self, c: CoreControlNet) -> None:
        """Copy the settings to another net."""
        super().copy_to(c)
        c.curve, c.side, c.node_id, c.applied = self.curve, self.side, self.node_id, self.applied

    def deepclone_multigpu(self, load_device: torch.device, autoregister: bool = False) -> CoreControlNet:
        """A copy with weights of its own, for another device."""
        net = copy.deepcopy(self.net)
        offload_device = comfy.model_management.unet_offload_device()
        cloned = self.copy()
        cloned.net = net
        cloned.patcher = comfy.model_patcher.ModelPatcher(
            net, load_device=load_device, offload_device=offload_device
        )
        if autoregister:
            self.multigpu_clones[load_device] = cloned
        return cloned

    def get_models(self) -> list[Any]:
        """The patchers to load before sampling."""
        return [*super().get_models(), self.patcher]

    def pre_run(self, model: HostModel, percent_to_timestep_function: Callable[[float], float]) -> None:
        """Begin a sampling; ComfyUI calls this once for each conditioning.

        Raises:
            NodeError: If the model is of another family than the net.
        """
        super().pre_run(model, percent_to_timestep_function)
        with explained(self.node_id):
            check_model(self.net, self.name, model)
        window = Window(*map(float, self.timestep_range))
        warnings = RunWarnings(self.name, self.node_id)
        self.run = HostRun(model.model_sampling, window, GuidanceSides(self.applied), warnings)
        self.cond_hint = None  # an interrupted sampling leaves what a tiler has put there

    def cleanup(self) -> None:
        """End a sampling; warn if the net had steps to act at and never did."""
        if self.run is not None and self.run.steps and not self.run.forwards:
            warn(f"{self.name}: it did not act: {NEVER_ACTED}", self.node_id)
        self.run = None
        super().cleanup()

    def get_control(
        self, x_noisy: Tensor, t: Tensor, cond: dict[str, Any], batched_number: int, transformer_options: dict[str, Any]
    ) -> HostResiduals | None:
        """What this net and those before it add at one step.

        Arguments:
            x_noisy: Latents with noise, shape (N, C, h, w), `batched_number` parts of it.
            t: Noise levels, shape (N,), all equal.
            cond: Text embedding and other conditions of the rows.
            batched_number: How many conditionings share the batch.
            transformer_options: Says which part is on which side of guidance.

        Raises:
            NodeError: If the hint, or what earlier nets add, does not fit this net.
        """
        marks = read_marks(cond, transformer_options)
        previous = previous_residuals(self, x_noisy, t, cond, batched_number, transformer_options)
        run = self.run
        if run is None:
            raise RuntimeError("get_control was called outside a sampling: pre_run comes first")
        rows = rows_of(len(x_noisy), batched_number, transformer_options)
        run.warnings.begin(self, run.window, x_noisy, rows, transformer_options)
        levels = self.net.block_levels
        factors = self.application.factors_at(float(t[0]), run.window, levels, x_noisy.shape[-2])
        if not factors:
            return previous
        run.steps += 1
        side, sides = self._sides(run, marks, transformer_options, batched_number)
        step = self._step(run, x_noisy, t, cond, sides * rows.tiles)
        with explained(self.node_id):
            residuals = run_net(self.net, step, side, factors, lambda x: self._embedded_hint(run, x, rows))
            if residuals is None:
                return previous
            run.forwards += 1
            pooled = residuals.pooled() if self.global_average_pooling else residuals
            return added(previous, host_residuals(pooled, len(levels.skips)))

    def _sides(
        self, run: HostRun, marks: BatchMarks | None, transformer_options: dict[str, Any], parts: int
    ) -> tuple[Side, tuple[GuidanceSide, ...]]:
        """The side of guidance to act on, and that of each part."""
        side, sides = self.application.acting_side, run.sides.of_parts(marks, transformer_options, parts)
        if sides is not None:
            return side, tuple(sides)
        if side != "both":
            run.warnings.show(SIDE_UNKNOWN)
        unknown: GuidanceSide = "conditional"
        return "both", (unknown,) * parts

    def _step(
        self, run: HostRun, x_noisy: Tensor, t: Tensor, cond: dict[str, Any], sides: tuple[GuidanceSide, ...]
    ) -> StepInput:
        """The step as the core sees it: scaled latents and timesteps."""

        def cast(tensor: Tensor) -> Tensor:
            return tensor.to(x_noisy.device, self.dtype)

        y = cond.get("y")
        return StepInput(
            x=run.model_sampling.calculate_input(t, x_noisy).to(self.dtype),
            timesteps=run.model_sampling.timestep(t).float(),
            context=cast(cond.get("crossattn_controlnet", cond["c_crossattn"])),
            y=None if y is None or self.net.joints["vector_dim"] is None else cast(y),
            sigma=float(t[0]),
            sides=sides,
        )

    def _embedded_hint(self, run: HostRun, x: Tensor, rows: Rows) -> Tensor:
        """The encoded hints: of what a tiler has set for this part of the picture, or else of the whole hints."""
        height, width = (PIXELS_PER_LATENT * side for side in x.shape[-2:])
        tiles: Tensor | None = self.cond_hint
        if tiles is not None and tiles.shape[-2:] == (height, width):
            return self._embedded_tiles(tiles, x, rows)
        if not rows.whole and len(self.cond_hint_original) > 1:
            return self._embedded(x, list(rows.frames))
        key = (height, width, rows.total)
        if key not in run.embedded_hints:
            run.embedded_hints[key] = self._embedded(x, list(rows.frames))
        return run.embedded_hints[key]

    def _embedded_tiles(self, tiles: Tensor, x: Tensor, rows: Rows) -> Tensor:
        """The encoded hints that a tiler has set, one for each row; as in ComfyUI, fewer are repeated in each part."""
        hints = self._readable(tiles)
        embedded: Tensor = self.net.embed_hint(hints.to(x))
        if len(hints) in (1, len(x)):
            return embedded
        of_part = len(x) // rows.parts
        return embedded[torch.arange(len(x), device=x.device) % of_part % len(hints)]

    def _embedded(self, x: Tensor, frames: Sequence[int]) -> Tensor:
        """The encoded hints of these pictures, fitted to latents of this size as ComfyUI does it, each encoded once."""
        hints = self._readable(self.cond_hint_original)
        of_frames = [frame % len(hints) for frame in frames]
        needed = sorted(set(of_frames))
        size = [PIXELS_PER_LATENT * side for side in reversed(x.shape[-2:])]
        fitted = comfy.utils.common_upscale(hints[needed], *size, self.upscale_algorithm, "center")
        embedded: Tensor = self.net.embed_hint(fitted.to(x))
        return embedded if len(needed) == 1 else embedded[[needed.index(hint) for hint in of_frames]]

    def _readable(self, hints: Tensor) -> Tensor:
        """Hints with as many channels as the net reads."""
        return with_channels(hints, self.net.hint_channels, f"{self.name},")


def previous_residuals(control: HostControlNet, *step: object) -> HostResiduals | None:
    """What the nets before a net add, given the arguments of its `get_control`."""
    before = control.previous_controlnet
    residuals: HostResiduals | None = None if before is None else before.get_control(*step)
    return residuals
