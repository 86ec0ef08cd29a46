"""What the network sees and what its output means, for networks that predict the noise (eps) or v.

Everywhere `x = x0 + sigma * noise`, and sigma is a number for all samples or a tensor of shape (B,), one for each.
"""

from __future__ import annotations

from torch import Tensor

from .config import Prediction

Sigma = Tensor | float


def noised(latents: Tensor, noise: Tensor, sigma: Sigma) -> Tensor:
    """Latents x0 with noise of standard deviation sigma added, shape (B, C, h, w)."""
    return latents + _spread(sigma, latents) * noise


def network_input(x: Tensor, sigma: Sigma) -> Tensor:
    """Noisy latents scaled to the variance the network was trained on: x / sqrt(sigma**2 + 1).

    Of `noised` latents this is sqrt(alphas_cumprod) * x0 + sqrt(1 - alphas_cumprod) * noise.
    """
    return x * _signal(sigma, x)


def target(prediction: Prediction, latents: Tensor, noise: Tensor, sigma: Sigma) -> Tensor:
    """What the network should predict: the noise, or v (Salimans & Ho 2022) = alpha * noise - sigma * alpha * x0."""
    if prediction == "eps":
        return noise
    return (noise - _spread(sigma, latents) * latents) * _signal(sigma, latents)


def denoised(prediction: Prediction, output: Tensor, x: Tensor, sigma: Sigma) -> Tensor:
    """The x0 that the network's output means for noisy latents x, shape (B, C, h, w)."""
    level = _spread(sigma, x)
    if prediction == "eps":
        return x - level * output
    alpha = _signal(sigma, x)
    return (x * alpha - level * output) * alpha


def _spread(sigma: Sigma, like: Tensor) -> Sigma:
    """Sigma in the dtype and on the device of `like`, shaped to broadcast over channels and pixels."""
    return sigma if isinstance(sigma, (int, float)) else sigma.to(like).reshape(-1, 1, 1, 1)


def _signal(sigma: Sigma, like: Tensor) -> Sigma:
    """The factor alpha = sqrt(alphas_cumprod) = 1 / sqrt(sigma**2 + 1), computed before it is rounded."""
    alpha: Sigma = (sigma * sigma + 1) ** -0.5
    return _spread(alpha, like)
