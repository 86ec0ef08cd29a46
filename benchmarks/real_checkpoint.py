"""What a released checkpoint does here: it is read, drawn with, and trained on for a few steps.

    python benchmarks/real_checkpoint.py sd15.safetensors --control canny.safetensors --hint edges.png

Writes `real_checkpoint.json` and the pictures into --out. The file says which program, device and checkpoint it was
(its name and size), what was found in it, how long drawing and training took, and how much memory they held; it names
no folder. Please send it back: no released checkpoint could be run where this project was made.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from controlnet_core.base import Base
from controlnet_core.cli.demo import peak_mebibytes
from controlnet_core.cli.device import chosen_device
from controlnet_core.control.stack import Control
from controlnet_core.errors import ControlNetCoreError
from controlnet_core.pictures.read import load_image
from controlnet_core.pictures.sheet import to_image, write_png
from controlnet_core.sampling.generate import SamplingSettings, generate
from controlnet_core.toy.shapes_dataset import ShapesDataset
from controlnet_core.training.run import train
from controlnet_core.training.settings import TrainSettings
from controlnet_core.version import __version__
from controlnet_core.weights.inspection import inspect_checkpoint
from controlnet_core.weights.load import load_controlnet
from controlnet_core.weights.load_base import load_base
from controlnet_core.whole_file import write_whole

Result = TypeVar("Result")
ABOUT_A_FILE = ("kind", "description", "layout", "family", "parameters", "dtype", "missing", "extra", "notes")


@dataclass
class Findings:
    """The content of `real_checkpoint.json`.

    Attributes:
        content: The findings so far.
    """

    content: dict[str, Any] = field(default_factory=dict)

    def timed(self, name: str, work: Callable[[], Result]) -> Result | None:
        """Do a part of the work; note its time and peak memory, or its error, which does not end the others."""
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        started = time.perf_counter()
        try:
            result = work()
        except (ControlNetCoreError, RuntimeError) as error:
            self.content[name] = {"error": f"{type(error).__name__}: {error}"}
            return None
        peak = torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else peak_mebibytes()
        self.content[name] = {"seconds": round(time.perf_counter() - started, 2), "peak_mebibytes": peak}
        return result


def described(path: Path) -> dict[str, Any]:
    """What a file is, without its folder."""
    report = inspect_checkpoint(path)
    facts = {name: getattr(report, name) for name in ABOUT_A_FILE}
    return {"name": path.name, "bytes": path.stat().st_size, "usable": report.usable, **facts}


def draw(base: Base, controls: Sequence[Control], prompt: str, steps: int) -> Tensor:
    """One picture, shape (3, H, W)."""
    return generate(base, prompt, controls, settings=SamplingSettings(steps=steps))[0]


def train_briefly(base: Base, steps: int, out: Path) -> list[dict[str, float | None]]:
    """The loss and the seconds of a few steps on shapes, at the base's own size."""
    settings = TrainSettings(steps=steps, batch_size=1, out=out / "runs")
    dataset = ShapesDataset(4, base.family.image_size, seed=0)
    return [{"loss": report.loss, "seconds": report.seconds} for report in train(settings, base, dataset)]


def main() -> None:
    """Run as a command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--control", type=Path, help="a ControlNet of the same family")
    parser.add_argument("--hint", type=Path, help="the image that it follows")
    parser.add_argument("--tokenizer", type=Path, help="a folder with CLIP's vocab.json and merges.txt")
    parser.add_argument("--prompt", default="a house by a lake, photograph")
    parser.add_argument("--steps", type=int, default=20, help="of the sampler (default: 20)")
    parser.add_argument("--train-steps", type=int, default=5, help="0 trains nothing (default: 5, in float32)")
    parser.add_argument("--out", type=Path, default=Path("real_checkpoint"))
    options = parser.parse_args()
    if (options.control is None) != (options.hint is None):
        parser.error("--control and --hint belong together")
    device = chosen_device("auto")
    name = torch.cuda.get_device_name() if device.type == "cuda" else device.type
    found = Findings({"version": __version__, "torch": torch.__version__, "device": name})
    found.content["checkpoint"] = described(options.checkpoint)
    load = partial(load_base, options.checkpoint, device=device, dtype=torch.float32, tokenizer=options.tokenizer)
    base = found.timed("load", load)
    if base is not None:
        _draw_and_train(base, options, found)
    path = options.out / "real_checkpoint.json"
    write_whole(path, (json.dumps(found.content, indent=1) + "\n").encode())
    print(path)


def _draw_and_train(base: Base, options: argparse.Namespace, found: Findings) -> None:
    """Draw without and with control, and train."""
    ways: dict[str, list[Control]] = {"plain": []}
    if options.control is not None:
        found.content["control"] = described(options.control)
        net = load_controlnet(options.control, device=base.device, dtype=base.dtype)
        ways["controlled"] = [Control(net, load_image(options.hint))]
    for name, controls in ways.items():
        picture = found.timed(name, partial(draw, base, controls, options.prompt, options.steps))
        if picture is not None:
            write_png(to_image(picture), options.out / f"{name}.png")
    if options.train_steps:
        steps = found.timed("training", partial(train_briefly, base, options.train_steps, options.out))
        found.content["steps"] = steps


if __name__ == "__main__":
    main()
