"""Draw pictures from prompts and hints: the one call that joins text, noise, control, guidance, sampler and decoder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..base import EncodesText
from ..config import Family, Prediction
from ..control.stack import PIXELS_PER_LATENT, Control, ControlStack, check_family
from ..errors import SettingError
from ..keyed import keyed_generator
from ..model.unet import UNet
from ..schedule import SPACINGS, NoiseSchedule, Spacing, sampling_sigmas
from .guidance import GuidedDenoiser, guidance_sides
from .samplers import SAMPLERS, Callback


class SamplingBase(EncodesText, Protocol):
    """What sampling needs from a base."""

    @property
    def family(self) -> Family:
        """Its sizes; the default size of a picture is the family's `image_size`."""

    @property
    def unet(self) -> UNet:
        """The UNet, in the dtype of the text embeddings."""

    @property
    def schedule(self) -> NoiseSchedule:
        """The noise schedule it was trained with."""

    @property
    def prediction(self) -> Prediction:
        """What the UNet predicts."""

    @property
    def device(self) -> torch.device:
        """Where the UNet is."""

    def decode_latents(self, latents: Tensor) -> Tensor:
        """Map latents (B, 4, h, w) to pictures (B, 3, 8h, 8w) in [0, 1]."""


@dataclass(frozen=True)
class SamplingSettings:
    """How pictures are drawn.

    Attributes:
        steps: Steps of the sampler.
        guidance: Classifier-free guidance; 1 is none and takes half the time.
        size: Height and width in pixels, multiples of 8; None is the base's own.
        seed: Draws the noise; picture i of a seed has the same noise in every batch.
        sampler: "euler", "ddim" or "dpmpp_2m".
        spacing: "normal" or "karras", see `sampling_sigmas`.

    Raises:
        SettingError: If a setting is impossible.
    """

    steps: int = 20
    guidance: float = 7.5
    size: tuple[int, int] | None = None
    seed: int = 0
    sampler: str = "dpmpp_2m"
    spacing: Spacing = "karras"

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise SettingError(f"steps = {self.steps}", "1 or more", "use for example 20")
        if not math.isfinite(self.guidance):
            raise SettingError(f"guidance = {self.guidance}", "a finite number", "use for example 7.5")
        if self.size is not None and any(side < 1 or side % PIXELS_PER_LATENT for side in self.size):
            raise SettingError(
                f"size = {self.size}", f"multiples of {PIXELS_PER_LATENT}", "give height and width in pixels"
            )
        if self.sampler not in SAMPLERS:
            raise SettingError(f"sampler = {self.sampler!r}", f"one of {', '.join(SAMPLERS)}", "choose one")
        if self.spacing not in SPACINGS:
            raise SettingError(f"spacing = {self.spacing!r}", f"one of {', '.join(SPACINGS)}", "choose one")


@torch.no_grad()
def generate(
    base: SamplingBase,
    prompt: str | Sequence[str],
    controls: Sequence[Control] = (),
    *,
    negative_prompt: str = "",
    settings: SamplingSettings | None = None,
    callback: Callback | None = None,
) -> Tensor:
    """Draw one picture for each prompt.

    Arguments:
        base: The base, see `SamplingBase`.
        prompt: One prompt, or one for each picture. For control without a prompt: "", and control on the conditional
            side only.
        controls: The applied nets; their residuals are added.
        negative_prompt: What guidance steers away from.
        settings: How to draw; None uses the default of each setting.
        callback: `callback(step, steps, denoised)` after each step, counted from 1, with the denoised latents.

    Returns:
        Pictures, shape (B, 3, H, W) in [0, 1].

    Raises:
        FamilyMismatchError: If a net is for another family than the base.
        SettingError: If there is no prompt.
    """
    settings = settings or SamplingSettings()
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    if not prompts:
        raise SettingError("no prompt", "one for each picture", 'give at least one, which may be ""')
    for control in controls:
        check_family(control, base.unet.config)
    size = settings.size or (base.family.image_size,) * 2
    sigmas = sampling_sigmas(base.schedule, settings.steps, settings.spacing)
    x = _initial_latents(base, len(prompts), size, settings.seed, float(sigmas[0]))
    denoise = GuidedDenoiser(
        base.unet,
        base.schedule,
        base.prediction,
        base.encode_text(prompts, size),
        base.encode_text([negative_prompt] * len(prompts), size),
        settings.guidance,
        ControlStack(controls, base.schedule, sigmas, x.shape, guidance_sides(settings.guidance)),
    )
    return base.decode_latents(SAMPLERS[settings.sampler](denoise, x, sigmas, callback))


def _initial_latents(base: SamplingBase, count: int, size: tuple[int, int], seed: int, sigma: float) -> Tensor:
    """Noise for each picture, drawn on the CPU from seed and index alone, shape (count, C, H/8, W/8).

    Its variance is sigma**2 + 1, that of noise and latents together, so that the network sees unit variance.
    """
    shape = (base.unet.config.in_channels, size[0] // PIXELS_PER_LATENT, size[1] // PIXELS_PER_LATENT)
    noise = [torch.randn(shape, generator=keyed_generator("sampling noise", seed, index)) for index in range(count)]
    return torch.stack(noise).to(base.device) * math.hypot(sigma, 1)
