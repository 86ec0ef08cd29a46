"""UNet, ControlNet and autoencoder compute what those of diffusers compute with the same weights."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor

from controlnet_core.model.autoencoder import Autoencoder
from controlnet_core.model.controlnet import ControlNet
from controlnet_core.model.layers import sinusoidal_encoding
from controlnet_core.model.unet import UNet
from tests.support.reduced import POOLED_WIDTH, REDUCED, difference, noise, randomised
from tests.support.references import reference_autoencoder, reference_controlnet, reference_unet

BOUND = 1e-4
HALF_BOUND = 1e-2
SIZES = {"SD1.5": ((16, 16), (8, 12), (9, 15)), "SD2.1": ((16, 16), (8, 12)), "SDXL": ((16, 16), (8, 12), (10, 7))}
CASES = [(name, size) for name, sizes in SIZES.items() for size in sizes]
TIME_IDS = ((1024.0, 768.0, 0.0, 0.0, 1024.0, 768.0), (512.0, 640.0, 8.0, 16.0, 896.0, 1152.0))


@cache
def models(name: str) -> tuple[Any, ...]:
    """Our UNet and ControlNet with random weights, and those of diffusers with the same."""
    config = REDUCED[name].unet
    unet, net = randomised(UNet(config), seed=1), randomised(ControlNet(config), seed=2)
    return unet, net, reference_unet(unet), reference_controlnet(net)


def step(name: str, size: tuple[int, int]) -> dict[str, Any]:
    """One step's inputs for a batch of two whose rows differ in everything, as ours and as those of diffusers."""
    config = REDUCED[name].unet
    inputs: dict[str, Any] = {
        "x": noise(2, 4, *size, seed=3),
        "hint": torch.sigmoid(noise(2, 3, 8 * size[0], 8 * size[1], seed=4)),
        "timesteps": torch.tensor([1.0, 873.0]),
        "context": noise(2, 11, config.context_dim, seed=5),
        "y": None,
        "added": None,
    }
    if config.vector_dim is not None:
        pooled, ids = noise(2, POOLED_WIDTH, seed=6), torch.tensor(TIME_IDS)
        inputs["y"] = torch.cat([pooled, sinusoidal_encoding(ids.flatten(), 256).reshape(2, -1)], dim=1)
        inputs["added"] = {"text_embeds": pooled, "time_ids": ids}
    return inputs


@pytest.mark.parametrize(("name", "size"), CASES)
@torch.no_grad()
def test_prediction(name: str, size: tuple[int, int]) -> None:
    unet, _, reference, _ = models(name)
    given = step(name, size)
    ours = unet(given["x"], given["timesteps"], given["context"], given["y"])
    theirs = reference(given["x"], given["timesteps"], given["context"], added_cond_kwargs=given["added"]).sample
    found = difference(ours, theirs)
    print(f"{name} UNet at {size}: {found:.1e}")
    assert found <= BOUND, f"max difference {found:.1e} of the largest value"


@pytest.mark.parametrize(("name", "size"), CASES)
@torch.no_grad()
def test_residuals_and_controlled_prediction(name: str, size: tuple[int, int]) -> None:
    unet, net, reference_base, reference = models(name)
    given = step(name, size)
    residuals = net(given["x"], given["hint"], given["timesteps"], given["context"], given["y"])
    inputs = given["x"], given["timesteps"], given["context"]
    skips, middle = reference(*inputs, given["hint"], added_cond_kwargs=given["added"], return_dict=False)
    found = [difference(a, b) for a, b in zip((*residuals.skips, residuals.middle), (*skips, middle), strict=True)]
    print(f"{name} residuals at {size}: {', '.join(f'{value:.1e}' for value in found)}")
    assert len(found) == (10 if name == "SDXL" else 13)
    assert max(found) <= BOUND, f"max differences {found}"

    ours = unet(*inputs, given["y"], residuals)
    theirs = reference_base(
        *inputs,
        added_cond_kwargs=given["added"],
        down_block_additional_residuals=skips,
        mid_block_additional_residual=middle,
    ).sample
    found_controlled = difference(ours, theirs)
    assert found_controlled <= BOUND, f"max difference {found_controlled:.1e} of the largest value"


@pytest.mark.parametrize("size", [(64, 64), (48, 80)])
@pytest.mark.parametrize("name", ["SD1.5", "SDXL"])
@torch.no_grad()
def test_autoencoder(name: str, size: tuple[int, int]) -> None:
    config = REDUCED[name].autoencoder
    autoencoder = randomised(Autoencoder(config), seed=7)
    reference = reference_autoencoder(autoencoder)
    pixels = noise(2, 3, *size, seed=8).tanh()
    ours, theirs = autoencoder.encode(pixels), reference.encode(pixels).latent_dist
    scale = config.latent_scale
    latents = noise(2, 4, size[0] // 8, size[1] // 8, seed=9)
    found = {
        "mean": difference(ours.mean, theirs.mean * scale),
        "log variance": difference(ours.log_variance, theirs.logvar + 2 * torch.tensor(scale).log()),
        "standard deviation": difference((0.5 * ours.log_variance).exp(), theirs.std * scale),
        "pixels": difference(autoencoder.decode(latents), reference.decode(latents / scale).sample),
    }
    print(f"{name} autoencoder at {size}: {found}")
    assert max(found.values()) <= BOUND, f"max differences {found}"


def plain_attention(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """Attention that computes its scores in the dtype it is given."""
    query, key, value = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (query, key, value))
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    attended: Tensor = scores.softmax(dim=-1) @ value
    return attended.transpose(1, 2).flatten(-2)


@torch.no_grad()
def test_half_precision_where_attention_overflows() -> None:
    config = REDUCED["SD2.1"].unet
    unet = randomised(UNet(config, attention=plain_attention), seed=1)
    for projection in ("query", "key"):
        name = f"encoder.stages.0.blocks.0.attention.blocks.0.self_attention.{projection}.weight"
        unet.get_parameter(name).mul_(100.0)
    given = {name: value.half() for name, value in step("SD2.1", (16, 16)).items() if isinstance(value, Tensor)}
    inputs = given["x"], given["timesteps"], given["context"]

    in_half = UNet(replace(config, float32_attention=False), attention=plain_attention)
    in_half.load_state_dict(unet.state_dict())
    assert not in_half.half()(*inputs).isfinite().all(), "these weights do not overflow, so they show nothing"

    reference = reference_unet(unet).half()
    reference.set_attn_processor(AttnProcessor())  # the only one of diffusers that heeds `upcast_attention`
    ours, theirs = unet.half()(*inputs), reference(*inputs).sample
    assert ours.isfinite().all()
    found = difference(ours.float(), theirs.float())
    print(f"SD2.1 UNet in half precision: {found:.1e}")
    assert found <= HALF_BOUND, f"max difference {found:.1e} of the largest value"
