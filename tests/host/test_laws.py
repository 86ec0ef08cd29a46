"""What must hold of our nets in ComfyUI: who computes, how often, on which side, and as the core does."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from controlnet_core.weights.load import load_controlnet
from tests.host.core_drawing import GUIDANCE, STEPS_OF_DRAWING, STRENGTH, draw_with_core
from tests.host.graphs import Drawing
from tests.host.host import ALIAS, Forward, Host, largest_difference, recorded_forwards
from tests.host.models import FAMILIES, Models, random_unet

STEPS = 20
LATENTS = 3e-5
LATENT_SCALES = {"sd15": 0.18215, "sd21": 0.18215, "sdxl": 0.13025}


def load(host: Host, name: str) -> tuple[Any, str]:
    """What our loader gives for a file: the net and the report."""
    drawing = Drawing("sd15", ours=True)
    node = drawing.add("LoadControlNet", control_net_name=name)
    drawing.capture("net", [node, 0])
    drawing.capture("report", [node, 1])
    captured = host.run(drawing.graph)
    return captured["net"], captured["report"]


def controlled(host: Host, net: str, ours: bool = True, **settings: object) -> tuple[Tensor, list[Forward]]:
    """Latents drawn with a net of SD1.5, and what the UNet was given."""
    drawing = Drawing("sd15", ours)
    drawing.apply(drawing.net(net), drawing.images(), **settings)  # type: ignore[arg-type]
    drawing.sample()
    with recorded_forwards() as forwards:
        latents: Tensor = host.run(drawing.graph)["latent"]["samples"]
    return latents, forwards


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("file", ["a.safetensors", "diffusers.safetensors", "a.pth"])
def test_the_core_computes_what_it_reads(host: Host, family: str, file: str) -> None:
    net, report = load(host, f"{family}_{file}")
    module = type(net.control_model)
    assert (module.__module__, module.__name__) == (f"{ALIAS}.controlnet_core.model.controlnet", "ControlNet")
    assert "read by ControlNet Core" in report
    assert ("diffusers layout" if "diffusers" in file else "ldm layout") in report


def test_every_layout_of_a_net_gives_the_same_picture(host: Host) -> None:
    reference, _ = controlled(host, "a")
    for file in ("diffusers", "a.pth"):
        assert torch.equal(controlled(host, file)[0], reference), file


@pytest.mark.parametrize(("side", "end"), [("both", 1.0), ("conditional", 1.0), ("both", 0.5)])
def test_the_hint_is_encoded_once(host: Host, side: str, end: float) -> None:
    native = count_forwards(host, ours=False, end=end)
    ours = count_forwards(host, ours=True, end=end, side=side)
    print(f"\n{STEPS} steps, {side} sides, end {end}: ours {dict(ours)}, native {dict(native)}")
    steps = STEPS if end == 1 else STEPS // 2
    assert ours["net"] == native["net"] == steps
    assert ours["hint encoder"] == 1
    assert native["hint encoder"] == steps
    assert ours["rows"] == (steps if side == "conditional" else 2 * steps)


def count_forwards(host: Host, ours: bool, **settings: object) -> Counter[str]:
    """Forwards of a net and of its hint encoder in one run, and the rows that the net was given."""
    counts: Counter[str] = Counter()

    def count(module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any], _: object) -> None:
        if type(module).__name__ == "ControlNet":
            counts["net"] += 1
            counts["rows"] += len(named.get("x", arguments[0] if arguments else ()))
        if isinstance(module, nn.Conv2d) and module.in_channels == 3:
            counts["hint encoder"] += 1

    drawing = Drawing("sd15", ours, size=(64, 64))
    drawing.apply(drawing.net("a"), drawing.images(), **settings)  # type: ignore[arg-type]
    drawing.sample(steps=STEPS)
    handle = nn.modules.module.register_module_forward_hook(count, with_kwargs=True)
    try:
        host.run(drawing.graph)
    finally:
        handle.remove()
    return counts


@pytest.mark.parametrize("curve", ["cfg_resolution", "cfg_resolution_normalised", "guess"])
@pytest.mark.parametrize("ours", [True, False], ids=["our net", "native net"])
def test_curves_act_on_the_conditional_side_only(host: Host, curve: str, ours: bool) -> None:
    drawing = Drawing("sd15", ours=True, size=(128, 192))
    drawing.apply(drawing.net("a", ours=ours), drawing.images(), curve=curve)
    drawing.sample()
    with recorded_forwards() as forwards:
        host.run(drawing.graph)
    for forward in forwards:
        for residual in forward.residuals:
            positive, negative = (residual.chunk(2)[forward.sides.index(side)] for side in (0, 1))
            assert positive.abs().max() > 0
            assert negative.abs().max() == 0


@pytest.mark.parametrize("curve", ["cfg_resolution", "cfg_resolution_normalised", "guess", "custom"])
@pytest.mark.parametrize("side", ["both", "conditional", "unconditional"])
def test_a_native_net_with_a_curve_is_our_net_with_it(host: Host, curve: str, side: str) -> None:
    def draw(ours: bool) -> Tensor:
        drawing = Drawing("sd15", ours=True, size=(128, 192), count=2)
        weights = "0.2 0.4 0.6 0.8 1" if curve == "custom" else ""
        net = drawing.net("a", ours=ours)
        drawing.apply(net, drawing.images(), 0.7, 0.1, 0.9, curve=curve, side=side, block_weights=weights)
        drawing.sample()
        latents: Tensor = host.run(drawing.graph)["latent"]["samples"]
        return latents

    assert largest_difference(draw(ours=False), draw(ours=True)) <= LATENTS


@pytest.mark.parametrize(("curve", "zero_snr"), [("flat", False), ("cfg_resolution", False), ("flat", True)])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_node_draws_what_the_core_draws(
    host: Host, models: Models, family: str, curve: str, zero_snr: bool
) -> None:
    """From the same noise, text and hint: the paper's CFG resolution weighting among others."""
    drawing = Drawing(family, ours=True)
    if zero_snr:
        node = drawing.add("ModelSamplingDiscrete", model=drawing.model, sampling="v_prediction", zsnr=True)
        drawing.model = [node, 0]
    images = drawing.images()
    drawing.capture("hint", images)
    drawing.apply(drawing.net("a"), images, STRENGTH, curve=curve)
    sampler = "dpmpp_2m" if zero_snr else "euler"
    drawing.sample(cfg=GUIDANCE, steps=STEPS_OF_DRAWING, sampler_name=sampler)
    with recorded_forwards() as forwards:
        captured = host.run(drawing.graph)
    unet, net = random_unet(family), load_controlnet(models.net(f"{family}_a.safetensors"))
    expected = draw_with_core(unet, net, curve, captured["hint"], forwards[0], (16, 16), zero_snr)
    found = largest_difference(captured["latent"]["samples"] * LATENT_SCALES[family], expected)
    print(f"\n{family}, {curve}: {found:.1e}")
    assert found <= LATENTS
