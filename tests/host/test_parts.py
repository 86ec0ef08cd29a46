"""Hints belong to their pictures and to their places: in tiles, and in windows of a long batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.utils
import pytest
import torch

from tests.host.extra_nodes import TEST_NODES
from tests.host.graphs import Drawing
from tests.host.host import Host, largest_difference, recorded_forwards

Net = Any
"""A `comfy.controlnet.ControlBase`."""
Patcher = Any
"""A `comfy.model_patcher.ModelPatcher`."""
LATENTS = 3e-5
ACTS = 1e-3
SIZE = (128, 64)


class Tiles:
    """Runs the UNet on the left and the right half of the latents, as extensions do that draw in tiles.

    ComfyUI is given the net itself in place of its residuals; for each tile the hints are cut out and set.
    """

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"model": ("MODEL",), "positive": ("CONDITIONING",), "at_once": ("BOOLEAN", {})}}

    RETURN_TYPES = ("MODEL", "CONDITIONING")
    FUNCTION = "patch"

    def patch(self, model: Patcher, positive: list[Any], at_once: bool) -> tuple[Any, ...]:
        net = positive[0][1]["control"]
        residuals, net.get_control = net.get_control, lambda *arguments: net
        patched = model.clone()

        def wrapper(apply_model: Callable[..., torch.Tensor], given: dict[str, Any]) -> torch.Tensor:
            x, t, cond = given["input"], given["timestep"], given["c"]
            width = x.shape[-1] // 2
            lefts = (0, width)
            batches = [lefts] if at_once else [(left,) for left in lefts]
            outputs: list[torch.Tensor] = []
            for batch in batches:
                tiles = torch.cat([x[..., left : left + width] for left in batch])
                repeated = {
                    name: torch.cat([value] * len(batch)) if isinstance(value, torch.Tensor) else value
                    for name, value in cond.items()
                }
                levels = torch.cat([t] * len(batch))
                if cond.get("control") is not None:
                    set_hints(net, x, batch)
                    parts = len(given["cond_or_uncond"])
                    repeated["control"] = residuals(tiles, levels, repeated, parts, cond["transformer_options"])
                outputs += apply_model(tiles, levels, **repeated).chunk(len(batch))
            return torch.cat(outputs, -1)

        def set_hints(net: Net | None, x: torch.Tensor, lefts: tuple[int, ...]) -> None:
            while net is not None:
                size, width = (8 * x.shape[-1], 8 * x.shape[-2]), 4 * x.shape[-1]
                fitted = comfy.utils.common_upscale(net.cond_hint_original, *size, net.upscale_algorithm, "center")
                rows = comfy.utils.repeat_to_batch_size(fitted, len(x))
                net.cond_hint = torch.cat([rows[..., 8 * left : 8 * left + width] for left in lefts])
                net = net.previous_controlnet

        patched.set_model_unet_function_wrapper(wrapper)
        return patched, positive


TEST_NODES["Tiles"] = Tiles


@pytest.mark.parametrize("at_once", [False, True], ids=["tile by tile", "both tiles in one batch"])
@pytest.mark.parametrize(
    ("kind", "side", "chained"),
    [
        ("our net", "both", False),
        ("our net", "both", True),
        ("our net", "conditional", False),
        ("native net", "both", True),
        ("native net", "conditional", False),
        ("our net, native Apply", "both", True),
    ],
)
def test_a_tile_is_drawn_by_its_part_of_the_hint(
    host: Host, kind: str, side: str, chained: bool, at_once: bool
) -> None:
    def draw(ours: bool, our_net: bool, seed: int = 3) -> tuple[torch.Tensor, list[tuple[int, ...]]]:
        host.nodes["Tiles"] = Tiles
        drawing = Drawing("sd15", ours, SIZE, count=2)
        negative = drawing.negative
        settings: dict[str, Any] = {"side": side} if ours else {}
        drawing.apply(drawing.net("a", ours=our_net), drawing.images(seed, count=2), **settings)
        if not ours and side == "conditional":
            drawing.negative = negative
        if chained:
            drawing.apply(drawing.net("b", ours=False), drawing.images(4), 0.5, ours=False)
        tiles = drawing.add("Tiles", model=drawing.model, positive=drawing.positive, at_once=at_once)
        drawing.model, drawing.positive = [tiles, 0], [tiles, 1]
        drawing.sample()
        with recorded_forwards() as forwards:
            latents: torch.Tensor = host.run(drawing.graph)["latent"]["samples"]
        return latents, [tuple(forward.context.shape) for forward in forwards]

    native, batches = draw(False, False)
    other, _ = draw(False, False, seed=33)
    found, our_batches = draw(kind != "our net, native Apply", kind != "native net")
    effect, difference = largest_difference(other, native), largest_difference(found, native)
    print(f"\n{kind}, {side}, chained {chained}, at once {at_once}: {difference:.1e}; another hint {effect:.1e}")
    assert effect >= ACTS
    assert difference <= LATENTS
    if side == "both":
        assert our_batches == batches


class Interrupted:
    """Leaves in nets what a sampling of tiles leaves that was interrupted: the hint of one tile."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"positive": ("CONDITIONING",)}}

    RETURN_TYPES = ("CONDITIONING",)
    FUNCTION = "leave"

    def leave(self, positive: list[Any]) -> tuple[Any, ...]:
        net = positive[0][1]["control"]
        net.cond_hint = torch.zeros(1, 3, SIZE[1], SIZE[0])
        return (positive,)


