"""The noise schedule a base was trained with, in sigmas, and the noise levels that sampling visits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from .errors import SettingError

Spacing = Literal["normal", "karras"]
SPACINGS: tuple[Spacing, ...] = get_args(Spacing)
HAVE_FLOAT64 = ("cpu", "cuda")
"""Kinds of devices with float64; MPS and DirectML have none."""
LEAST_SHARE = 4.8973451890853435e-08
"""What stands for a share of 0 at the last timestep, as in ComfyUI, so that sigma is finite there: 4518.76."""


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """How much noise each training timestep adds.

    A noisy latent is `x = x0 + sigma * noise` (the parametrisation of Karras et al. 2022); what the paper writes
    `sqrt(alphas_cumprod) * x0 + sqrt(1 - alphas_cumprod) * noise` is the same divided by `sqrt(sigma**2 + 1)`.

    Attributes:
        alphas_cumprod: Share of the signal's variance left at each timestep, shape (steps,), falling, in (0, 1).

    Raises:
        SettingError: If `alphas_cumprod` is not such a table.
    """

    alphas_cumprod: Tensor

    def __post_init__(self) -> None:
        table = self.alphas_cumprod.detach().double()
        if table.ndim != 1 or len(table) < 2 or not ((table > 0) & (table < 1)).all() or (table.diff() >= 0).any():
            raise SettingError(
                found=f"alphas_cumprod of shape {tuple(table.shape)} that does not fall between 1 and 0",
                expected="a falling table with one number between 0 and 1 for each timestep",
                do="use NoiseSchedule.scaled_linear() or the table of the base's file",
            )
        object.__setattr__(self, "alphas_cumprod", table)

    @classmethod
    def scaled_linear(cls, steps: int = 1000, beta_start: float = 0.00085, beta_end: float = 0.012) -> NoiseSchedule:
        """The schedule of Stable Diffusion: the square roots of the betas grow linearly."""
        return cls.of_betas(torch.linspace(beta_start**0.5, beta_end**0.5, steps, dtype=torch.float64) ** 2)

    @classmethod
    def of_betas(cls, betas: Tensor) -> NoiseSchedule:
        """The schedule that adds noise of variance beta at each timestep, shape (steps,), float64."""
        return cls(torch.cumprod(1 - betas, dim=0))

    def with_zero_terminal_snr(self) -> NoiseSchedule:
        """The schedule rescaled so that no signal is left at the last timestep (Lin et al. 2023, algorithm 1)."""
        signal = self.alphas_cumprod.sqrt()
        shares = ((signal - signal[-1]) * (signal[0] / (signal[0] - signal[-1]))) ** 2
        shares[-1] = min(LEAST_SHARE, float(shares[-2]) / 4)  # towards 0, shares fall as squares: 9, 4, 1
        return NoiseSchedule(shares)

    @property
    def last_timestep(self) -> int:
        """The timestep of the most noise: 999 for Stable Diffusion."""
        return len(self.alphas_cumprod) - 1

    @property
    def sigmas(self) -> Tensor:
        """The noise level of each timestep, shape (steps,), rising, float64."""
        return ((1 - self.alphas_cumprod) / self.alphas_cumprod).sqrt()

    def sigma(self, timesteps: Tensor) -> Tensor:
        """The noise levels at timesteps of any shape; between two, log(sigma) is interpolated linearly.

        They are float64 where the device has it, else float32.
        """
        log_sigmas = self._log_sigmas(timesteps.device)
        position = timesteps.to(log_sigmas).clamp(0, self.last_timestep)
        low = position.floor().long().clamp(max=self.last_timestep - 1)
        return torch.lerp(log_sigmas[low], log_sigmas[low + 1], position - low).exp()

    def timestep(self, sigmas: Tensor) -> Tensor:
        """The (fractional) timesteps of noise levels of any shape: the inverse of `sigma`, clamped to the table."""
        log_sigmas = self._log_sigmas(sigmas.device)
        log_wanted = sigmas.to(log_sigmas).log()
        low = (torch.searchsorted(log_sigmas, log_wanted, right=True) - 1).clamp(0, self.last_timestep - 1)
        fraction = (log_wanted - log_sigmas[low]) / (log_sigmas[low + 1] - log_sigmas[low])
        return low + fraction.clamp(0, 1)

    def _log_sigmas(self, device: torch.device) -> Tensor:
        """The logarithms of `sigmas` on a device, in the widest dtype that it surely has."""
        return self.sigmas.log().to(device, torch.float64 if device.type in HAVE_FLOAT64 else torch.float32)

    def sigma_at(self, fraction: float) -> float:
        """The noise level after a fraction of the schedule, counted as ComfyUI does, from the most noise to none.

        Arguments:
            fraction: 0 or less is the start of sampling, before any noise level (infinity); 1 or more is its end (0).
        """
        if fraction <= 0:
            return math.inf
        if fraction >= 1:
            return 0.0
        return float(self.sigma(torch.tensor((1 - fraction) * self.last_timestep, dtype=torch.float64)))


def sampling_sigmas(schedule: NoiseSchedule, steps: int, spacing: Spacing = "karras") -> Tensor:
    """The noise levels that sampling visits.

    Arguments:
        schedule: The base's training schedule.
        steps: How many times the base is evaluated, at least 1.
        spacing: "normal" is uniform in timesteps; "karras" is uniform in sigma**(1/7) (Karras et al. 2022,
            equation 5), which spends more steps on little noise.

    Returns:
        Shape (steps + 1,), float64, falling from the schedule's largest sigma to a final 0.

    Raises:
        SettingError: If `steps` is below 1 or `spacing` unknown.
    """
    if steps < 1:
        raise SettingError(found=f"steps = {steps}", expected="1 or more", do="set steps, for example to 20")
    if spacing == "normal":
        levels = schedule.sigma(torch.linspace(schedule.last_timestep, 0, steps, dtype=torch.float64))
    elif spacing == "karras":
        roots = schedule.sigmas[[-1, 0]] ** (1 / 7)
        levels = torch.lerp(roots[0], roots[1], torch.linspace(0, 1, steps, dtype=torch.float64)) ** 7
    else:
        raise SettingError(found=f"spacing = {spacing!r}", expected=f"one of {', '.join(SPACINGS)}", do="choose one")
    return torch.cat([levels, levels.new_zeros(1)])
