"""The eps and v predictions: round trips, and the same numbers as diffusers."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr

from controlnet_core.config import LossWeighting, Prediction
from controlnet_core.objective import loss_weights
from controlnet_core.prediction import denoised, network_input, noised, target
from controlnet_core.schedule import NoiseSchedule

SCHEDULE = NoiseSchedule.scaled_linear()
ZERO_SNR = SCHEDULE.with_zero_terminal_snr()
TIMESTEPS = [0, 250, 999]


def draws(schedule: NoiseSchedule = SCHEDULE) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    latents, noise = torch.randn(2, 3, 4, 5, 6, generator=generator, dtype=torch.float64)
    return latents, noise, schedule.sigma(torch.tensor(TIMESTEPS))


@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_a_perfect_prediction_gives_the_latents_back(prediction: Prediction) -> None:
    latents, noise, sigma = draws()
    x = noised(latents, noise, sigma)
    worst = float((denoised(prediction, target(prediction, latents, noise, sigma), x, sigma) - latents).abs().max())
    assert worst < 1e-12, f"largest difference {worst}"


@pytest.mark.parametrize("zero_snr", [False, True])
def test_training_inputs_and_targets_are_those_of_diffusers(zero_snr: bool) -> None:
    latents, noise, sigma = draws(ZERO_SNR if zero_snr else SCHEDULE)
    reference = DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", rescale_betas_zero_snr=zero_snr
    )
    timesteps = torch.tensor(TIMESTEPS)
    inputs = network_input(noised(latents, noise, sigma), sigma) - reference.add_noise(latents, noise, timesteps)
    velocities = target("v", latents, noise, sigma) - reference.get_velocity(latents, noise, timesteps)
    worst = max(float(inputs.abs().max()), float(velocities.abs().max()))
    # Its last signal is 0, and ours 2e-4 of the noise.
    assert worst < (1e-3 if zero_snr else 1e-5), f"largest difference {worst}"
    assert torch.equal(target("eps", latents, noise, sigma), noise)


def test_single_precision_is_enough_where_no_signal_is_left() -> None:
    latents, noise, sigma = draws(ZERO_SNR)
    found = []
    for dtype in (torch.float32, torch.float64):
        given, added = latents.to(dtype), noise.to(dtype)
        x, velocity = noised(given, added, sigma), target("v", given, added, sigma)
        found.append(torch.stack([network_input(x, sigma), velocity, denoised("v", velocity, x, sigma)]).double())
    worst = float((found[0] - found[1]).abs().max())
    assert worst < 1e-6, f"largest difference {worst}"


@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_a_sigma_for_all_is_the_same_as_a_sigma_for_each(prediction: Prediction) -> None:
    latents, noise, sigma = draws()
    common, each = float(sigma[1]), sigma[1].expand(3)
    x = noised(latents, noise, common)
    pairs = [
        (x, noised(latents, noise, each)),
        (network_input(x, common), network_input(x, each)),
        (target(prediction, latents, noise, common), target(prediction, latents, noise, each)),
        (denoised(prediction, noise, x, common), denoised(prediction, noise, x, each)),
    ]
    worst = max(float((a - b).abs().max()) for a, b in pairs)
    assert worst < 1e-12, f"largest difference {worst}"


@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_errors_weighted_as_v_are_errors_of_v(prediction: Prediction) -> None:
    latents, noise, sigma = draws()
    x, output = noised(latents, noise, sigma), torch.randn_like(noise)
    errors = ((output - target(prediction, latents, noise, sigma)) ** 2).mean((1, 2, 3))
    drawn = denoised(prediction, output, x, sigma)
    drawn_noise = (x - drawn) / sigma.reshape(-1, 1, 1, 1)
    errors_of_v = ((target("v", drawn, drawn_noise, sigma) - target("v", latents, noise, sigma)) ** 2).mean((1, 2, 3))
    worst = float((loss_weights("v", prediction, sigma) * errors / errors_of_v - 1).abs().max())
    assert worst < 1e-9, f"largest relative difference {worst}"
    assert torch.equal(loss_weights("plain", prediction, sigma), torch.ones(3))


@pytest.mark.parametrize(("prediction", "added"), [("eps", 0), ("v", 1)])
def test_min_snr_counts_noise_levels_as_the_scripts_of_diffusers_do(prediction: Prediction, added: int) -> None:
    timesteps = torch.tensor(TIMESTEPS)
    ratio = compute_snr(DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"), timesteps)
    assert ratio[0] > 5 > ratio[1], "one level on each side of gamma"
    found = loss_weights("min_snr", prediction, SCHEDULE.sigma(timesteps))
    assert torch.allclose(found, (ratio.clamp(max=5) / (ratio + added)).double(), rtol=1e-4)


@pytest.mark.parametrize("weighting", ["v", "min_snr"])
@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_weights_are_finite_where_no_signal_is_left(weighting: LossWeighting, prediction: Prediction) -> None:
    weights = loss_weights(weighting, prediction, draws(ZERO_SNR)[2])
    assert weights.isfinite().all() and (weights > 0).all()
