"""`controlnet-core demo`: trains a ControlNet on the small base and draws with it, in minutes on a CPU."""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .output import note, print_result
from .parser import Commands, new_command
from .picture_files import check_writable
from .watch import convergence_sentence, train_watched

if TYPE_CHECKING:
    from torch import Tensor

    from ..base import Base
    from ..data.dataset import PairDataset
    from ..evaluation.validation import Evaluation
    from ..model.controlnet import ControlNet
    from ..sampling.generate import SamplingSettings
    from ..toy.shapes_validation import ShapesValidation
    from ..training.settings import TrainSettings

DESCRIPTION = """\
Train a ControlNet on the small base that comes with this package, from a copy
of its encoder and zero convolutions, on pairs of shapes and their outlines. It
shows the step at which the net begins to follow its hints, and draws pictures
from held-out hints, one of them the edges of a real photograph. Needs no
download and no GPU. If interrupted, the same command resumes."""
EPILOG = """\
It writes into DIR: demo.png (what it drew), report.png (how it learned),
report.json (the numbers) and the trained net, controlnet.safetensors.

example:
  controlnet-core demo --out demo
"""

PAIRS = 2000
SCORED_HINTS = 64
SHOWN = 6
CELL = 192
COIN_PROMPT = "a grey circle on a black background"
REPORT = "report.json"


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = new_command(commands, "demo", "train on the small base and draw", DESCRIPTION, EPILOG)
    add = parser.add_argument
    add("--out", metavar="DIR", type=Path, default=Path("demo"), help="the folder to write to (default: demo)")
    add("--steps", metavar="N", type=int, default=1000, help="optimizer steps (default: %(default)s)")
    add("--seed", metavar="N", type=int, default=0, help="seeds every random draw (default: %(default)s)")
    shuffled = "shuffle the hints among the pictures, so that nothing can be learned (default: not shuffled)"
    add("--shuffled", action="store_true", help=shuffled)


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    clock = Clock()
    from ..weights.load_base import load_base

    out: Path = arguments.out
    check_writable(out)
    settings = demo_settings(out, arguments.steps, arguments.seed)
    base = load_base("tiny")
    setup = DemoSetup(base, settings)
    clock.lap("start")
    validation = setup.validation(settings.evaluation.hints)
    path, report = train_watched(settings, base, setup.dataset(arguments.shuffled), validation, "ControlNet demo")
    clock.lap("training, evaluations included")
    result = setup.result(path / "controlnet.safetensors")
    clock.lap("scoring and drawing")
    report = {**report, "following": result.following, "parts": clock.laps}
    setup.publish(path, report, result)
    following = result.following
    facts: list[tuple[str, object]] = [
        ("pictures", out / "demo.png"),
        ("report", out / "report.png"),
        ("numbers", out / REPORT),
        ("net", out / "controlnet.safetensors"),
        ("following", f"{following['caption']:.3f} with the caption"),
        ("", f"{following['empty_prompt']:.3f} with an empty prompt"),
        ("", f"{following['without_control']:.3f} without control"),
        ("", f"{following['ceiling']:.3f} for true images, encoded and decoded"),
        ("", convergence_sentence(report["convergence"])),
    ]
    print_result(facts, report, arguments.json)
    return 0


def demo_settings(out: Path, steps: int, seed: int) -> TrainSettings:
    """The demo's training settings: uniform timesteps and half of the prompts dropped, as in the paper.

    Control acts on the conditional side of guidance alone, so that guidance strengthens it and not only the text.
    """
    from ..training.settings import checked

    return checked(
        {
            "steps": steps,
            "batch_size": 16,
            "learning_rate": 5e-4,
            "warm_up_steps": 20,
            "cool_down_steps": steps // 4,
            "weight_decay": 0.0,
            "average_decay": 0.98,
            "checkpoint_every": 100,
            "evaluation": {"every": 50, "hints": 16, "sampling_steps": 10, "guidance": 3.0, "side": "conditional"},
            "seed": seed,
            "device": "cpu",
            "out": out / "runs",
        },
        "the demo",
    )


class Clock:
    """Measures the parts of the demo.

    Attributes:
        laps: For each part its seconds, and the process's peak memory up to its end in MiB (None where the system does
            not tell).
    """

    def __init__(self) -> None:
        self.laps: dict[str, dict[str, float | None]] = {}
        self._last = time.perf_counter()

    def lap(self, part: str) -> None:
        """End a part."""
        now = time.perf_counter()
        self.laps[part] = {"seconds": round(now - self._last, 1), "peak_mebibytes": peak_mebibytes()}
        self._last = now


def peak_mebibytes() -> float | None:
    """The peak memory of this process so far; None on Windows."""
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)


