"""How well a ControlNet that was trained on drawn outlines follows the edges of a photograph: 24 real coins.

    python benchmarks/coins.py runs/RUN/controlnet.safetensors --out coins.png

The photograph is scikit-image's `coins`, which has 24 of them, and one rule crops them all: see `find_coins` and
`crop_box`. Each crop becomes a hint by `controlnet_core.toy.photograph.edge_hint`, neighbouring coins included. The net
draws a disc along it, a detector that sees only the drawing finds the disc, and intersection over union (IoU) compares
it with the coin's mask. Steps, guidance and the side that control acts on are the demo's. Also printed: the same for
drawings without control, and the IoU of the drawn discs with the mask of the next coin, which is high because the rule
puts almost every coin into the middle of its crop.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import torch
from PIL import Image
from scipy import ndimage
from skimage import data
from torch import Tensor

from controlnet_core.base import Base
from controlnet_core.cli.demo import demo_settings
from controlnet_core.control.hint import fit_hint, fit_mask
from controlnet_core.control.stack import Control
from controlnet_core.model.controlnet import ControlNet
from controlnet_core.pictures.sheet import sheet, write_png
from controlnet_core.sampling.generate import SamplingSettings, generate
from controlnet_core.toy.detector import find_masks
from controlnet_core.toy.photograph import SIDE, edge_hint
from controlnet_core.toy.scores import intersection_over_union
from controlnet_core.weights.load import load_controlnet
from controlnet_core.weights.load_base import load_base

Array = numpy.ndarray[Any, Any]
Box = tuple[slice, slice]

NEIGHBOURHOOD = 151
"""Side in pixels of the window whose mean a coin is brighter than: about four coins, so it holds their ground too."""
SMALLEST_AREA = 800
"""Pixels of the smallest region that is a coin; the coins have 1,100 to 3,200, and nothing else has more than 500."""
CROP = 1.8
"""Side of a crop in diameters of its coin: the closest, in tenths, at which no disc is larger than the generator's."""
PROMPT = "a grey circle on a black background"
CELL = 192
DRAWN_AS = demo_settings(Path(), steps=1, seed=0).evaluation
"""Steps, guidance and side of control are the demo's."""


@dataclass(frozen=True, eq=False)
class Coin:
    """One coin of the photograph.

    Attributes:
        photograph: The crop, (1, 3, S, S) in [0, 1], at the photograph's own resolution.
        hint: Its edges, (1, 3, SIDE, SIDE) in [0, 1].
        mask: Where the coin is, (SIDE, SIDE) bool.
    """

    photograph: Tensor
    hint: Tensor
    mask: Tensor


def find_coins(photograph: Array) -> Array:
    """Number the pixels of each coin in a grey photograph (H, W), from 1 and from the top; the ground is 0.

    A coin is a region that is brighter than the mean of its neighbourhood, with its holes filled and its frayed edge
    smoothed, and not too small.
    """
    bright = photograph > ndimage.uniform_filter(photograph.astype(numpy.float64), NEIGHBOURHOOD)
    whole = ndimage.binary_opening(ndimage.binary_fill_holes(bright), iterations=2)
    regions, _ = ndimage.label(whole)
    large = numpy.flatnonzero(numpy.bincount(regions.ravel()) >= SMALLEST_AREA)[1:]
    numbers: Array = numpy.searchsorted(large, regions) + 1
    return numbers * numpy.isin(regions, large)


def crop_box(coin: Box, height: int, width: int) -> Box:
    """Frame a coin's bounding box by a square around its centre, moved inside a picture of height x width."""
    diameter = max(edge.stop - edge.start for edge in coin)
    side = round(CROP * diameter)
    starts = (round((edge.start + edge.stop - side) / 2) for edge in coin)
    top, left = (min(max(start, 0), most - side) for start, most in zip(starts, (height, width), strict=True))
    return slice(top, top + side), slice(left, left + side)


def read_coins() -> list[Coin]:
    """Crop all coins of the photograph, from the top."""
    photograph = data.coins()  # type: ignore[no-untyped-call]  # scikit-image is not annotated
    numbers = find_coins(photograph)
    boxes = [crop_box(coin, *photograph.shape) for coin in ndimage.find_objects(numbers)]
    return [_coin(photograph[box], numbers[box] == number) for number, box in enumerate(boxes, 1)]


