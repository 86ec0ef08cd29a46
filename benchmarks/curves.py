"""The curves of block weights at three guidance scales, with and without prompts (Zhang et al. 2023, section 3.4).

    python benchmarks/curves.py demo/controlnet.safetensors --out curves.png

Every way to apply the net draws the same held-out hints from the same noise. A detector that sees only a drawing finds
its shape: intersection over union (IoU) with the hint's shape is the following score. Printed with it are the shares of
drawings with the colour and with the shape that the caption names. Without a prompt only the hint tells the shape, and
nothing tells the colour.

Three of the ways without a prompt are those of the paper's figure 5: control on both sides, where guidance has nothing
left to amplify; on the conditional side only; and that with CFG resolution weighting.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from controlnet_core.base import Base
from controlnet_core.control.curves import CURVES, CurveName, Side, default_side
from controlnet_core.control.stack import Control
from controlnet_core.evaluation.validation import Evaluation
from controlnet_core.model.controlnet import ControlNet
from controlnet_core.pictures.sheet import MUTED, PAPER, sheet, to_image, write, write_png
from controlnet_core.sampling.generate import SamplingSettings, generate
from controlnet_core.toy.scores import following_scores, picture_scores
from controlnet_core.toy.shapes_dataset import ShapesDataset
from controlnet_core.weights.load import load_controlnet
from controlnet_core.weights.load_base import load_base

GUIDANCE = (1.0, 4.0, 7.0)
SHOWN = 3
"""Hints of the picture."""
GAP = 4
LABEL_SIZE = 13
LABEL_HEIGHT = 18
SCORES = "following / colour / shape"
"""The meaning of three numbers side by side."""


@dataclass(frozen=True)
class Way:
    """One way to apply the net.

    Attributes:
        curve: The block weights; None is no control.
        prompted: Whether the prompts are the captions; otherwise they are empty.
        sides: The sides of guidance with control; None is the curve's own.
    """

    curve: CurveName | None
    prompted: bool = True
    side: Side | None = None

    @property
    def name(self) -> str:
        """A name for tables and pictures."""
        parts = [] if self.prompted else ["no prompt"]
        parts.append(self.curve or "without control")
        if self.side is not None:
            parts.append("both sides" if self.side == "both" else f"{self.side} side")
        return ", ".join(parts)


WAYS = (
    *map(Way, CURVES),
    Way("flat", side="conditional"),
    Way(None),
    Way("flat", prompted=False, side="both"),
    Way("flat", prompted=False, side="conditional"),
    Way("cfg_resolution", prompted=False),
    Way("guess", prompted=False),
)

Grid = Mapping[Way, Mapping[float, Evaluation]]
"""The drawings of each way, by guidance."""


def draw(
    base: Base, net: ControlNet, pairs: ShapesDataset, way: Way, settings: SamplingSettings
) -> Evaluation:
    """Draw all hints of held-out pairs in one way and score the drawings."""
    rows = range(len(pairs))
    prompts = pairs.captions(rows) if way.prompted else [""] * len(pairs)
    controls = [] if way.curve is None else [Control(net, pairs.hints(rows), curve=way.curve, side=way.side)]
    pictures = generate(base, prompts, controls, settings=settings).cpu()
    scenes = pairs.scenes(rows)
    return Evaluation(tuple(following_scores(pictures, scenes).tolist()), picture_scores(pictures, scenes), pictures)


def summary(grid: Grid) -> list[dict[str, Any]]:
    """All scores, one entry for each way and guidance."""
    return [
        {
            "name": way.name,
            "curve": way.curve,
            "side": None if way.curve is None else way.side or default_side(way.curve),
            "prompted": way.prompted,
            "guidance": guidance,
            "following": evaluation.following,
            **evaluation.measures,
        }
        for way, evaluations in grid.items()
        for guidance, evaluation in evaluations.items()
    ]


def table(grid: Grid) -> str:
    """The following score, colour and shape accuracy of each way, one column for each guidance."""
    titles = [f"guidance {guidance:g}" for guidance in next(iter(grid.values()))]
    lines = [
        f"{SCORES:36}" + "".join(f"{title:>20}" for title in titles),
        *(
            f"{way.name:36}" + "".join(f"{_scores(evaluation):>20}" for evaluation in evaluations.values())
            for way, evaluations in grid.items()
        ),
    ]
    return "\n".join(lines)


def _scores(evaluation: Evaluation) -> str:
    scores = evaluation.following, evaluation.measures["colour"], evaluation.measures["shape"]
    return " / ".join(f"{score:.2f}" for score in scores)


def picture(grid: Grid, hints: Tensor) -> Image.Image:
    """Show the first drawings of each way under their hints (N, 3, H, W), with the scores of all."""
    columns = next(iter(grid.values()))
    rows = [[block(hints, SCORES)] * len(columns)]
    rows += [[block(found.pictures, _scores(found)) for found in evaluations.values()] for evaluations in grid.values()]
    titles = [f"guidance {guidance:g}" for guidance in columns]
    names = ["hints", *(way.name.replace("_", " ") for way in grid)]
    return sheet(rows, titles, names, cell=max(rows[0][0].size))


def block(pictures: Tensor, label: str) -> Image.Image:
    """Set the first pictures (N, 3, H, W) side by side, with a label below."""
    padded = functional.pad(pictures[:SHOWN], (0, GAP), value=1.0)
    strip = torch.cat(list(padded), dim=-1)[..., :-GAP]
    image = to_image(strip)
    labelled = Image.new("RGB", (image.width, image.height + LABEL_HEIGHT), PAPER)
    labelled.paste(image)
    place = image.width / 2, image.height + LABEL_HEIGHT / 2
    write(ImageDraw.Draw(labelled), place, label, LABEL_SIZE, MUTED, "mm")
    return labelled


def measure(
    base: Base, net: ControlNet, pairs: ShapesDataset, settings: SamplingSettings, ways: Sequence[Way] = WAYS
) -> Grid:
    """Draw and score all hints in each way and at each guidance."""
    steps = tqdm([(way, guidance) for way in ways for guidance in GUIDANCE], desc="drawing", unit="way")
    scored = {key: draw(base, net, pairs, key[0], replace(settings, guidance=key[1])) for key in steps}
    return {way: {guidance: scored[way, guidance] for guidance in GUIDANCE} for way in ways}


def main() -> None:
    """Run as a command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("net", metavar="NET.safetensors", type=Path, help="a ControlNet trained on outlines of shapes")
    parser.add_argument("--hints", type=int, default=32, help="held-out hints; default: 32")
    parser.add_argument("--steps", type=int, default=10, help="of the sampler; default: 10")
    parser.add_argument("--seed", type=int, default=0, help="of the noise; default: 0")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--out", type=Path, help=f"where to write a picture of the first {SHOWN} hints")
    arguments = parser.parse_args()
    base, net = load_base("tiny"), load_controlnet(arguments.net, dtype=torch.float32)
    pairs = ShapesDataset(arguments.hints, base.family.image_size, seed=0, held_out=True)
    grid = measure(base, net, pairs, SamplingSettings(arguments.steps, seed=arguments.seed))
    if arguments.out is not None:
        # 256 colours are plenty for flat shapes, and make the file a third as large.
        write_png(picture(grid, pairs.hints(range(SHOWN))).quantize(dither=Image.Dither.NONE), arguments.out)
    settings = {"hints": arguments.hints, "steps": arguments.steps, "seed": arguments.seed}
    print(json.dumps({"ways": summary(grid), "settings": settings}) if arguments.json else table(grid))


if __name__ == "__main__":
    main()