TEST_NODES["Interrupted"] = Interrupted


@pytest.mark.parametrize("kind", ["our net", "native net"])
def test_an_interrupted_sampling_leaves_no_hint_for_the_next(host: Host, kind: str) -> None:
    def draw(interrupted: bool) -> torch.Tensor:
        host.nodes["Interrupted"] = Interrupted
        drawing = Drawing("sd15", True, SIZE)
        drawing.apply(drawing.net("a", ours=kind == "our net"), drawing.images())
        if interrupted:
            drawing.positive = [drawing.add("Interrupted", positive=drawing.positive), 0]
        drawing.sample(steps=2)
        latents: torch.Tensor = host.run(drawing.graph)["latent"]["samples"]
        return latents

    assert torch.equal(draw(True), draw(False))


WINDOWS = {
    "context_length": 4,
    "context_overlap": 1,
    "context_stride": 1,
    "closed_loop": False,
    "fuse_method": "pyramid",
    "dim": 0,
    "freenoise": False,
    "cond_retain_index_list": "",
    "split_conds_to_windows": False,
    "latent_retain_index_list": "",
}


@pytest.mark.parametrize(
    ("hints", "schedule", "anchored"),
    [(8, "standard_static", False), (8, "standard_uniform", True), (3, "batched", True)],
)
@pytest.mark.parametrize("kind", ["our net", "native net", "our net, native Apply", "our net, then a native one"])
def test_windows_change_no_picture_of_a_family_that_draws_each_alone(
    host: Host, kind: str, hints: int, schedule: str, anchored: bool
) -> None:
    def draw(windows: bool) -> torch.Tensor:
        drawing = Drawing("sd15", ours=kind != "our net, native Apply", size=(64, 64), count=8)
        drawing.apply(drawing.net("a", ours=kind != "native net"), drawing.images(count=hints))
        if kind == "our net, then a native one":
            drawing.apply(drawing.net("b", ours=False), drawing.images(4, count=hints), 0.5)
        if windows:
            further = {**WINDOWS, "context_schedule": schedule, "causal_window_fix": anchored}
            drawing.model = [drawing.add("ContextWindowsManual", model=drawing.model, **further), 0]
        drawing.sample(steps=2)
        latents: torch.Tensor = host.run(drawing.graph)["latent"]["samples"]
        notes = [text for _, text in host.server.texts if "hints for" in text]
        assert all(f"{hints} hints for 8 pictures" in note for note in notes), notes
        return latents

    whole, in_windows = draw(False), draw(True)
    difference = largest_difference(in_windows, whole)
    print(f"\n{kind}, {hints} hints, {schedule}, anchored {anchored}: {difference:.1e}")
    assert difference <= LATENTS
