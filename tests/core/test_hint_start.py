"""A hint encoder that was fitted shows the trainable copy its hint as a picture, and changes nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional

from controlnet_core.errors import HintError
from controlnet_core.model.controlnet import ControlNet
from controlnet_core.toy.shapes_dataset import ShapesDataset
from controlnet_core.training.events import Event, Fitting, Stepped
from controlnet_core.training.hint_start import show_hints_as_latents
from controlnet_core.training.session import Session
from controlnet_core.training.settings import TrainSettings
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


def latents_run(out: Path, steps: int) -> TrainSettings:
    return TrainSettings(steps=steps, batch_size=2, hint_start="latents", checkpoint_every=2, device="cpu", out=out)


def test_a_run_fits_its_hint_encoder_once_and_resumes_bit_for_bit(tmp_path: Path) -> None:
    base, pairs, told = load_base("tiny", dtype=torch.float32), ShapesDataset(6, 64, seed=0), list[Event]()

    def interrupting(event: Event) -> None:
        told.append(event)
        if isinstance(event, Stepped) and event.step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Session(latents_run(tmp_path / "resumed", 3), base, pairs, None, "A run").go(interrupting)
    fitting = [event for event in told if isinstance(event, Fitting)]
    assert fitting[-1] == Fitting(86, 86) and len(fitting) == 86
    told.clear()
    resumed = Session(latents_run(tmp_path / "resumed", 3), base, pairs, None, "A run")
    resumed.go(told.append)
    assert not any(isinstance(event, Fitting) for event in told)

    at_once = Session(latents_run(tmp_path / "at_once", 3), base, pairs, None, "A run")
    at_once.go(lambda event: None)
    zero = Session(
        latents_run(tmp_path / "zero", 3).model_copy(update={"hint_start": "zero"}), base, pairs, None, "A run"
    )
    zero.go(lambda event: None)
    nets = [load_file(session.run.net_path) for session in (resumed, at_once, zero)]
    assert all(same_bits(value, nets[1][name]) for name, value in nets[0].items())
    assert not all(same_bits(value, nets[2][name]) for name, value in nets[0].items())


def test_hints_that_the_autoencoder_cannot_encode_are_refused() -> None:
    base = load_base("tiny", dtype=torch.float32)
    net = ControlNet.from_unet(base.unet, hint_channels=1)
    with pytest.raises(HintError, match=r'hints of 1 channels.*3 channels.*set hint_start to "zero"'):
        show_hints_as_latents(net, base, ShapesDataset(4, 64, seed=0), seed=0)
