"""Samplers: from noise to latents along falling noise levels, one short function each.

All have one signature. `denoise(x, sigma)` gives the x0 that the model sees in `x = x0 + sigma * noise`; `sigmas`
falls and ends at 0 (or at the level to stop at); `callback(step, steps, denoised)` is called after each step, counted
from 1. They return x at the last noise level.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

from torch import Tensor

Denoise = Callable[[Tensor, float], Tensor]
Callback = Callable[[int, int, Tensor], None]
Sampler = Callable[[Denoise, Tensor, Tensor, Callback | None], Tensor]


def sample_euler(denoise: Denoise, x: Tensor, sigmas: Tensor, callback: Callback | None = None) -> Tensor:
    """Follow the probability flow with Euler steps (Karras et al. 2022, algorithm 1 without noise)."""
    steps = len(sigmas) - 1
    for step, (sigma, next_sigma) in enumerate(pairwise(sigmas.tolist()), start=1):
        x0 = denoise(x, sigma)
        x = x0 + next_sigma / sigma * (x - x0)
        if callback is not None:
            callback(step, steps, x0)
    return x


def sample_ddim(denoise: Denoise, x: Tensor, sigmas: Tensor, callback: Callback | None = None) -> Tensor:
    """Deterministic DDIM (Song et al. 2021, equation 12 with eta = 0), in its own variance-preserving latents.

    On the same noise levels it takes the same path as Euler's method, up to rounding.
    """
    steps = len(sigmas) - 1
    z = x / math.hypot(1, float(sigmas[0]))
    for step, (sigma, next_sigma) in enumerate(pairwise(sigmas.tolist()), start=1):
        alpha, next_alpha = 1 / math.hypot(1, sigma), 1 / math.hypot(1, next_sigma)
        x0 = denoise(z / alpha, sigma)
        eps = (z - alpha * x0) / (alpha * sigma)
        z = next_alpha * x0 + next_alpha * next_sigma * eps
        if callback is not None:
            callback(step, steps, x0)
    return z * math.hypot(1, float(sigmas[-1]))


def sample_dpmpp_2m(denoise: Denoise, x: Tensor, sigmas: Tensor, callback: Callback | None = None) -> Tensor:
    """DPM-Solver++(2M) (Lu et al. 2022, algorithm 2): second order, from the estimate of the previous step.

    The first step and a step to 0 are of first order: Euler's method.
    """
    steps = len(sigmas) - 1
    previous, previous_width = x, math.inf
    for step, (sigma, next_sigma) in enumerate(pairwise(sigmas.tolist()), start=1):
        x0 = denoise(x, sigma)
        width = math.log(sigma / next_sigma) if next_sigma > 0 else 0.0
        estimate = x0 + width / (2 * previous_width) * (x0 - previous)
        x = estimate + next_sigma / sigma * (x - estimate)
        previous, previous_width = x0, width
        if callback is not None:
            callback(step, steps, x0)
    return x


SAMPLERS: dict[str, Sampler] = {"euler": sample_euler, "ddim": sample_ddim, "dpmpp_2m": sample_dpmpp_2m}
