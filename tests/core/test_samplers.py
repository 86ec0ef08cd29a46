"""The samplers: whole trajectories against diffusers, their order of accuracy, and where they agree."""

from __future__ import annotations

import math

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler
from torch import Tensor

from controlnet_core.config import Prediction
from controlnet_core.prediction import denoised, network_input
from controlnet_core.sampling.samplers import SAMPLERS, Sampler, sample_ddim, sample_dpmpp_2m, sample_euler
from controlnet_core.schedule import SPACINGS, NoiseSchedule, Spacing, sampling_sigmas

STEPS = 20
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SCHEDULE = NoiseSchedule.scaled_linear()
ZERO_SNR = SCHEDULE.with_zero_terminal_snr()
PREDICTION_TYPES: dict[Prediction, str] = {"eps": "epsilon", "v": "v_prediction"}
trained = pytest.mark.parametrize(("prediction", "zero_snr"), [("eps", False), ("v", False), ("v", True)])
"""What networks predict, and whether they learned to draw from noise without any signal."""


def model(x: Tensor, timestep: float) -> Tensor:
    """A smooth nonlinear network, the same for both sides of a comparison."""
    mix = torch.randn(4, 4, generator=torch.Generator().manual_seed(1)).to(x)
    mixed = torch.einsum("ij,bjhw->bihw", mix, x)
    return torch.tanh(mixed + math.sin(timestep / 150)) + 0.3 * x.roll(1, -1) * math.cos(timestep / 300)


def noise() -> Tensor:
    return torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))


def our_trajectory(
    sampler: Sampler, prediction: Prediction, x: Tensor, sigmas: Tensor, timesteps: Tensor
) -> list[Tensor]:
    """x at every noise level."""
    seen: list[Tensor] = []

    def denoise(x: Tensor, sigma: float) -> Tensor:
        seen.append(x)
        output = model(network_input(x, sigma), float(timesteps[len(seen) - 1]))
        return denoised(prediction, output, x, sigma)

    final = sampler(denoise, x, sigmas, None)
    return [*seen, final]


def their_trajectory(
    scheduler: EulerDiscreteScheduler | DDIMScheduler | DPMSolverMultistepScheduler, x: Tensor
) -> list[Tensor]:
    """x at every timestep, in the scheduler's own scale."""
    states = [x]
    for timestep in scheduler.timesteps:
        output = model(scheduler.scale_model_input(states[-1], timestep), float(timestep))
        states.append(scheduler.step(output, timestep, states[-1]).prev_sample)
    return states


def assert_close(ours: list[Tensor], theirs: list[Tensor], bound: float = 5e-6) -> None:
    assert len(ours) == len(theirs)
    worst = max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(ours, theirs, strict=True))
    assert worst < bound, f"largest difference {worst:.2e} of the largest value, over the whole trajectory"


@trained
@pytest.mark.parametrize("karras", [False, True])
def test_euler_is_that_of_diffusers(prediction: Prediction, zero_snr: bool, karras: bool) -> None:
    scheduler = EulerDiscreteScheduler(
        **BETAS,
        prediction_type=PREDICTION_TYPES[prediction],
        rescale_betas_zero_snr=zero_snr,
        timestep_spacing="linspace",
        use_karras_sigmas=karras,
    )
    scheduler.set_timesteps(STEPS)
    x = noise() * scheduler.init_noise_sigma
    ours = our_trajectory(sample_euler, prediction, x, scheduler.sigmas.double(), scheduler.timesteps)
    # It subtracts what it takes away from noise of size 1e4, in float32.
    assert_close(ours, their_trajectory(scheduler, x), bound=1e-4 if zero_snr else 5e-6)


@trained
@pytest.mark.parametrize("to_zero", [False, True])
def test_ddim_is_that_of_diffusers(prediction: Prediction, zero_snr: bool, to_zero: bool) -> None:
    scheduler = DDIMScheduler(
        **BETAS,
        prediction_type=PREDICTION_TYPES[prediction],
        rescale_betas_zero_snr=zero_snr,
        timestep_spacing="trailing" if zero_snr else "leading",
        clip_sample=False,
        set_alpha_to_one=to_zero,
    )
    scheduler.set_timesteps(STEPS)
    schedule = ZERO_SNR if zero_snr else SCHEDULE
    last = torch.zeros(1) if to_zero else schedule.sigmas[:1]
    sigmas = torch.cat([schedule.sigma(scheduler.timesteps), last])
    scales = (sigmas**2 + 1).sqrt().tolist()
    ours = our_trajectory(sample_ddim, prediction, noise() * scales[0], sigmas, scheduler.timesteps)
    theirs = their_trajectory(scheduler, noise())
    # It begins where the signal is 0, and ours where it is 2e-4 of the noise.
    bound = 2e-3 if zero_snr else 5e-6
    assert_close([x / scale for x, scale in zip(ours, scales, strict=True)], theirs, bound)


