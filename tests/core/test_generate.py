"""Drawing pictures: seeds, batches, control at strength 0, and errors before the first step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from controlnet_core.base import TextEmbeddings
from controlnet_core.config import FAMILIES, TINY, Prediction
from controlnet_core.control.stack import Control
from controlnet_core.errors import FamilyMismatchError, SettingError
from controlnet_core.keyed import keyed_generator
from controlnet_core.model.controlnet import ControlNet
from controlnet_core.model.unet import UNet
from controlnet_core.sampling.generate import SamplingSettings, generate
from controlnet_core.schedule import NoiseSchedule

CONFIG = replace(TINY, model_channels=32, head_channels=32, context_dim=8)
QUICK = SamplingSettings(steps=4, guidance=3.0)


class SmallBase:
    """A random base whose decoder only enlarges the latents."""

    family = replace(FAMILIES["TINY"], unet=CONFIG, image_size=64)
    schedule = NoiseSchedule.scaled_linear()
    prediction: Prediction = "eps"
    device = torch.device("cpu")

    def __init__(self) -> None:
        self.unet = UNet(CONFIG)
        fill(self.unet, seed=0)
        self.embedded: list[tuple[str, ...]] = []

    def encode_text(self, prompts: Sequence[str], size: tuple[int, int]) -> TextEmbeddings:
        self.embedded.append(tuple(prompts))
        contexts = [torch.randn(5, 8, generator=keyed_generator("text", prompt)) for prompt in prompts]
        return TextEmbeddings(torch.stack(contexts))

    def decode_latents(self, latents: Tensor) -> Tensor:
        return latents[:, :3].repeat_interleave(8, -1).repeat_interleave(8, -2).tanh() / 2 + 0.5


def fill(module: torch.nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.requires_grad_(False).normal_(0, 0.1, generator=generator)


def control() -> Control:
    net = ControlNet(CONFIG)
    fill(net, seed=1)
    return Control(net, torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(2)))


def test_pictures_come_out_and_control_changes_them() -> None:
    plain = generate(SmallBase(), "a", settings=QUICK)
    assert plain.shape == (1, 3, 64, 64) and 0 <= plain.min() <= plain.max() <= 1
    assert not plain.is_inference() and not plain.requires_grad
    assert not torch.equal(plain, generate(SmallBase(), "a", [control()], settings=QUICK))


def test_strength_zero_is_no_control_bitwise() -> None:
    plain = generate(SmallBase(), "a", settings=QUICK)
    idle = Control(control().net, control().hint, strength=0.0)
    off = generate(SmallBase(), "a", [idle, idle], settings=QUICK)
    assert torch.equal(plain, off), f"differs by {(plain - off).abs().max()}"


def test_order_of_a_stack_does_not_count() -> None:
    a, b = control(), Control(control().net, torch.ones(3, 64, 64).triu(), strength=0.5)
    ab, ba = (generate(SmallBase(), "", controls, settings=QUICK) for controls in ([a, b], [b, a]))
    worst = float((ab - ba).abs().max())
    assert worst == 0, f"largest difference {worst}"


@pytest.mark.parametrize("sampler", ["euler", "ddim", "dpmpp_2m"])
def test_picture_i_does_not_depend_on_the_batch(sampler: str) -> None:
    settings = replace(QUICK, sampler=sampler)
    both = generate(SmallBase(), ["a", "b"], [control()], settings=settings)
    worst = float((both[:1] - generate(SmallBase(), "a", [control()], settings=settings)).abs().max())
    assert worst < 1e-4, f"largest difference {worst}"
    other = generate(SmallBase(), ["b", "b"], [control()], settings=settings)
    worst = float((both[1:] - other[1:]).abs().max())
    assert worst < 1e-4, f"largest difference {worst}"
    assert not torch.allclose(other[0], other[1]), "pictures of a batch share their noise"


def test_the_seed_draws_the_noise() -> None:
    first, again, other = (generate(SmallBase(), "a", settings=replace(QUICK, seed=seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.allclose(first, other)


def test_a_base_without_signal_at_the_end_begins_with_the_noise_alone() -> None:
    base, seen = SmallBase(), []
    base.schedule, base.prediction = base.schedule.with_zero_terminal_snr(), "v"
    base.unet.register_forward_pre_hook(lambda unet, given: seen.append(given[:2]))
    generate(base, "a", settings=replace(QUICK, guidance=1.0, seed=3))
    x, timesteps = seen[0]
    noise = torch.randn((1, 4, 8, 8), generator=keyed_generator("sampling noise", 3, 0))
    worst = float((x - noise).abs().max())
    assert worst < 1e-6 and timesteps.tolist() == [999], f"largest difference {worst}, timesteps {timesteps}"


def test_prompts_size_and_callback_are_used() -> None:
    base, calls = SmallBase(), []
    settings = replace(QUICK, size=(64, 96))
    pictures = generate(
        base, ["a", ""], negative_prompt="bad", settings=settings, callback=lambda *call: calls.append(call)
    )
    assert pictures.shape == (2, 3, 64, 96)
    assert base.embedded == [("a", ""), ("bad", "bad")]
    assert [call[:2] for call in calls] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert calls[-1][2].shape == (2, 4, 8, 12)


def test_errors_come_before_the_first_step() -> None:
    base = SmallBase()
    other = ControlNet(replace(CONFIG, family="OTHER", context_dim=16))
    with pytest.raises(FamilyMismatchError, match="net of OTHER"):
        generate(base, "a", [Control(other, torch.rand(3, 64, 64))])
    with pytest.raises(SettingError, match="no prompt"):
        generate(base, [])
    assert base.embedded == []


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"steps": 0}, "steps = 0"),
        ({"guidance": float("nan")}, "guidance = nan"),
        ({"size": (64, 100)}, "multiples of 8"),
        ({"sampler": "heun"}, "euler, ddim, dpmpp_2m"),
        ({"spacing": "linear"}, "normal, karras"),
    ],
)
def test_impossible_settings_are_errors(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        SamplingSettings(**setting)
