"""How the small base starts, and how its latents are normalised."""

from __future__ import annotations

import torch
from torch.nn import functional

from controlnet_core.config import FAMILIES, TINY
from controlnet_core.keyed import keyed_generator
from controlnet_core.model.autoencoder import Autoencoder
from controlnet_core.model.unet import UNet
from controlnet_core.toy.drawing import images
from controlnet_core.toy.initialise import start_as_average, start_quietly
from controlnet_core.toy.make_base import normalise_latents
from controlnet_core.toy.scenes import draw_scenes


def autoencoder(seed: int) -> Autoencoder:
    torch.manual_seed(seed)
    return Autoencoder(FAMILIES["TINY"].autoencoder)


def test_the_autoencoder_starts_by_averaging_and_repeating_with_certain_latents() -> None:
    model = autoencoder(0)
    start_as_average(model)
    shallow, deep = (torch.randn(1, width, 16, 16, generator=keyed_generator("picture")) for width in (64, 128))
    down, up = model.encoder.stages[0].get_submodule("resample"), model.decoder.stages[0].get_submodule("resample")
    with torch.no_grad():
        halved, averaged = down(shallow), functional.avg_pool2d(shallow, 2)
        doubled, repeated = up(deep, (32, 32)), functional.interpolate(deep, scale_factor=2, mode="nearest")
        latents = model.encode(shallow[:, :3])
    assert (halved - averaged).std() < 0.2 * averaged.std()
    assert (doubled - repeated).std() < 0.2 * repeated.std()
    assert latents.log_variance.max() < -5


def test_the_unet_starts_by_predicting_nothing() -> None:
    unet = UNet(TINY)
    start_quietly(unet)
    prediction = unet(torch.randn(1, 4, 8, 8), torch.tensor([500.0]), torch.randn(1, 77, TINY.context_dim))
    assert prediction.abs().max() == 0


def test_normalising_gives_latents_of_unit_variance_and_the_same_pictures() -> None:
    model = autoencoder(1).double()
    start_as_average(model)
    pixels = (2 * images(draw_scenes(16, keyed_generator("normalise")), 64) - 1).double()
    noise = torch.randn(16, 4, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        before = model.decode(model.encode(pixels).sample(noise))
        normalise_latents(model, pixels)
        latents = model.encode(pixels)
        after = model.decode(latents.sample(noise))
    channels = latents.mean.transpose(0, 1).flatten(1)
    assert (channels.mean(1)).abs().max() < 1e-9
    assert (channels.std(1) - 1).abs().max() < 1e-9
    difference = (after - before).abs().max()
    assert difference < 1e-9, f"max abs difference {difference:.1e}"
