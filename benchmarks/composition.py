"""Two nets at once and no prompt: one gives the shape, the other the colours (Zhang et al. 2023, section 3.4).

    python benchmarks/composition.py demo/controlnet.safetensors --out composition.png

NET was trained on outlines, as by `controlnet-core demo`. A second net is trained here, with the demo's settings but
plain errors, on colour maps: pictures averaged over 4 x 4 cells, which show the colours but hardly the shape. An
interrupted run resumes, and a finished one is read back. Then held-out scenes are drawn from empty prompts: without
control, from the outline alone, from the colour map alone, and from both, their residuals added without further
weights. Control is on the conditional side of guidance only.

A detector that sees only a drawing finds its shape and names it and both colours. Printed are the following
score (intersection over union with the scene's shape) and the shares of drawings with the scene's colour, background
and shape.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from controlnet_core.base import Base
from controlnet_core.cli.demo import PAIRS, demo_settings
from controlnet_core.control.stack import Control
from controlnet_core.evaluation.validation import Evaluation
from controlnet_core.model.controlnet import ControlNet
from controlnet_core.pictures.sheet import sheet, write_png
from controlnet_core.sampling.generate import SamplingSettings, generate
from controlnet_core.toy.scores import following_scores, picture_scores
from controlnet_core.toy.shapes_dataset import ShapesDataset
from controlnet_core.training.resume import run_path
from controlnet_core.training.run import train
from controlnet_core.training.settings import TrainSettings
from controlnet_core.weights.load import load_controlnet
from controlnet_core.weights.load_base import load_base

SHOWN = 6
CELL = 128

Nets = Mapping[str, ControlNet]
"""Nets by the kind of hint they were trained on, "outline" or "colour_map"."""


def train_net(base: Base, settings: TrainSettings, pairs: ShapesDataset) -> ControlNet:
    """Train a net, resume its training, or read it back."""
    with tqdm(total=settings.steps, desc=f"training on {pairs.hint}", unit="step") as bar:
        for report in train(settings, base, pairs):
            bar.update(report.step - bar.n)
    return load_controlnet(run_path(settings, base, pairs) / "controlnet.safetensors")


def stacks(nets: Nets) -> dict[str, Nets]:
    """The stacks to draw with: no net, each net alone, and all."""
    return {"without control": {}, **{f"{kind} alone": {kind: net} for kind, net in nets.items()}, "both": nets}


def held_out(hint: str, count: int, size: int) -> ShapesDataset:
    """Pairs of held-out scenes; the same scenes for each kind of hint."""
    return ShapesDataset(count, size, seed=0, held_out=True, hint=hint)


def draw(base: Base, nets: Nets, count: int, settings: SamplingSettings) -> Evaluation:
    """Draw held-out scenes without prompts, each net with its kind of hint, and score the drawings."""
    rows = range(count)
    pairs = {kind: held_out(kind, count, base.family.image_size) for kind in ("outline", "colour_map")}
    controls = [Control(net, pairs[kind].hints(rows), side="conditional") for kind, net in nets.items()]
    pictures = generate(base, [""] * count, controls, settings=settings).cpu()
    scenes = pairs["outline"].scenes(rows)
    return Evaluation(tuple(following_scores(pictures, scenes).tolist()), picture_scores(pictures, scenes), pictures)


def summary(evaluations: Mapping[str, Evaluation]) -> dict[str, dict[str, float]]:
    """The scores of each stack."""
    return {name: {"following": found.following, **found.measures} for name, found in evaluations.items()}


def table(result: Mapping[str, Mapping[str, float]]) -> str:
    """The scores, a line for each stack."""
    titles = next(iter(result.values()))
    lines = [" " * 18 + "".join(f"{title:>12}" for title in titles)]
    lines += [f"{name:18}" + "".join(f"{scores[title]:12.3f}" for title in titles) for name, scores in result.items()]
    return "\n".join(lines).replace("_", " ")


def picture(evaluations: Mapping[str, Evaluation], hints: Mapping[str, Tensor]) -> Image.Image:
    """Show the first scenes: their hints, each (N, 3, H, W), and what each stack of nets drew from them."""
    drawings = {name: found.pictures for name, found in evaluations.items() if name != "without control"}
    columns = {**{f"{kind} hint": pixels for kind, pixels in hints.items()}, **drawings}
    rows = list(zip(*(pixels[:SHOWN] for pixels in columns.values()), strict=True))
    return sheet(rows, [title.replace("_", " ") for title in columns], cell=CELL)


def main() -> None:
    """Run as a command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("net", metavar="NET.safetensors", type=Path, help="a ControlNet trained on outlines of shapes")
    parser.add_argument("--training-steps", type=int, default=1500, help="of the second net; default: 1500")
    parser.add_argument("--folder", type=Path, default=Path(), help="its run is FOLDER/runs/RUN; default: here")
    parser.add_argument("--hints", type=int, default=64, help="held-out scenes; default: 64")
    parser.add_argument("--steps", type=int, default=10, help="of the sampler; default: 10")
    parser.add_argument("--guidance", type=float, default=4.0, help="default: 4")
    parser.add_argument("--seed", type=int, default=0, help="of the noise; default: 0")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--out", type=Path, help=f"where to write a picture of the first {SHOWN} scenes")
    arguments = parser.parse_args()
    base = load_base("tiny")
    size, count = base.family.image_size, arguments.hints
    demo = demo_settings(arguments.folder, arguments.training_steps, seed=0)
    training = demo.model_copy(update={"loss_weighting": "plain"})  # as the net that ships
    nets = {
        "outline": load_controlnet(arguments.net, dtype=torch.float32),
        "colour_map": train_net(base, training, ShapesDataset(PAIRS, size, seed=0, hint="colour_map")),
    }
    sampling = SamplingSettings(arguments.steps, arguments.guidance, seed=arguments.seed)
    evaluations = {name: draw(base, stack, count, sampling) for name, stack in stacks(nets).items()}
    if arguments.out is not None:
        hints = {kind: held_out(kind, SHOWN, size).hints(range(SHOWN)) for kind in nets}
        # 256 colours are plenty for flat shapes, and make the file a third as large.
        write_png(picture(evaluations, hints).quantize(dither=Image.Dither.NONE), arguments.out)
    result = summary(evaluations)
    settings = {name: getattr(arguments, name) for name in ("training_steps", "hints", "steps", "guidance", "seed")}
    print(json.dumps({**result, "settings": settings}) if arguments.json else table(result))


if __name__ == "__main__":
    main()
