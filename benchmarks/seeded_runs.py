"""What the studies share: nets trained on the small base over several seeds, scored at chosen steps, kept on disk.

A run on disk is not repeated, so an interrupted study resumes with the first run that is missing.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean
from typing import Any, Protocol

import torch
from PIL import Image

from controlnet_core.base import Base
from controlnet_core.cli.demo import PAIRS, demo_settings
from controlnet_core.data.cache import encode_dataset
from controlnet_core.data.dataset import PairDataset
from controlnet_core.data.shuffled import ShuffledHints
from controlnet_core.keyed import digest, keyed_generator
from controlnet_core.model.controlnet import ControlNet
from controlnet_core.moving_average import MovingAverage
from controlnet_core.pictures.charts import Axis, Canvas, Series, draw_axes, draw_legend, draw_series
from controlnet_core.sampling.generate import SamplingSettings
from controlnet_core.toy.shapes_dataset import ShapesDataset
from controlnet_core.toy.shapes_validation import ShapesValidation
from controlnet_core.training.batches import Batches
from controlnet_core.training.run import opened_trainer
from controlnet_core.training.settings import TrainSettings
from controlnet_core.training.step import Trainer
from controlnet_core.weights.load_base import load_base
from controlnet_core.whole_file import write_whole

Start = Callable[[Trainer, PairDataset, torch.Generator], None]
"""Changes the weights of the net that a trainer starts with."""
Scores = dict[str, Any]
"""What drawings score: `following`, the `scores` of single hints, and what else the task measures."""
Curve = list[Scores]
"""The scores of each evaluation, with its `step` and the mean `loss` since the previous evaluation."""
THE_PAPERS_WAY: Mapping[str, Any] = {"hint_start": "zero", "loss_weighting": "plain"}
DRAWN_AS = demo_settings(Path(), steps=1, seed=0).evaluation
"""Steps, guidance and side of control are the demo's."""


@dataclass(frozen=True)
class Variant:
    """One way to train.

    Attributes:
        name: Its name in files and figures.
        changes: Training settings that differ from the demo's.
        start: Changes the net before the first step; a module-level function, so that another process finds it.
        shuffled: Whether the hints are exchanged among the pictures, so that nothing can be learned.
    """

    name: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    start: Start | None = None
    shuffled: bool = False

    def settings(self, out: Path, steps: int, seed: int) -> TrainSettings:
        """The demo's settings with its changes; the net is trained as in the paper unless they say otherwise."""
        return demo_settings(out, steps, seed).model_copy(update={**THE_PAPERS_WAY, **self.changes})


class Task(Protocol):
    """What nets are trained on, and how their drawings are scored."""

    @property
    def name(self) -> str:
        """Its name in files."""
        ...

    @property
    def base(self) -> Base:
        """The locked base."""
        ...

    def pairs(self) -> PairDataset:
        """The pairs to train on."""
        ...

    def score(self, net: ControlNet | None) -> Scores:
        """Draw held-out hints with a net, or without control, and score the drawings."""
        ...

    def ceiling(self) -> float:
        """The following score of encoded and decoded true pictures."""
        ...


@dataclass(frozen=True)
class ShapesTask:
    """The demo's pairs, scored on held-out hints other than the demo's.

    Attributes:
        hints: How many hints are drawn.
    """

    hints: int = 32

    @property
    def name(self) -> str:
        """Its name in files."""
        return f"shapes{self.hints}"

    @cached_property
    def base(self) -> Base:
        """The small base."""
        return load_base("tiny")

    @cached_property
    def validation(self) -> ShapesValidation:
        """Scores the drawings, which are made as in the demo."""
        scenes = ShapesDataset(self.hints, self.base.family.image_size, seed=1, held_out=True)
        sampling = SamplingSettings(DRAWN_AS.sampling_steps, DRAWN_AS.guidance)
        return ShapesValidation(self.base, scenes, sampling, DRAWN_AS.side)

    def pairs(self) -> PairDataset:
        """The pairs to train on."""
        return ShapesDataset(PAIRS, self.base.family.image_size, seed=0)

    def score(self, net: ControlNet | None) -> Scores:
        """Draw held-out hints with a net, or without control, and score the drawings."""
        found = self.validation.draw(net)
        return {"following": found.following, "scores": found.scores, **found.measures}

    def ceiling(self) -> float:
        """The following score of encoded and decoded true pictures."""
        return self.validation.ceiling


