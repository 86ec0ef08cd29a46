"""The training objective: predict the noise, given the text and the hint (Zhang et al. 2023, equation 5)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from .base import TextEmbeddings
from .config import LossWeighting, Prediction
from .model.controlnet import ControlNet
from .model.residuals import Residuals
from .model.unet import Features, UNet
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

    def __len__(self) -> int:
        """How many pairs it has."""
        return len(self.latents)

    def parts(self, count: int) -> Iterator[Batch]:
        """Slice it into `count` batches, or as many as it has pairs, each as long as another or by one pair longer."""
        count = min(count, len(self))
        for number in range(count):
            rows = slice(number * len(self) // count, (number + 1) * len(self) // count)
            yield Batch(
                self.latents[rows], self.noise[rows], self.timesteps[rows], self.hints[rows], self.text[rows]
            )


MIN_SNR_GAMMA = 5.0
"""The signal-to-noise ratio from which on errors of x0 count no more (Hang et al. 2023, section 3.4)."""


def control_loss(
    unet: UNet,
    net: ControlNet,
    batch: Batch,
    schedule: NoiseSchedule,
    prediction: Prediction,
    weighting: LossWeighting = "plain",
    autocast: torch.dtype | None = None,
) -> Tensor:
    """Mean squared error of the controlled prediction.

    The locked encoder runs outside autograd: nothing that is trained comes before it, so its graph is not needed. The
    locked decoder lets gradients pass to the residuals; its own weights have none. Base and net each compute in the
    dtype of their own weights, unless the net is told otherwise; what passes between them is converted.

    Arguments:
        unet: The locked base, whose parameters need no gradient.
        net: The trained net.
        batch: What to train on.
        schedule: The base's noise schedule.
        prediction: What the base predicts.
        weighting: How much each noise level counts, as in `loss_weights`.
        autocast: What the net computes in, by torch's autocast; None is the dtype of its weights.

    Returns:
        The loss, a number.
    """
    sigma, x = _noisy(batch, schedule)
    context, features = _locked(unet, x, batch)
    with _autocast(x.device, autocast):
        residuals = _residuals(net, x, batch, batch.hints)
    scale = _gradient_scale(unet.dtype, x.numel())
    if net.dtype != unet.dtype:
        residuals = residuals.map(lambda residual: _scaled_gradient(residual, 1 / scale).to(unet.dtype))
    output = unet.decode(features, context, residuals)
    output = _scaled_gradient(output.to(torch.promote_types(output.dtype, torch.float32)), scale)
    wanted = target(prediction, batch.latents, batch.noise, sigma).to(output.dtype)
    if weighting == "plain":
        return functional.mse_loss(output, wanted)
    errors = functional.mse_loss(output, wanted, reduction="none").mean((1, 2, 3))
    return (loss_weights(weighting, prediction, sigma).to(errors) * errors).mean()


@torch.no_grad()
def control_errors(
    unet: UNet,
    net: ControlNet,
    batch: Batch,
    schedule: NoiseSchedule,
    prediction: Prediction,
    hints: Sequence[Tensor],
) -> list[Tensor]:
    """The mean squared error of each row's controlled prediction, shape (B,), with each of several sets of hints.

    What the hints have no say in, the locked encoder, is computed once.
    """
    sigma, x = _noisy(batch, schedule)
    context, features = _locked(unet, x, batch)
    wanted = target(prediction, batch.latents, batch.noise, sigma)
    errors = []
    for pixels in hints:
        residuals = _residuals(net, x, batch, pixels).map(lambda residual: residual.to(unet.dtype))
        output = unet.decode(features, context, residuals)
        errors.append((output.to(wanted.dtype) - wanted).square().mean((1, 2, 3)))
    return errors


def _noisy(batch: Batch, schedule: NoiseSchedule) -> tuple[Tensor, Tensor]:
    """The noise levels of a batch, shape (B,), and what the network sees at them, (B, C, h, w)."""
    sigma = schedule.sigma(batch.timesteps)
    return sigma, network_input(noised(batch.latents, batch.noise, sigma), sigma)


@torch.no_grad()
def _locked(unet: UNet, x: Tensor, batch: Batch) -> tuple[Tensor, Features]:
    """The context in the dtype of the base, and what its encoder makes of a batch."""
    text = batch.text.to(x.device, unet.dtype)
    return text.context, unet.encode(x.to(unet.dtype), batch.timesteps, text.context, text.y)


def _residuals(net: ControlNet, x: Tensor, batch: Batch, hints: Tensor) -> Residuals:
    """What a net adds to the base for a batch with some hints, in the net's own dtype."""
    text = batch.text.to(x.device, net.dtype)
    residuals: Residuals = net(x.to(net.dtype), hints.to(net.dtype), batch.timesteps, text.context, text.y)
    return residuals


def _autocast(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[object]:
    """Torch's autocast. Each weight is used once, so that a cache of converted weights would only take memory."""
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype, cache_enabled=False)


def accumulate_gradients(
    loss_of: Callable[[Batch], Tensor],
    batch: Batch,
    parts: int,
    before_last: AbstractContextManager[object] | None = None,
) -> Tensor:
    """Add the gradients of a batch's loss to the parameters, one part of the batch after another.

    Arguments:
        loss_of: The mean loss of a batch.
        batch: The whole batch.
        parts: How many parts at most.
        before_last: What is entered for all parts but the last one, if anything.

    Returns:
        The loss of the whole batch, without a gradient.
    """

    def added(part: Batch) -> Tensor:
        loss = loss_of(part) * (len(part) / len(batch))
        loss.backward()
        return loss.detach()

    *before, last = batch.parts(parts)
    with before_last or nullcontext():
        losses = [added(part) for part in before]
    return torch.stack([*losses, added(last)]).sum()


def loss_weights(weighting: LossWeighting, prediction: Prediction, sigma: Tensor) -> Tensor:
    """What the squared error of the base's output is multiplied by.

    With an error e of x0, the error of the noise is e / sigma and that of v is e * sqrt(1 + 1 / sigma**2).

    Arguments:
        weighting: "plain" is 1 (the paper: errors of what the base predicts). "v" counts errors of v, whatever the base
            predicts. "min_snr" counts errors of x0 by the signal-to-noise ratio, 1 / sigma**2, but at most by 5
            (Hang et al. 2023).
        prediction: What the base predicts.
        sigma: The noise levels, shape (B,).

    Returns:
        Factors, shape (B,).
    """
    if weighting == "plain":
        return torch.ones_like(sigma)
    of_x0 = 1 + sigma**-2 if weighting == "v" else (sigma**-2).clamp(max=MIN_SNR_GAMMA)
    return of_x0 / (sigma**-2 if prediction == "eps" else 1 + sigma**-2)


def _gradient_scale(dtype: torch.dtype, outputs: int) -> float:
    """By what the gradient is multiplied while it passes through the locked decoder: a power of two, so nothing rounds.

    The gradient of a mean over many outputs is too small for float16, whose smallest normal number is 6e-5.
    """
    return 2.0 ** round(math.log2(outputs)) if dtype == torch.float16 else 1.0


def _scaled_gradient(x: Tensor, factor: float) -> Tensor:
    """The same tensor, whose gradient is multiplied by a factor."""
    if factor == 1:
        return x
    scaled: Tensor = _ScaledGradient.apply(x, factor)  # type: ignore[no-untyped-call] # torch's
    return scaled


class _ScaledGradient(torch.autograd.Function):
    """The identity; the backward pass multiplies by a factor."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:  # noqa: ANN401 - torch's
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401 - torch's
        return gradients[0] * ctx.factor, None
