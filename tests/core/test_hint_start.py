"""A hint encoder that was fitted shows the trainable copy its hint as a picture, and changes nothing else."""

from __future__ import annotations

import torch
from torch.nn import functional

from controlnet_core.model.controlnet import ControlNet
from controlnet_core.toy.shapes_dataset import ShapesDataset
from controlnet_core.training.hint_start import show_hints_as_latents
from controlnet_core.weights.load_base import load_base
from tests.support.bits import same_bits
from tests.support.reduced import noise


def test_hints_that_were_not_fitted_are_shown_as_their_latents_too() -> None:
    base = load_base("tiny", dtype=torch.float32)
    net, untouched = ControlNet.from_unet(base.unet), ControlNet.from_unet(base.unet)
    missed = show_hints_as_latents(net, base, ShapesDataset(100, 64, seed=0), seed=0)
    assert missed < 0.05, f"{missed:.3f} of the variance missed"

    hints = ShapesDataset(16, 64, seed=5, held_out=True).hints(range(16))
    x, latents = noise(16, 4, 8, 8, seed=1), base.encode_images(hints).mean
    with torch.no_grad():
        seen = net.encoder.input_convolution(x) + net.embed_hint(hints)
        wanted = net.encoder.input_convolution(x + latents)
        shown = wanted - net.encoder.input_convolution(x)
    held_out = float(functional.mse_loss(seen, wanted) / shown.var())
    assert held_out < 0.1, f"{held_out:.3f} of the variance missed on hints of other scenes"

    changed = {name for name, value in net.state_dict().items() if not same_bits(value, untouched.state_dict()[name])}
    assert changed and all(name.startswith("hint_encoder.") for name in changed), changed
    timesteps, context = torch.full((16,), 500.0), noise(16, 32, 128, seed=2)
    with torch.no_grad():
        residuals = net(x, hints, timesteps, context)
    assert residuals.middle is not None
    assert not any(residual.count_nonzero() for residual in (*residuals.skips, residuals.middle))


def test_the_seed_alone_draws_the_fit() -> None:
    base = load_base("tiny", dtype=torch.float32)
    nets = [ControlNet.from_unet(base.unet) for _ in range(2)]
    for net in nets:
        torch.rand(3)  # no other draw has a say
        show_hints_as_latents(net, base, ShapesDataset(4, 64, seed=0), seed=7)
    one, other = (net.hint_encoder.state_dict() for net in nets)
    assert all(same_bits(one[name], other[name]) for name in one)
