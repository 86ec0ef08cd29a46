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
from ....controlnet_core.errors import HintError
from ....controlnet_core.model.controlnet import ControlNet
from ....controlnet_core.model.residuals import Residuals
from ..host.messages import warn
from ..host.types import HostControlNet, HostModel
from ..loading.families import check_model
from .host_residuals import HostResiduals, added, host_residuals
from .notes import PIXELS_PER_LATENT, run_notes

NEVER_ACTED = "its side of guidance was not computed (at CFG 1 the negative side is not), or all its weights are 0"


@dataclass
class HostRun:
    """The state of one sampling.

    Attributes:
        model_sampling: ComfyUI's noise schedule and scaling.
        window: The noise levels between which the net acts.
        embedded_hints: The encoded hints, by height and width of the latents and number of pictures.
        warned: Whether the warnings about what the net will do were shown.
        steps: How many steps fell into the window.
        forwards: How often the net ran.
    """

    model_sampling: Any
    window: Window
    embedded_hints: dict[tuple[int, int, int], Tensor] = field(default_factory=dict)
    warned: bool = False
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
        run: The current sampling, or the last one if it was interrupted.
    """

    def __init__(self, net: ControlNet, patcher: HostModel, dtype: torch.dtype, name: str) -> None:
        super().__init__()
        self.net = net
        self.patcher = patcher
        self.dtype = dtype
        self.name = name
        self.curve: Curve = "flat"
        self.side: Side | None = None
        self.node_id: str | None = None
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
        c.curve, c.side, c.node_id = self.curve, self.side, self.node_id

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
            FamilyMismatchError: If the model is of another family than the net.
        """
        super().pre_run(model, percent_to_timestep_function)
        check_model(self.net, self.name, model)
        self.run = HostRun(model.model_sampling, Window(*map(float, self.timestep_range)))

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
        """
        previous = previous_residuals(self, x_noisy, t, cond, batched_number, transformer_options)
        run = self.run
        if run is None:
            raise RuntimeError("get_control was called outside a sampling: pre_run comes first")
        if not run.warned:
            run.warned = True
            for note in run_notes(self, run.window, x_noisy, batched_number, transformer_options):
                warn(f"{self.name}: {note}", self.node_id)
        levels = self.net.block_levels
        factors = self.application.factors_at(float(t[0]), run.window, levels, x_noisy.shape[-2])
        if not factors:
            return previous
        run.steps += 1
        residuals = self._residuals(run, self._step(run, x_noisy, t, cond, transformer_options), factors)
        if residuals is None:
            return previous
        return added(previous, host_residuals(residuals, len(levels.skips)))

    def _step(
        self, run: HostRun, x_noisy: Tensor, t: Tensor, cond: dict[str, Any], transformer_options: dict[str, Any]
    ) -> StepInput:
        """The step as the core sees it: scaled latents, timesteps, and the side of each part."""

        def cast(tensor: Tensor) -> Tensor:
            return tensor.to(x_noisy.device, self.dtype)

        y = cond.get("y")
        return StepInput(
            x=run.model_sampling.calculate_input(t, x_noisy).to(self.dtype),
            timesteps=run.model_sampling.timestep(t).float(),
            context=cast(cond.get("crossattn_controlnet", cond["c_crossattn"])),
            y=None if y is None or self.net.joints["vector_dim"] is None else cast(y),
            sigma=float(t[0]),
            sides=tuple(map(side_of, transformer_options["cond_or_uncond"])),
        )

    def _residuals(self, run: HostRun, step: StepInput, factors: Sequence[float]) -> Residuals | None:
        """What the net alone adds, with strength and curve."""

        def embedded_hint(x: Tensor) -> Tensor:
            return self._embedded_hint(run, x, step.pictures)

        residuals = run_net(self.net, step, self.application.acting_side, factors, embedded_hint)
        run.forwards += residuals is not None
        return residuals.pooled() if residuals is not None and self.global_average_pooling else residuals

    def _embedded_hint(self, run: HostRun, x: Tensor, pictures: int) -> Tensor:
        """The hints fitted to latents of this size as ComfyUI does it, and encoded once."""
        height, width = x.shape[-2:]
        key = (height, width, pictures)
        if key not in run.embedded_hints:
            hints = self._hint_pixels()[:pictures]
            size = (PIXELS_PER_LATENT * width, PIXELS_PER_LATENT * height)
            fitted = comfy.utils.common_upscale(hints, *size, self.upscale_algorithm, "center")
            run.embedded_hints[key] = self.net.embed_hint(fitted.to(x))
        return run.embedded_hints[key]

    def _hint_pixels(self) -> Tensor:
        """The hints, with as many channels as the net reads."""
        hints: Tensor = self.cond_hint_original
        channels = self.net.hint_channels
        if hints.shape[1] == 1:
            return hints.expand(-1, channels, -1, -1)
        if hints.shape[1] < channels:
            raise HintError(
                found=f"a hint with {hints.shape[1]} channels for {self.name}",
                expected=f"{channels}",
                do="use the image that belongs to this net",
            )
        return hints[:, :channels]


def previous_residuals(control: HostControlNet, *step: object) -> HostResiduals | None:
    """What the nets before a net add, given the arguments of its `get_control`."""
    before = control.previous_controlnet
    residuals: HostResiduals | None = None if before is None else before.get_control(*step)
    return residuals


def side_of(index: int) -> GuidanceSide:
    """The side of guidance that ComfyUI's index of a conditioning means."""
    return "conditional" if index == 0 else "unconditional"