@trained
@pytest.mark.parametrize("karras", [False, True])
def test_dpmpp_2m_is_that_of_diffusers(prediction: Prediction, zero_snr: bool, karras: bool) -> None:
    scheduler = DPMSolverMultistepScheduler(
        **BETAS,
        prediction_type=PREDICTION_TYPES[prediction],
        rescale_betas_zero_snr=zero_snr,
        use_karras_sigmas=karras,
        final_sigmas_type="zero",
    )
    scheduler.set_timesteps(STEPS)
    sigmas = scheduler.sigmas.double()
    scales = (sigmas**2 + 1).sqrt().tolist()
    ours = our_trajectory(sample_dpmpp_2m, prediction, noise() * scales[0], sigmas, scheduler.timesteps)
    assert_close([x / scale for x, scale in zip(ours, scales, strict=True)], their_trajectory(scheduler, noise()))


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("name", SAMPLERS)
def test_no_figure_is_lost_at_large_noise(name: str, spacing: Spacing) -> None:
    """Single precision at sigma 4519 draws what double precision does."""
    sigmas = sampling_sigmas(ZERO_SNR, STEPS, spacing)
    timesteps = ZERO_SNR.timestep(sigmas)
    single, double = (
        our_trajectory(SAMPLERS[name], "v", noise().to(dtype) * math.hypot(1, float(sigmas[0])), sigmas, timesteps)
        for dtype in (torch.float32, torch.float64)
    )
    assert_close(single, double)


def gaussian_denoise(x: Tensor, sigma: float) -> Tensor:
    """The best denoiser for latents distributed as N(0.7, 0.5**2)."""
    return (0.25 * x + sigma**2 * 0.7) / (0.25 + sigma**2)


@pytest.mark.parametrize(("name", "order"), [("euler", 1), ("ddim", 1), ("dpmpp_2m", 2)])
def test_order_of_accuracy_on_a_flow_with_a_known_end(name: str, order: int) -> None:
    x, end = noise().double(), 0.05
    errors = []
    for steps in (200, 400):
        sigmas = torch.logspace(1, math.log10(end), steps + 1, dtype=torch.float64)
        exact = 0.7 + (x - 0.7) * math.sqrt((0.25 + end**2) / (0.25 + float(sigmas[0]) ** 2))
        errors.append(float((SAMPLERS[name](gaussian_denoise, x, sigmas, None) - exact).abs().max()))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.1), f"errors {errors}"


def test_ddim_takes_eulers_path_and_dpmpp_2m_only_its_first_and_a_single_step() -> None:
    sigmas = sampling_sigmas(SCHEDULE, STEPS)
    timesteps = SCHEDULE.timestep(sigmas)
    x = 14 * noise().double()
    euler, ddim, dpmpp = (
        our_trajectory(sampler, "eps", x, sigmas, timesteps) for sampler in (sample_euler, sample_ddim, sample_dpmpp_2m)
    )
    worst = max(float((a - b).abs().max()) for a, b in zip(euler, ddim, strict=True))
    assert worst < 1e-10, f"largest difference {worst} between Euler and DDIM"
    differences = [float((a - b).abs().max()) for a, b in zip(euler, dpmpp, strict=True)]
    assert max(differences[:2]) < 1e-10 < 1e-3 < min(differences[2:]), f"Euler and DPM++ 2M differ by {differences}"


@pytest.mark.parametrize("name", SAMPLERS)
def test_callback_counts_from_one_and_sees_what_was_denoised(name: str) -> None:
    sigmas, calls, answers = sampling_sigmas(SCHEDULE, 5), [], []

    def denoise(x: Tensor, sigma: float) -> Tensor:
        answers.append(gaussian_denoise(x, sigma))
        return answers[-1]

    x = noise()
    before = x.clone()
    final = SAMPLERS[name](denoise, x, sigmas, lambda *call: calls.append(call))
    assert [call[:2] for call in calls] == [(step, 5) for step in (1, 2, 3, 4, 5)]
    assert all(call[2] is answer for call, answer in zip(calls, answers, strict=True))
    assert torch.equal(final, answers[-1]), "the step to sigma 0 must end at what was denoised"
    assert torch.equal(x, before), "a sampler must not change its argument"
