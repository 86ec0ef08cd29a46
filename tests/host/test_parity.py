"""The same files and settings through ComfyUI's own nodes and through ours give the same pictures."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from tests.host.core_drawing import SEED
from tests.host.graphs import Drawing
from tests.host.host import Host, largest_difference, recorded_forwards

RESIDUALS, LATENTS = 1e-4, 3e-5
ONE_ROUNDING = 1 + 2**-23
"""The next float32 after 1: a strength that changes each residual by one rounding."""
LARGEST_SIGMA = 4518.76


@dataclass(frozen=True)
class Case:
    """What to draw with.

    Attributes:
        nets: For each net its name, strength, start and end.
        sampler: The sampler and scheduler.
        count: Pictures in the batch.
        size: Their width and height.
        zero_snr: Whether the model predicts v, with no signal left at the last timestep.
    """

    nets: tuple[tuple[str, float, float, float], ...] = (("a", 1.0, 0.0, 1.0),)
    sampler: tuple[str, str] = ("euler", "normal")
    count: int = 1
    size: tuple[int, int] = (128, 128)
    zero_snr: bool = False


CASES = {
    "strength 1": Case(),
    "strength 0.5": Case((("a", 0.5, 0.0, 1.0),)),
    "window": Case((("a", 1.0, 0.3, 0.7),)),
    "two nets": Case((("a", 1.0, 0.0, 1.0), ("b", 0.7, 0.0, 0.6))),
    "batch of 2": Case(count=2),
    "dpmpp_2m karras": Case(sampler=("dpmpp_2m", "karras")),
    "zero terminal SNR": Case((("a", 0.5, 0.1, 0.8), ("b", 1.0, 0.0, 1.0)), ("dpmpp_2m", "karras"), zero_snr=True),
    "zero terminal SNR, euler": Case(zero_snr=True),
    "all at once": Case((("a", 0.5, 0.0, 0.8), ("b", 1.0, 0.2, 1.0)), ("dpmpp_2m", "karras"), 2, (128, 192)),
}


def draw(host: Host, family: str, ours: bool, case: Case, rounding: float = 1.0) -> tuple[Tensor, list[Tensor]]:
    """The final latents and the residuals of the first step."""
    drawing = Drawing(family, ours, case.size, case.count)
    if case.zero_snr:
        node = drawing.add("ModelSamplingDiscrete", model=drawing.model, sampling="v_prediction", zsnr=True)
        drawing.model = [node, 0]
    for seed, (name, strength, start, end) in enumerate(case.nets):
        drawing.apply(drawing.net(name), drawing.images(seed), strength * rounding, start, end)
    drawing.sample(sampler_name=case.sampler[0], scheduler=case.sampler[1], steps=4)
    with recorded_forwards() as forwards:
        latents: Tensor = host.run(drawing.graph)["latent"]["samples"]
    return latents, next(one.residuals for one in forwards if one.residuals)


def bound(case: Case, latents: Tensor) -> float:
    """What the final latents may differ by, as a fraction of the largest.

    Without signal at the last timestep ComfyUI's Euler takes the step from 4519 as `x + (sigmas[1] - sigmas[0]) * d`, a
    difference of numbers of up to 2e4 in float32: whatever the net, two of their roundings stay in the latents.
    """
    if not case.zero_snr or case.sampler[0] != "euler":
        return LATENTS
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(SEED))
    return float(2 * 2**-23 * LARGEST_SIGMA * noise.abs().max() / latents.abs().max())


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("family", ["sd15", "sd21", "sdxl"])
def test_our_nodes_draw_what_the_native_nodes_draw(
    host: Host, family: str, name: str
) -> None:
    native, native_residuals = draw(host, family, False, CASES[name])
    rounded, _ = draw(host, family, False, CASES[name], ONE_ROUNDING)
    ours, our_residuals = draw(host, family, True, CASES[name])
    residuals = max(map(largest_difference, our_residuals, native_residuals))
    latents, rounding = largest_difference(ours, native), largest_difference(rounded, native)
    allowed = bound(CASES[name], native)
    print(f"\n{family}, {name}: residuals {residuals:.1e}, latents {latents:.1e}, one rounding {rounding:.1e}")
    print(f"allowed {allowed:.1e}")
    assert len(our_residuals) == len(native_residuals)
    assert residuals <= RESIDUALS
    assert latents <= allowed
