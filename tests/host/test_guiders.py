"""A side of guidance is the one it was applied on, whatever the guider, patch or hook, and nothing is run apart for it.

The reference is ComfyUI's own: a native net applied to the positive conditioning alone, or to the negative alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from tests.host.graphs import Drawing, Link
from tests.host.host import Host, largest_difference, recorded_forwards

LATENTS = 3e-5
ACTS = 1e-3
"""How much the side must change a picture, lest a guider that ignores it passes."""


def sample(drawing: Drawing) -> None:
    drawing.sample()


def patched(node: str, **inputs: object) -> Callable[[Drawing], object]:
    """Plain guidance on a patched model."""

    def build(drawing: Drawing) -> None:
        drawing.model = [drawing.add(node, model=drawing.model, **inputs), 0]
        drawing.sample()

    return build


def guided(drawing: Drawing, guider: str, **inputs: object) -> None:
    """Sample with a guider."""
    node = drawing.add(guider, model=drawing.model, **inputs)
    noise, sampler = drawing.add("RandomNoise", noise_seed=5), drawing.add("KSamplerSelect", sampler_name="euler")
    sigmas = drawing.add("BasicScheduler", model=drawing.model, scheduler="normal", steps=3, denoise=1.0)
    links = {"noise": noise, "guider": node, "sampler": sampler, "sigmas": sigmas}
    sampled = drawing.add(
        "SamplerCustomAdvanced", **{name: [link, 0] for name, link in links.items()}, latent_image=drawing.latent
    )
    drawing.capture("latent", [sampled, 0])


def dual(style: str, controlled_middle: bool = False) -> Callable[[Drawing], object]:
    """Two prompts; the net is on the first one and the negative, or on all three."""

    def build(drawing: Drawing) -> None:
        middle = drawing.positive if controlled_middle else drawing.conditioning(9)
        guided(
            drawing,
            "DualCFGGuider",
            cond1=drawing.positive,
            cond2=middle,
            negative=drawing.negative,
            cfg_conds=4.0,
            cfg_cond2_negative=3.0,
            style=style,
        )

    return build


def dual_model(drawing: Drawing) -> None:
    other = [drawing.add("UNETLoader", unet_name="sd15.safetensors", weight_dtype="default"), 0]
    further = {"positive": drawing.positive, "negative": drawing.negative, "model_negative": other}
    guided(drawing, "DualModelGuider", cfg=4.0, **further)


def perp_neg(drawing: Drawing) -> None:
    further = {"positive": drawing.positive, "negative": drawing.negative}
    empty = drawing.conditioning(9)
    guided(drawing, "PerpNegGuider", **further, empty_conditioning=empty, cfg=4.0, neg_scale=1.0)


def areas(drawing: Drawing) -> None:
    """An area of the positive side. ComfyUI adds one to the negative side, with the positive's net; the reference has
    an area of its own there, so that the negative is predicted without it."""
    area = {"width": 64, "height": 64, "x": 32, "y": 0, "strength": 1.0}

    def placed(conditioning: Link) -> Link:
        part = drawing.add("ConditioningSetArea", conditioning=conditioning, **area)
        return [drawing.add("ConditioningCombine", conditioning_1=conditioning, conditioning_2=[part, 0]), 0]

    negative = drawing.negative if drawing.ours else placed(drawing.negative)
    drawing.sample(positive=placed(drawing.positive), negative=negative)


GUIDERS: dict[str, Callable[[Drawing], object]] = {
    "plain": sample,
    "CFG 1": lambda drawing: drawing.sample(cfg=1.0),
    "dual, regular": dual("regular"),
    "dual, nested": dual("nested"),
    "dual, both prompts controlled": dual("regular", controlled_middle=True),
    "two models": dual_model,
    "Perp-Neg guider": perp_neg,
    "SAG": patched("SelfAttentionGuidance", scale=0.5, blur_sigma=2.0),
    "PAG": patched("PerturbedAttentionGuidance", scale=3.0),
    "RescaleCFG": patched("RescaleCFG", multiplier=0.7),
    "TCFG": patched("TCFG"),
    "CFG-Zero*": patched("CFGZeroStar"),
    "CFG++ sampler": lambda drawing: drawing.sample(sampler_name="euler_cfg_pp"),
    "areas": areas,
    "batch of 2": sample,
}


@dataclass(frozen=True)
class Way:
    """How two nets are applied in a chain: one to a side of guidance, the other, a native one, to both.

    Attributes:
        ours: Whether our node applies the first net.
        our_net: Whether it is loaded by our node.
        last: Whether it is applied last.
    """

    ours: bool
    our_net: bool = False
    last: bool = False


REFERENCE = Way(False)
WAYS = {"our net": Way(True, our_net=True), "native net": Way(True, last=True)}


def drawn(host: Host, name: str, way: Way, side: str) -> tuple[torch.Tensor, list[tuple[int, ...]]]:
    """The latents, and the shapes of all batches of the UNet."""
    size = (128, 64) if name == "areas" else (64, 64)
    drawing = Drawing("sd15", way.ours, size, count=2 if name == "batch of 2" else 1)

    def on_one_side() -> None:
        plain = drawing.positive, drawing.negative
        settings: dict[str, Any] = {"side": side} if way.ours else {}
        drawing.apply(drawing.net("a", ours=way.our_net), drawing.images(count=drawing.count), **settings)
        if not way.ours and side == "unconditional":
            drawing.positive = plain[0]
        if not way.ours and side == "conditional":
            drawing.negative = plain[1]

    def on_both_sides() -> None:
        drawing.apply(drawing.net("b", ours=False), drawing.images(4), 0.3, ours=False)

    for apply in (on_both_sides, on_one_side) if way.last else (on_one_side, on_both_sides):
        apply()
    GUIDERS[name](drawing)
    with recorded_forwards() as forwards:
        latents: torch.Tensor = host.run(drawing.graph)["latent"]["samples"]
    return latents, [tuple(forward.context.shape) for forward in forwards]


@pytest.mark.parametrize("side", ["conditional", "unconditional"])
@pytest.mark.parametrize("name", GUIDERS)
def test_a_side_is_the_one_it_was_applied_on(host: Host, name: str, side: str) -> None:
    reference, _ = drawn(host, name, REFERENCE, side)
    both, batches = drawn(host, name, REFERENCE, "both")
    effect = largest_difference(both, reference)
    if (name, side) != ("CFG 1", "conditional"):
        assert effect >= ACTS
    for kind, way in WAYS.items():
        found, our_batches = drawn(host, name, way, side)
        difference = largest_difference(found, reference)
        print(f"\n{name}, {side}, {kind}: {difference:.1e}; on both sides the picture is another by {effect:.1e}")
        assert difference <= LATENTS
        assert our_batches == batches, "the UNet's batches are not those of a native net on both sides"


def test_a_side_that_nobody_marked_is_a_position_in_plain_guidance_only(host: Host) -> None:
    """A net with a side in a stack that another extension applies: no mark, so positions count, or both sides do."""
    sides = host.bridge("control.sides")
    plain, positions = sides.GuidanceSides(None), {"cond_or_uncond": [1, 0], "uuids": ["negative", "positive"]}
    assert plain.of_parts(None, positions, 2) == ["unconditional", "conditional"]
    alone = {"cond_or_uncond": [0], "uuids": ["negative"]}  # as SAG predicts the negative once more
    assert plain.of_parts(None, alone, 1) == ["unconditional"]
    dual = {"cond_or_uncond": [2, 1, 0], "uuids": ["positive", "middle", "negative"]}
    assert sides.GuidanceSides(None).of_parts(None, dual, 3) is None
    # ComfyUI adds an area to the other side, under the same name.
    area = {"cond_or_uncond": [1, 0, 1, 0], "uuids": ["area", "area", "negative", "positive"]}
    assert sides.GuidanceSides(None).of_parts(None, area, 4) == ["unconditional", "conditional"] * 2
