"""The noise schedule: its numbers, its inverse, and the noise levels that sampling visits."""

from __future__ import annotations

import math

import pytest
import torch
from diffusers import EulerDiscreteScheduler

from controlnet_core.errors import SettingError
from controlnet_core.schedule import SPACINGS, NoiseSchedule, Spacing, sampling_sigmas

SCHEDULE = NoiseSchedule.scaled_linear()
ZERO_SNR = SCHEDULE.with_zero_terminal_snr()
both = pytest.mark.parametrize("schedule", [SCHEDULE, ZERO_SNR], ids=["usual", "zero terminal SNR"])


def test_numbers_of_stable_diffusion() -> None:
    assert float(SCHEDULE.sigmas[0]) == pytest.approx(0.0292, abs=5e-5)
    assert float(SCHEDULE.sigmas[-1]) == pytest.approx(14.615, abs=5e-4)
    assert SCHEDULE.sigma_at(0.5) == pytest.approx(1.6156, abs=5e-5)


def test_numbers_without_signal_at_the_end() -> None:
    assert float(ZERO_SNR.sigmas[-1]) == pytest.approx(4518.7634, rel=1e-7)  # ComfyUI's
    assert float(ZERO_SNR.sigmas[0]) == pytest.approx(float(SCHEDULE.sigmas[0]), rel=1e-12)
    signal, rescaled = SCHEDULE.alphas_cumprod.sqrt(), ZERO_SNR.alphas_cumprod.sqrt()
    slopes = (rescaled.diff() / signal.diff())[:-1]
    assert float((slopes / slopes[0] - 1).abs().max()) < 1e-9, "the signal is shifted and scaled, the last one apart"
    fewer = NoiseSchedule.scaled_linear(50).with_zero_terminal_snr()
    more = NoiseSchedule.scaled_linear(8000).with_zero_terminal_snr()
    assert len(fewer.sigmas) == 50 and len(more.sigmas) == 8000


def test_fractions_beyond_the_schedule_are_infinity_and_zero() -> None:
    assert [SCHEDULE.sigma_at(fraction) for fraction in (-0.1, 0.0, 1.0, 1.1)] == [math.inf, math.inf, 0.0, 0.0]
    assert SCHEDULE.sigma_at(1e-9) == pytest.approx(float(SCHEDULE.sigmas[-1]))


@both
def test_timestep_inverts_sigma(schedule: NoiseSchedule) -> None:
    timesteps = 999 * torch.rand(4, 500, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    timesteps.view(-1)[:3] = torch.tensor([0, 500, 999])
    worst = float((schedule.timestep(schedule.sigma(timesteps)) - timesteps).abs().max())
    assert worst < 1e-8, f"largest difference {worst} timesteps"


def test_whole_timesteps_read_the_table_and_the_rest_is_clamped() -> None:
    worst = float((SCHEDULE.sigma(torch.arange(1000)) / SCHEDULE.sigmas - 1).abs().max())
    assert worst < 1e-12, f"largest relative difference {worst}"
    assert SCHEDULE.timestep(torch.tensor([0.0, 1e-3, 1e3])).tolist() == [0, 0, 999]


@pytest.mark.parametrize("zero_snr", [False, True])
@pytest.mark.parametrize("spacing", SPACINGS)
def test_sampling_sigmas_are_those_of_diffusers(spacing: Spacing, zero_snr: bool) -> None:
    reference = EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        timestep_spacing="linspace",
        use_karras_sigmas=spacing == "karras",
        rescale_betas_zero_snr=zero_snr,
    )
    reference.set_timesteps(20)
    # Its number for a share of 0 is another one, with a largest sigma of 4096.
    rescaled = NoiseSchedule(torch.cat([ZERO_SNR.alphas_cumprod[:-1], torch.tensor([2.0**-24])]))
    schedule = rescaled if zero_snr else SCHEDULE
    ours = sampling_sigmas(schedule, 20, spacing)
    worst = float((ours[:-1] / reference.sigmas[:-1] - 1).abs().max())
    # diffusers computes its table in float32, and between timesteps interpolates sigma, not log(sigma).
    assert worst < {"normal": 1e-3, "karras": 1e-4}[spacing], f"largest relative difference {worst}"
    assert ours[-1] == 0 and len(ours) == 21 and (ours.diff() < 0).all()


def test_one_step_starts_at_the_top() -> None:
    for spacing in SPACINGS:
        assert sampling_sigmas(SCHEDULE, 1, spacing).tolist() == pytest.approx([float(SCHEDULE.sigmas[-1]), 0])


def test_errors_say_what_to_do() -> None:
    with pytest.raises(SettingError, match="steps = 0; expected 1 or more"):
        sampling_sigmas(SCHEDULE, 0)
    with pytest.raises(SettingError, match="normal, karras"):
        sampling_sigmas(SCHEDULE, 5, "linear")  # type: ignore[arg-type]  # the wrong name is the point
    with pytest.raises(SettingError, match="falling table"):
        NoiseSchedule(SCHEDULE.alphas_cumprod.flip(0))