@dataclass(frozen=True)
class Plan:
    """What all runs of a study share.

    Attributes:
        out: The folder that keeps the runs.
        evaluations: The steps after which the net is scored, in order; the last ends a run.
        task: What the nets learn.
        steps: How many steps the learning rate is planned for; no less than the last evaluation.
    """

    out: Path
    evaluations: tuple[int, ...]
    task: Task = field(default_factory=ShapesTask)
    steps: int = 1000

    def path(self, variant: Variant, seed: int) -> Path:
        """The file that keeps a run, named by everything that determines it."""
        about = [self.task.name, variant.changes, self.evaluations, self.steps, self.task.base.fingerprint]
        name = digest(json.dumps(about), size=4)
        return self.out / f"{variant.name.replace(' ', '_')}-{seed}-{name}.json"

    def run(self, variant: Variant, seed: int) -> Curve:
        """Train and score one net, or read its scores back."""
        path = self.path(variant, seed)
        if not path.exists():
            curve = self._train(variant, seed)
            write_whole(path, json.dumps(curve).encode())
        found: Curve = json.loads(path.read_text(encoding="utf-8"))
        return found

    def _train(self, variant: Variant, seed: int) -> Curve:
        settings = variant.settings(self.out, self.steps, seed)
        base, pairs = self.task.base, self.task.pairs()
        if variant.shuffled:
            pairs = ShuffledHints(pairs, seed=0)
        batches = Batches(settings, base, encode_dataset(base, pairs, self.out / "cache"), pairs)
        trainer = opened_trainer(settings, base, pairs)
        if variant.start is not None:
            variant.start(trainer, pairs, keyed_generator("start", variant.name, seed))
            trainer.average = MovingAverage(trainer.net, settings.average_decay)
        before = {name: weight.clone() for name, weight in base.unet.state_dict().items()}
        curve: Curve = []
        for step in self.evaluations:
            losses = [trainer.take_step(batches.at(index)).loss or math.nan for index in range(trainer.step, step)]
            with trainer.average.applied_to(trainer.net), torch.no_grad():
                found = self.task.score(trainer.net)
            curve.append({"step": step, "loss": fmean(losses) if losses else None, **found})
        after = base.unet.state_dict()
        changed = [name for name, weight in before.items() if not torch.equal(weight, after[name])]
        if changed:
            raise AssertionError(f"training changed the locked base: {changed}")
        return curve

    def runs(self, variants: Sequence[Variant], seeds: Sequence[int], jobs: int) -> dict[str, list[Curve]]:
        """The runs of all variants and seeds, `jobs` of them at a time, each on one core."""
        self.out.mkdir(parents=True, exist_ok=True)
        tasks = [(variant, seed) for seed in seeds for variant in variants]
        with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_one_core) as pool:
            names = [(variant.name, seed) for variant, seed in tasks]
            curves = dict(zip(names, pool.map(self._task, tasks), strict=True))
        return {variant.name: [curves[variant.name, seed] for seed in seeds] for variant in variants}

    def _task(self, task: tuple[Variant, int]) -> Curve:
        variant, seed = task
        curve = self.run(variant, seed)
        print(f"{variant.name}, seed {seed}: following {curve[-1]['following']:.3f}", flush=True)
        return curve


def study_parser(about: str | None) -> argparse.ArgumentParser:
    """The options of every study; the first line of its docstring describes it."""
    parser = argparse.ArgumentParser(description=(about or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs, the figures and the numbers")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, each on one core; default: 2")
    return parser


def _one_core() -> None:
    torch.set_num_threads(1)


COLOURS = ("#22609f", "#d1541f", "#5fa37f", "#a483b8", "#c9a24b", "#66707c")
WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 640, 400, 58, 76, 344


def points(runs: Mapping[str, Sequence[Curve]], name: str) -> dict[str, list[list[tuple[float, float]]]]:
    """One measure of the runs as points (step, value); evaluations without it are left out."""
    return {
        variant: [[(found["step"], found[name]) for found in curve if found[name] is not None] for curve in curves]
        for variant, curves in runs.items()
    }


def chart(
    title: str,
    curves: Mapping[str, Sequence[Sequence[tuple[float, float]]]],
    y: tuple[float, float] | None = None,
    logarithmic: bool = False,
) -> Image.Image:
    """Draw each seed of each variant as a thin line, and the median over the seeds as a thick one.

    Arguments:
        title: What the values are.
        curves: For each variant and seed the points (step, value), all seeds at the same steps.
        y: The ends of the axis of values; by default those of the values.
        logarithmic: Whether that axis is logarithmic.
    """
    every_point = [point for seeds in curves.values() for curve in seeds for point in curve]
    low, high = y or (min(value for _, value in every_point), max(value for _, value in every_point))
    canvas = Canvas(WIDTH, HEIGHT)
    across = Axis(0, max(step for step, _ in every_point), LEFT, WIDTH - 24)
    up = Axis(low, high, BOTTOM, TOP, logarithmic)
    draw_axes(canvas, title, across, up)
    medians = []
    for (name, seeds), colour in zip(curves.items(), COLOURS, strict=False):
        for curve in seeds:
            draw_series(canvas, across, up, Series(name, curve, _pale(colour), 1.0))
        medians.append(Series(name, _medians(seeds), colour, 2.4))
    for series in medians:
        draw_series(canvas, across, up, series)
    draw_legend(canvas, (LEFT, 44), medians)
    return canvas.image()


def _medians(seeds: Sequence[Sequence[tuple[float, float]]]) -> list[tuple[float, float]]:
    values = torch.tensor([[value for _, value in curve] for curve in seeds])
    return [(step, value) for (step, _), value in zip(seeds[0], values.median(0).values.tolist(), strict=True)]


def _pale(colour: str) -> str:
    levels = (int(colour[start : start + 2], 16) for start in (1, 3, 5))
    return "#" + "".join(f"{round(255 - 0.4 * (255 - level)):02x}" for level in levels)


def side_by_side(*images: Image.Image) -> Image.Image:
    """Put pictures of equal height side by side."""
    sheet = Image.new("RGB", (sum(image.width for image in images), max(image.height for image in images)), "#ffffff")
    left = 0
    for image in images:
        sheet.paste(image, (left, 0))
        left += image.width
    return sheet
