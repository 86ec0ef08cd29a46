"""Classifier-free guidance: its formula, the sides it computes, and control without a prompt."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from controlnet_core.base import TextEmbeddings
from controlnet_core.config import TINY, Prediction
from controlnet_core.control.curves import Side
from controlnet_core.control.stack import Control, ControlStack
from controlnet_core.model.controlnet import ControlNet
from controlnet_core.model.residuals import Residuals
from controlnet_core.model.unet import UNet
from controlnet_core.prediction import denoised, network_input
from controlnet_core.sampling.guidance import GuidedDenoiser, guidance_sides
from controlnet_core.schedule import NoiseSchedule, sampling_sigmas

CONFIG = replace(TINY, model_channels=32, head_channels=32, context_dim=8, vector_dim=6)
SCHEDULE = NoiseSchedule.scaled_linear()
SIGMA = 3.0


class RecordingUNet(UNet):
    """A small random UNet that notes the batch of each forward."""

    def __init__(self) -> None:
        super().__init__(CONFIG)
        fill(self, seed=0)
        self.batches: list[int] = []

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor,
        y: Tensor | None = None,
        residuals: Residuals | None = None,
    ) -> Tensor:
        self.batches.append(len(x))
        return super().forward(x, timesteps, context, y, residuals)


def fill(module: torch.nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.requires_grad_(False).normal_(0, 0.1, generator=generator)


def texts(seed: int) -> TextEmbeddings:
    generator = torch.Generator().manual_seed(seed)
    return TextEmbeddings(torch.randn(2, 5, 8, generator=generator), torch.randn(2, 6, generator=generator))


def latents() -> Tensor:
    return SIGMA * torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(9))


def controls(guidance: float, sides: Side = "both") -> ControlStack:
    net = ControlNet(CONFIG)
    fill(net, seed=4)
    control = Control(net, torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(5)), side=sides)
    return ControlStack([control], SCHEDULE, sampling_sigmas(SCHEDULE, 20), (2, 4, 8, 8), guidance_sides(guidance))


def by_hand(unet: UNet, text: TextEmbeddings) -> Tensor:
    timesteps = SCHEDULE.timestep(torch.full((2,), SIGMA)).float()
    output: Tensor = unet(network_input(latents(), SIGMA), timesteps, text.context, text.y)
    return output


@pytest.mark.parametrize("prediction", ["eps", "v"])
@pytest.mark.parametrize("guidance", [0.0, 1.0, 7.5])
def test_formula(prediction: Prediction, guidance: float) -> None:
    unet, conditional, unconditional = RecordingUNet(), texts(1), texts(2)
    found = GuidedDenoiser(unet, SCHEDULE, prediction, conditional, unconditional, guidance)(latents(), SIGMA)
    eps_c, eps_u = by_hand(unet, conditional), by_hand(unet, unconditional)
    expected = denoised(prediction, eps_u + guidance * (eps_c - eps_u), latents(), SIGMA)
    worst = float((found - expected).abs().max() / expected.abs().max())
    assert worst < 1e-5, f"largest difference {worst} of the largest value"


def test_one_call_for_both_sides_and_at_guidance_one_half_of_it() -> None:
    for guidance, batch in ((7.5, 4), (1.0, 2)):
        unet = RecordingUNet()
        stack = controls(guidance)
        GuidedDenoiser(unet, SCHEDULE, "eps", texts(1), texts(2), guidance, stack)(latents(), SIGMA)
        assert unet.batches == [batch], f"guidance {guidance}"
        assert stack.runs[0].forwards == 1


def test_conditional_control_is_not_part_of_what_guidance_starts_from() -> None:
    unet = RecordingUNet()

    def output(guidance: float, stack: ControlStack | None) -> Tensor:
        return GuidedDenoiser(unet, SCHEDULE, "eps", texts(1), texts(2), guidance, stack)(latents(), SIGMA)

    conditional_only = output(0.0, controls(0.0, sides="conditional"))
    assert torch.equal(conditional_only, output(0.0, None)), "at guidance 0 only the unconditional side is left"
    worst = float((output(1.0, controls(1.0, sides="conditional")) - output(1.0, controls(1.0))).abs().max())
    assert worst == 0, f"largest difference {worst}: at guidance 1 there is only the conditional side"


def test_without_a_prompt_guidance_amplifies_control_only_on_the_conditional_side() -> None:
    unet, empty = RecordingUNet(), texts(1)

    def output(guidance: float, sides: Side) -> Tensor:
        stack = controls(guidance, sides=sides)
        return GuidedDenoiser(unet, SCHEDULE, "eps", empty, empty, guidance, stack)(latents(), SIGMA)

    both = float((output(7.5, "both") - output(2.0, "both")).abs().max())
    conditional = float((output(7.5, "conditional") - output(2.0, "conditional")).abs().max())
    assert both < 1e-3 < 1e-1 < conditional, f"guidance changes {both} and {conditional}"
