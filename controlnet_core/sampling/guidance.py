"""Classifier-free guidance with control: one call of the UNet for both sides."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..base import TextEmbeddings
from ..config import Prediction
from ..control.stack import ControlStack
from ..control.step import GuidanceSide, StepInput
from ..model.unet import UNet
from ..prediction import denoised, network_input
from ..schedule import NoiseSchedule


def guidance_sides(guidance: float) -> tuple[GuidanceSide, ...]:
    """The sides that guidance needs; at 1 the unconditional one cancels and is left out."""
    return ("conditional",) if guidance == 1 else ("unconditional", "conditional")


@dataclass(frozen=True, eq=False)
class GuidedDenoiser:
    """The denoiser that a sampler calls: eps = eps_u + g (eps_c - eps_u) (Ho & Salimans 2022), and the same for v.

    Attributes:
        unet: The base's UNet.
        schedule: Its noise schedule.
        prediction: What it predicts.
        conditional: The embedded prompts, B of them.
        unconditional: The embedded negative prompts, B of them; not used at guidance 1.
        guidance: g; 1 is no guidance.
        controls: The applied nets of this run, or None.
    """

    unet: UNet
    schedule: NoiseSchedule
    prediction: Prediction
    conditional: TextEmbeddings
    unconditional: TextEmbeddings
    guidance: float
    controls: ControlStack | None = None

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        """The x0 seen in x, both of shape (B, C, h, w); the UNet runs in the dtype of the text embeddings."""
        step = self._step_input(x, sigma)
        residuals = None if self.controls is None else self.controls.residuals(step)
        output: Tensor = self.unet(step.x, step.timesteps, step.context, step.y, residuals).to(x.dtype)
        if len(step.sides) == 2:
            unconditional, conditional = output.chunk(2)
            output = unconditional + self.guidance * (conditional - unconditional)
        return denoised(self.prediction, output, x, sigma)

    def _step_input(self, x: Tensor, sigma: float) -> StepInput:
        """The batch for the UNet and the nets: the same latents for each side, each with its own text."""
        sides = guidance_sides(self.guidance)
        texts = {"unconditional": self.unconditional, "conditional": self.conditional}
        context = torch.cat([texts[side].context for side in sides])
        vectors = [y for side in sides if (y := texts[side].y) is not None]
        latents = network_input(x, sigma).to(context.dtype).repeat(len(sides), 1, 1, 1)
        timestep = float(self.schedule.timestep(torch.tensor(sigma, dtype=torch.float64)))
        timesteps = torch.full((len(latents),), timestep, device=x.device)
        return StepInput(latents, timesteps, context, torch.cat(vectors) if vectors else None, sigma, sides)
