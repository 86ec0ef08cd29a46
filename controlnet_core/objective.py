"""The training objective: predict the noise, given the text and the hint (Zhang et al. 2023, equation 5)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from .base import TextEmbeddings
from .config import Prediction
from .model.controlnet import ControlNet
from .model.unet import UNet
from .prediction import network_input, noised, target
from .schedule import NoiseSchedule


@dataclass(frozen=True, eq=False)
class Batch:
    """The training data of one step.

    Attributes:
        latents: Clean latents, shape (B, C, h, w).
        noise: The noise to add, the same shape.
        timesteps: Shape (B,), whole numbers from 0.
        hints: Pixels from 0 to 1, shape (B, hint_channels, 8h, 8w).
        text: The embedded prompts, empty where they were dropped.
    """

    latents: Tensor
    noise: Tensor
    timesteps: Tensor
    hints: Tensor
    text: TextEmbeddings


def control_loss(
    unet: UNet, net: ControlNet, batch: Batch, schedule: NoiseSchedule, prediction: Prediction
) -> Tensor:
    """Mean squared error of the controlled prediction.

    The locked encoder runs outside autograd: nothing that is trained comes before it, so its graph is not needed. The
    locked decoder lets gradients pass to the residuals; its own weights have none.

    Arguments:
        unet: The locked base, whose parameters need no gradient.
        net: The trained net.
        batch: What to train on.
        schedule: The base's noise schedule.
        prediction: What the base predicts.

    Returns:
        The loss, a number.
    """
    sigma = schedule.sigma(batch.timesteps)
    x = network_input(noised(batch.latents, batch.noise, sigma), sigma)
    context, y = batch.text.context, batch.text.y
    with torch.no_grad():
        features = unet.encode(x, batch.timesteps, context, y)
    residuals = net(x, batch.hints, batch.timesteps, context, y)
    output = unet.decode(features, context, residuals)
    dtype = torch.promote_types(output.dtype, torch.float32)
    wanted = target(prediction, batch.latents, batch.noise, sigma)
    return functional.mse_loss(output.to(dtype), wanted.to(dtype))
