"""Is convergence sudden? Following of each held-out hint, measured densely, over seeds, batch sizes and first weights.

    python benchmarks/convergence.py --out convergence

Zhang et al. 2023 (section 3.3, figure 4) see a net that does not follow its hint at all, and some steps later does. The
demo's net is trained here, also with another batch size and with torch's default weights in the hint encoder, and
scored every 10 steps where it learns to follow. `convergence` tells for the mean of all hints, and for each hint alone,
where following begins and how abruptly: is the mean smooth only because each hint jumps at a time of its own?

Two null experiments show what chance would give. With the hints exchanged among the pictures nothing can be learned:
how many hints seem to converge nevertheless? And if every hint rose just as the mean does, with the deviations of its
own scores: how many would seem sudden?
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from PIL import Image
from torch import nn

from controlnet_core.data.dataset import PairDataset
from controlnet_core.evaluation.convergence import Convergence, convergence, rising_fit
from controlnet_core.keyed import keyed_generator
from controlnet_core.pictures.charts import Axis, Canvas, Series, draw_axes, draw_series
from controlnet_core.pictures.sheet import write_png
from controlnet_core.training.step import Trainer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.seeded_runs import (
    BOTTOM,
    COLOURS,
    HEIGHT,
    LEFT,
    TOP,
    WIDTH,
    Curve,
    Plan,
    Variant,
    chart,
    points,
    side_by_side,
    study_parser,
)

EVALUATIONS = (*range(0, 301, 10), 350, 400, 500)
Points = Sequence[tuple[int, float]]


@torch.no_grad()
def start_as_torch_does(trainer: Trainer, pairs: PairDataset, generator: torch.Generator) -> None:
    """Draw the hint encoder's weights as torch does by default: each layer makes the hint fainter."""
    for convolution in trainer.net.hint_encoder.convolutions:
        weight, bias = convolution.parameters()
        bound = weight[0].numel() ** -0.5
        nn.init.uniform_(weight, -bound, bound, generator=generator)
        nn.init.uniform_(bias, -bound, bound, generator=generator)


DEMO, SHUFFLED = Variant("batch 16"), Variant("hints exchanged", shuffled=True)
VARIANTS = (DEMO, Variant("batch 4", {"batch_size": 4}), Variant("torch's start", start=start_as_torch_does), SHUFFLED)


def of_hints(curve: Curve) -> list[list[tuple[int, float]]]:
    """The scores of each hint, in the order of steps."""
    hints = range(len(curve[0]["scores"]))
    return [[(found["step"], found["scores"][hint]) for found in curve] for hint in hints]


def of_mean(curve: Curve) -> list[tuple[int, float]]:
    """The mean scores of all hints, in the order of steps."""
    return [(found["step"], found["following"]) for found in curve]


def own_rise(scores: Points, ceiling: float) -> Convergence | None:
    """The rise of one hint above its own score before the first step."""
    return convergence(scores, scores[0][1], ceiling)


def risen_as_the_mean(curve: Curve, seed: int) -> list[list[tuple[int, float]]]:
    """What the scores of the hints would be if each rose as the mean does, with the deviations of its own scores."""
    mean = rising_fit([score for _, score in of_mean(curve)])
    shape = [(value - mean[0]) / max(1e-9, mean[-1] - mean[0]) for value in mean]
    surrogates = []
    for number, scores in enumerate(of_hints(curve)):
        fit = rising_fit([score for _, score in scores])
        deviations = [score - value for (_, score), value in zip(scores, fit, strict=True)]
        order = torch.randperm(len(scores), generator=keyed_generator("accidents", seed, number)).tolist()
        surrogates.append(
            [
                (step, fit[0] + (fit[-1] - fit[0]) * share + deviations[index])
                for (step, _), share, index in zip(scores, shape, order, strict=True)
            ]
        )
    return surrogates


def paces(hints: Sequence[Points], ceiling: float) -> dict[str, Any]:
    """How many hints converge, and how: counts by pace, and medians of where they begin and of their abruptness."""
    rises = [rise for scores in hints if (rise := own_rise(scores, ceiling)) is not None]
    return {
        "hints": len(hints),
        "converged": len(rises),
        **{pace: Counter(rise.pace for rise in rises)[pace] for pace in ("sudden", "gradual", "unresolved")},
        "begins": median(rise.begins for rise in rises) if rises else None,
        "least_abruptness": round(median(rise.least_abruptness for rise in rises), 3) if rises else None,
        "most_abruptness": round(median(rise.most_abruptness for rise in rises), 3) if rises else None,
    }


def summary(runs: Mapping[str, Sequence[Curve]], ceiling: float, without_control: float) -> dict[str, Any]:
    """Of each variant: the convergence of the mean, seed by seed; that of all hints of all seeds; and its nulls."""
    result: dict[str, Any] = {"ceiling": ceiling, "without_control": without_control, "variants": {}}
    for name, curves in runs.items():
        rises = [convergence(of_mean(curve), without_control, ceiling) for curve in curves]
        surrogates = [scores for seed, curve in enumerate(curves) for scores in risen_as_the_mean(curve, seed)]
        result["variants"][name] = {
            "mean": [None if rise is None else {**vars(rise), "pace": rise.pace} for rise in rises],
            "single_hints": paces([scores for curve in curves for scores in of_hints(curve)], ceiling),
            "if_each_rose_as_the_mean": paces(surrogates, ceiling),
            "following_at_the_end": [round(curve[-1]["following"], 3) for curve in curves],
        }
    return result


def single_hints(curve: Curve) -> Image.Image:
    """The rising fit of each hint of one run, and the mean of all scores."""
    canvas = Canvas(WIDTH, HEIGHT)
    across, up = Axis(0, EVALUATIONS[-1], LEFT, WIDTH - 24), Axis(0.0, 1.0, BOTTOM, TOP)
    draw_axes(canvas, f"Each of {len(curve[0]['scores'])} hints (rising fit), and their mean", across, up)
    for number, scores in enumerate(of_hints(curve)):
        fit = rising_fit([score for _, score in scores])
        steps = [step for step, _ in scores]
        colour = COLOURS[2 + number % 4]
        draw_series(canvas, across, up, Series("", list(zip(steps, fit, strict=True)), colour, 0.8))
    draw_series(canvas, across, up, Series("mean", of_mean(curve), COLOURS[0], 2.8))
    return canvas.image()


def main() -> None:
    """Run as a command."""
    options = study_parser(__doc__).parse_args()
    plan = Plan(options.out, EVALUATIONS)
    runs = plan.runs(VARIANTS, options.seeds, options.jobs)
    result = summary(runs, plan.task.ceiling(), plan.task.score(None)["following"])
    figure = side_by_side(
        chart("Following, five seeds and their median", points(runs, "following"), (0.0, 1.0)),
        single_hints(runs[DEMO.name][0]),
    )
    write_png(figure, options.out / "convergence.png")
    numbers = json.dumps(result, indent=1)
    (options.out / "convergence.json").write_text(numbers + "\n", encoding="utf-8")
    print(numbers)


if __name__ == "__main__":
    main()
