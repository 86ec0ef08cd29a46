"""What the core draws from ComfyUI's noise, noise levels and text."""

from __future__ import annotations

import torch
from torch import Tensor

from controlnet_core.base import TextEmbeddings
from controlnet_core.config import Prediction
from controlnet_core.control.stack import Control, ControlStack
from controlnet_core.model.controlnet import ControlNet
from controlnet_core.model.unet import UNet
from controlnet_core.sampling.guidance import GuidedDenoiser
from controlnet_core.sampling.samplers import sample_dpmpp_2m, sample_euler
from controlnet_core.schedule import NoiseSchedule, sampling_sigmas
from tests.host.host import Forward

GUIDANCE = 4.0
STRENGTH = 0.6
STEPS_OF_DRAWING = 4
SEED = 5


@torch.no_grad()
def draw_with_core(
    unet: UNet,
    net: ControlNet,
    curve: str,
    hint: Tensor,
    first: Forward,
    size: tuple[int, int],
    zero_snr: bool = False,
) -> Tensor:
    """Latents of one picture, as KSampler draws them with normal spacing, from its seed.

    Arguments:
        unet: The core's UNet.
        net: The core's net.
        curve: The curve of block weights.
        hint: ComfyUI's IMAGE.
        first: The first forward of ComfyUI's UNet, whose text is used.
        size: Rows and columns of the latents.
        zero_snr: Whether the UNet predicts v and begins without any signal, with dpmpp_2m; else it predicts the noise,
            with euler.
    """

    def text(side: int) -> TextEmbeddings:
        return TextEmbeddings(first.context, first.y)[[first.sides.index(side)]]

    plain = NoiseSchedule.scaled_linear()
    schedule = plain.with_zero_terminal_snr() if zero_snr else plain
    prediction: Prediction = "v" if zero_snr else "eps"
    sigmas = sampling_sigmas(schedule, STEPS_OF_DRAWING, "normal")
    noise = torch.randn((1, 4, *size), generator=torch.Generator().manual_seed(SEED))
    control = Control(net, hint.movedim(-1, 1), strength=STRENGTH, curve=curve)  # type: ignore[arg-type]
    stack = ControlStack([control], schedule, sigmas, noise.shape)
    denoise = GuidedDenoiser(unet, schedule, prediction, text(0), text(1), GUIDANCE, stack)
    sampler = sample_dpmpp_2m if zero_snr else sample_euler
    return sampler(denoise, noise * (1 + float(sigmas[0]) ** 2) ** 0.5, sigmas, None)