def _coin(grey: Array, mask: Array) -> Coin:
    photograph = (torch.from_numpy(grey.copy()) / 255).expand(1, 3, -1, -1)
    coverage = fit_mask(torch.from_numpy(mask.copy()).float()[None, None], SIDE, SIDE)[0, 0]
    return Coin(photograph, edge_hint(photograph), coverage > 0.5)


def draw(base: Base, net: ControlNet | None, coins: Sequence[Coin], prompt: str, settings: SamplingSettings) -> Tensor:
    """Draw each coin's disc, (N, 3, SIDE, SIDE) in [0, 1]; without a net from the prompt alone."""
    hints = torch.cat([coin.hint for coin in coins])
    controls = [] if net is None else [Control(net, hints, side=DRAWN_AS.side)]
    return generate(base, [prompt] * len(coins), controls, settings=settings).cpu()


def following(drawings: Tensor, coins: Sequence[Coin]) -> list[float]:
    """Compare the disc found in each drawing (N, 3, SIDE, SIDE) with the mask of its coin: IoU, 0 to 1."""
    masks = torch.stack([coin.mask for coin in coins])
    scores: list[float] = intersection_over_union(find_masks(drawings), masks).tolist()
    return scores


def summary(drawings: Tensor, uncontrolled: Tensor, coins: Sequence[Coin]) -> dict[str, Any]:
    """Put all scores in one place.

    Arguments:
        drawings: What the net drew along the hints.
        uncontrolled: What the base drew alone.
        coins: The coins, in the same order.
    """
    scores = following(drawings, coins)
    return {
        "median": statistics.median(scores),
        "best": max(scores),
        "worst": min(scores),
        "median_without_control": statistics.median(following(uncontrolled, coins)),
        "median_with_the_next_coin": statistics.median(following(drawings, [*coins[1:], coins[0]])),
        "scores": scores,
    }


def picture(drawings: Tensor, scores: Sequence[float], coins: Sequence[Coin]) -> Image.Image:
    """Show the best, the median and the worst drawing beside their hints and photographs."""
    order = sorted(range(len(coins)), key=lambda number: -scores[number])
    shown = {"best": order[0], "median": order[len(order) // 2], "worst": order[-1]}
    rows = [
        [coins[number].hint[0], fit_hint(coins[number].photograph, CELL, CELL)[0], drawings[number]]
        for number in shown.values()
    ]
    titles = [f"{name}: IoU {scores[number]:.3f}" for name, number in shown.items()]
    return sheet(rows, ("edges", "photograph", "drawing"), titles, cell=CELL)


def table(result: dict[str, Any]) -> str:
    """The result as text."""
    labels = {name: name.replace("_", " ") for name in result if name != "scores"}
    return "\n".join(f"{label:28}{result[name]:.3f}" for name, label in labels.items())


def main() -> None:
    """Run as a command."""
    defaults = SamplingSettings()
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("net", metavar="NET.safetensors", type=Path, help="a ControlNet trained on outlines of shapes")
    parser.add_argument("--prompt", default=PROMPT, help=f"default: {PROMPT}")
    parser.add_argument("--seed", type=int, default=defaults.seed, help=f"of the noise; default: {defaults.seed}")
    parser.add_argument("--steps", type=int, default=DRAWN_AS.sampling_steps, help="default: %(default)s")
    parser.add_argument("--guidance", type=float, default=DRAWN_AS.guidance, help="default: %(default)s")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--out", type=Path, help="where to write a picture of the best, the median and the worst")
    arguments = parser.parse_args()
    settings = SamplingSettings(arguments.steps, arguments.guidance, (SIDE, SIDE), arguments.seed)
    base, net, coins = load_base("tiny"), load_controlnet(arguments.net, dtype=torch.float32), read_coins()
    drawings = draw(base, net, coins, arguments.prompt, settings)
    result = summary(drawings, draw(base, None, coins, arguments.prompt, settings), coins)
    if arguments.out is not None:
        write_png(picture(drawings, result["scores"], coins), arguments.out)
    print(json.dumps(result) if arguments.json else table(result))


if __name__ == "__main__":
    main()
