"""Do zero convolutions protect the backbone? The same trainings with zero and with Gaussian connections.

    python benchmarks/zero_convolutions.py --out zero_convolutions

Zhang et al. 2023 (section 3.1, and the ablation of section 4.2) start all connections between the locked base and its
trainable copy at zero, so that no noise reaches the base at first, and "the model should always be able to predict good
images". Here nets start in this way, or with connections of Gaussian weights that keep the variance. Measured in the
first steps are the loss and, of the drawings, following and `clarity`, which tells how good a picture is whatever it
shows. The locked base is compared bit for bit before and after each run.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn

from controlnet_core.data.dataset import PairDataset
from controlnet_core.pictures.sheet import write_png
from controlnet_core.training.step import Trainer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.seeded_runs import Curve, Plan, Variant, chart, points, side_by_side, study_parser

EVALUATIONS = (0, 1, 2, 5, 10, 20, 35, 50, 75, 100, 150, 200)


@torch.no_grad()
def start_gaussian(trainer: Trainer, pairs: PairDataset, generator: torch.Generator) -> None:
    """Draw all zero convolutions, that of the hint included, from a normal distribution that keeps the variance."""
    net = trainer.net
    for convolution in (*net.zero_convolutions, net.middle_zero_convolution, net.hint_encoder.zero_convolution):
        weight, _ = convolution.parameters()
        nn.init.normal_(weight, std=1 / math.sqrt(weight[0].numel()), generator=generator)


VARIANTS = (Variant("zero"), Variant("Gaussian", start=start_gaussian))


def summary(runs: Mapping[str, Sequence[Curve]], uncontrolled: float) -> dict[str, Any]:
    """Median and range over the seeds of loss, clarity and following, for each variant and evaluation."""

    def over_seeds(values: Sequence[float | None]) -> list[float] | None:
        known = [value for value in values if value is not None]
        return [round(value, 4) for value in (median(known), min(known), max(known))] if known else None

    variants = {
        name: {
            str(step): {
                "loss": over_seeds([curve[index]["loss"] for curve in curves]),
                "clarity": over_seeds([curve[index]["clarity"] for curve in curves]),
                "following": over_seeds([curve[index]["following"] for curve in curves]),
            }
            for index, step in enumerate(EVALUATIONS)
        }
        for name, curves in runs.items()
    }
    return {"clarity_without_control": round(uncontrolled, 4), "variants": variants}


def main() -> None:
    """Run as a command."""
    options = study_parser(__doc__).parse_args()
    plan = Plan(options.out, EVALUATIONS)
    runs = plan.runs(VARIANTS, options.seeds, options.jobs)
    uncontrolled = plan.task.score(None)["clarity"]
    figure = side_by_side(
        chart("Loss (logarithmic)", points(runs, "loss"), logarithmic=True),
        chart("Clarity of controlled pictures", points(runs, "clarity"), (0.0, 1.0)),
        chart("Following", points(runs, "following"), (0.0, 1.0)),
    )
    write_png(figure, options.out / "zero_convolutions.png")
    numbers = json.dumps(summary(runs, uncontrolled), indent=1)
    (options.out / "zero_convolutions.json").write_text(numbers + "\n", encoding="utf-8")
    print(numbers)


if __name__ == "__main__":
    main()