@dataclass(frozen=True, eq=False)
class DemoResult:
    """What the demo measured and drew.

    Attributes:
        following: The following scores: caption, empty_prompt, without_control, ceiling.
        controlled: With the captions.
        promptless: With empty prompts, control on the conditional side only.
        uncontrolled: Without control.
        coin: The photograph, its hint, and what is drawn with it, without a prompt and without control, each (3, H, W).
    """

    following: dict[str, float]
    controlled: Evaluation
    promptless: Evaluation
    uncontrolled: Evaluation
    coin: tuple[Tensor, ...]


@dataclass(frozen=True, eq=False)
class DemoSetup:
    """The base and the settings that all parts of the demo share.

    Attributes:
        base: The small base.
        settings: The training settings.
    """

    base: Base
    settings: TrainSettings

    @property
    def size(self) -> int:
        """The side of all pictures."""
        return self.base.family.image_size

    @property
    def sampling(self) -> SamplingSettings:
        """How all pictures are drawn."""
        from ..sampling.generate import SamplingSettings

        evaluation = self.settings.evaluation
        return SamplingSettings(evaluation.sampling_steps, evaluation.guidance)

    def dataset(self, shuffled: bool) -> PairDataset:
        """The pairs to train on."""
        from ..data.shuffled import ShuffledHints
        from ..toy.shapes_dataset import ShapesDataset

        drawn = self.settings.steps * self.settings.batch_size
        pairs = ShapesDataset(min(PAIRS, drawn), self.size, seed=0)
        return ShuffledHints(pairs, seed=0) if shuffled else pairs

    def validation(self, hints: int) -> ShapesValidation:
        """Held-out hints."""
        from ..toy.shapes_dataset import ShapesDataset
        from ..toy.shapes_validation import ShapesValidation

        scenes = ShapesDataset(hints, self.size, seed=0, held_out=True)
        return ShapesValidation(self.base, scenes, self.sampling, self.settings.evaluation.side)

    def result(self, net_path: Path) -> DemoResult:
        """Score the net on 64 held-out hints and draw the coin."""
        from ..weights.load import load_controlnet

        note(f"drawing {SCORED_HINTS} held-out hints: with captions, without prompts, without control")
        net = load_controlnet(net_path)
        validation = self.validation(SCORED_HINTS)
        controlled = validation.draw(net)
        promptless = validation.draw(net, [""] * SCORED_HINTS)
        uncontrolled = validation.draw(None)
        following = {
            "caption": controlled.following,
            "empty_prompt": promptless.following,
            "without_control": uncontrolled.following,
            "ceiling": validation.ceiling,
        }
        return DemoResult(following, controlled, promptless, uncontrolled, self._coin(net))

    def _coin(self, net: ControlNet) -> tuple[Tensor, ...]:
        """A real photograph, its edges, and what is drawn with them, without a prompt and without control."""
        from ..control.stack import Control
        from ..sampling.generate import generate
        from ..toy.photograph import coin_hint, coin_photograph

        hint = coin_hint()
        controls = [Control(net, hint, side=self.settings.evaluation.side)]
        cases: tuple[tuple[str, list[Control]], ...] = ((COIN_PROMPT, controls), ("", controls), (COIN_PROMPT, []))
        drawings = [generate(self.base, prompt, used, settings=self.sampling)[0] for prompt, used in cases]
        return coin_photograph()[0], hint[0], *drawings

    def publish(self, path: Path, report: dict[str, Any], result: DemoResult) -> None:
        """Write pictures, report and net into the folder that the user named."""
        import shutil

        from ..training.run_folder import RunFolder

        out = self.settings.out.parent
        RunFolder(path).write_json("demo.json", report)
        for name in ("report.png", "controlnet.safetensors"):
            shutil.copyfile(path / name, out / name)
        shutil.copyfile(path / "demo.json", out / REPORT)
        self._sheet(out / "demo.png", result)

    def _sheet(self, path: Path, result: DemoResult) -> None:
        """Draw the contact sheet."""
        from PIL.Image import Resampling
        from PIL.ImageOps import expand

        from ..pictures.sheet import PADDING, PAPER, sheet, to_image, write_png

        validation = self.validation(SHOWN)
        evaluations = (result.controlled, result.promptless, result.uncontrolled)
        drawn = (evaluation.pictures[:SHOWN] for evaluation in evaluations)
        scenes = (validation.scenes.images(range(SHOWN)), validation.hints, *drawn)
        rows = [
            [to_image(picture).resize((CELL, CELL), Resampling.BICUBIC) for picture in (*pictures, coin)]
            for pictures, coin in zip(scenes, result.coin, strict=True)
        ]
        titles = ["true picture", "its hint", "with hint and caption", "with the hint alone", "with the caption alone"]
        picture = sheet(rows, [*validation.captions, COIN_PROMPT], titles, CELL)
        write_png(expand(picture, PADDING, PAPER), path)
