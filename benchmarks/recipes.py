"""Which training recipe follows hints sooner, and ends no lower? Over seeds and tasks, in steps and seconds.

    python benchmarks/recipes.py --out recipes --task shapes
    python benchmarks/recipes.py --out recipes --task shapes --confirm --seeds 5 6 7 8 9
    python benchmarks/recipes.py --out recipes --task blur --confirm
    python benchmarks/recipes.py --out recipes --seconds-of-a-step

Nets are trained as in the demo, except for what a recipe changes, and scored on held-out hints. For each recipe: the
steps after which the rising curve nearest to its scores has covered half and four fifths of the distance from the score
without control to the ceiling, and the score at the end; median and range over the seeds. With --confirm only the
recommended recipe is compared, with the paper's way, over seeds that had no say in it. The last command measures the
time of a step, alone on the machine, the recipes taking turns; seconds are steps times that, plus the preparation.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from controlnet_core.data.cache import encode_dataset
from controlnet_core.evaluation.convergence import rising_fit
from controlnet_core.pictures.sheet import write_png
from controlnet_core.training.batches import Batches
from controlnet_core.training.run import opened_trainer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.photographs import PhotographsTask
from benchmarks.seeded_runs import Curve, Plan, ShapesTask, Task, Variant, chart, points, study_parser

EVALUATIONS = (0, 25, 50, 75, 100, 150, 200, 300, 400, 500, 700, 850, 1000)
SHARES = (0.5, 0.8)
TIMED_STEPS = 20
TASKS: Mapping[str, Task] = {
    "shapes": ShapesTask(),
    "canny": PhotographsTask("canny"),
    "blur": PhotographsTask("blur"),
}
TIMES = "seconds.json"
VARIANTS = (
    Variant("the paper's way"),
    Variant("the paper's hint encoder", {"hint_encoder": "paper"}),
    Variant("hints shown as latents", {"hint_start": "latents"}),
    Variant("hints as latents, min-SNR", {"hint_start": "latents", "loss_weighting": "min_snr"}),
    Variant("hints as latents, errors of v", {"hint_start": "latents", "loss_weighting": "v"}),
)
RECOMMENDED = (VARIANTS[0], VARIANTS[3])
"""The paper's way, and what is better."""


def steps_to(curve: Curve, share: float, without_control: float, ceiling: float) -> float | None:
    """The step at which the rising fit of a curve has covered a share of the distance; None if it never does."""
    wanted = without_control + share * (ceiling - without_control)
    fit = rising_fit([found["following"] for found in curve])
    for index, value in enumerate(fit):
        if value >= wanted:
            if index == 0:
                return 0.0
            part = (wanted - fit[index - 1]) / (value - fit[index - 1])
            before, after = float(curve[index - 1]["step"]), float(curve[index]["step"])
            return before + part * (after - before)
    return None


def summary(
    runs: Mapping[str, Sequence[Curve]], without_control: float, ceiling: float, times: Mapping[str, Any]
) -> dict[str, Any]:
    """The numbers of each recipe, each a list over the seeds."""
    recipes = {}
    for name, curves in runs.items():
        reached = {share: [steps_to(curve, share, without_control, ceiling) for curve in curves] for share in SHARES}
        seconds = times.get(name)
        recipes[name] = {
            **{f"steps_to_{share}": steps for share, steps in reached.items()},
            **{
                f"seconds_to_{share}": [
                    None if step is None or seconds is None else round(seconds["start"] + step * seconds["step"], 1)
                    for step in steps
                ]
                for share, steps in reached.items()
            },
            "end": [round(curve[-1]["following"], 4) for curve in curves],
        }
    return {"without_control": without_control, "ceiling": ceiling, "recipes": recipes}


def table(result: Mapping[str, Any]) -> str:
    """The summary as a Markdown table: median (smallest to largest) over the seeds."""
    names = [f"{unit}_to_{share}" for share in SHARES for unit in ("steps", "seconds")] + ["end"]
    titles = [name.replace("_", " ") for name in names]
    lines = ["| recipe | " + " | ".join(titles) + " |", "|---" * (1 + len(titles)) + "|"]
    for recipe, numbers in result["recipes"].items():
        lines.append(f"| {recipe} | " + " | ".join(_range(numbers[name]) for name in names) + " |")
    lines.append(f"\nwithout control {result['without_control']:.3f}, ceiling {result['ceiling']:.3f}")
    return "\n".join(lines)


def _range(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "never"
    missing = f", {len(values) - len(known)} never" if len(known) < len(values) else ""
    digits = 3 if max(known) <= 1 else 0
    return f"{statistics.median(known):.{digits}f} ({min(known):.{digits}f} to {max(known):.{digits}f}{missing})"


def measure_times(out: Path) -> dict[str, dict[str, float]]:
    """The seconds of a step of each recipe on one core, taking turns, and of its preparation."""
    torch.set_num_threads(1)
    task = TASKS["shapes"]
    pairs = task.pairs()
    encoded = encode_dataset(task.base, pairs, out / "cache")
    trainers, batches, starts = {}, {}, {}
    for variant in VARIANTS:
        settings = variant.settings(out, 1000, 0)
        batches[variant.name] = Batches(settings, task.base, encoded, pairs)
        started = time.perf_counter()
        trainers[variant.name] = opened_trainer(settings, task.base, pairs)
        starts[variant.name] = time.perf_counter() - started
    rounds = [
        {name: trainer.take_step(batches[name].at(step)).seconds for name, trainer in trainers.items()}
        for step in range(TIMED_STEPS)
    ]
    return {
        name: {"start": starts[name], "step": statistics.median(seconds[name] for seconds in rounds[2:])}
        for name in trainers
    }


def main() -> None:
    """Run as a command."""
    parser = study_parser(__doc__)
    parser.add_argument("--task", choices=TASKS, default="shapes")
    parser.add_argument("--confirm", action="store_true", help="compare the recommended recipe alone, over fresh seeds")
    parser.add_argument("--seconds-of-a-step", action="store_true", help="measure times instead; run nothing beside it")
    options = parser.parse_args()
    times_path = options.out / TIMES
    if options.seconds_of_a_step:
        options.out.mkdir(parents=True, exist_ok=True)
        times_path.write_text(json.dumps(measure_times(options.out), indent=1), encoding="utf-8")
        print(times_path.read_text(encoding="utf-8"))
        return
    plan = Plan(options.out, EVALUATIONS, TASKS[options.task])
    runs = plan.runs(RECOMMENDED if options.confirm else VARIANTS, options.seeds, options.jobs)
    times = json.loads(times_path.read_text(encoding="utf-8")) if times_path.exists() else {}
    result = summary(runs, plan.task.score(None)["following"], plan.task.ceiling(), times)
    name = f"{options.task}-confirmed" if options.confirm else options.task
    (options.out / f"{name}.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
    write_png(chart(f"Following: {options.task}", points(runs, "following")), options.out / f"{name}.png")
    print(table(result))
    if isinstance(plan.task, PhotographsTask) and not plan.task.usable():
        print("the task does not count: the autoencoder shows too little of these photographs")


if __name__ == "__main__":
    main()
