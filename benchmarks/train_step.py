"""Time and peak memory of a ControlNet training step, over those of full fine-tuning and of diffusers, in one run.

    python benchmarks/train_step.py --family sd15 --size 256 512 --json

Three ways to train, on the same batch, with the same AdamW and the same dtype:

- `controlnet`: this package's `control_loss`, the net trained, the UNet locked;
- `full_finetuning`: all of this package's UNet trained, without a ControlNet;
- `diffusers`: as `controlnet`, with diffusers' modules and the same weights, as in its `train_controlnet.py`.

A step is the loss, the backward pass, AdamW, and clearing the gradients; clipping, moving averages and loading data are
left out everywhere. Latents and text embeddings are ready, as from a cache.

In each round the ways take turns, each in a process of its own that holds nothing else: it takes a step to warm up,
then the steps that are timed. A ratio is the median of the rounds' ratios. Peak memory is the most that the process
held, or on a GPU the most that torch's allocator held.

The paper says that ControlNet took 34 % more time and 23 % more memory than optimising Stable Diffusion without it
(Zhang et al. 2023, section 3.2). Measure at the real width: the hint encoder does not shrink with the width of the
UNet, so that in reduced families its share of a step is many times too large, and their ratios mislead.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from controlnet_core.base import TextEmbeddings, vector_condition
from controlnet_core.cli.demo import peak_mebibytes
from controlnet_core.config import FAMILIES, Family, Prediction, UNetConfig
from controlnet_core.errors import TrainingError
from controlnet_core.model.controlnet import ControlNet
from controlnet_core.model.unet import UNet
from controlnet_core.objective import Batch, control_loss
from controlnet_core.prediction import network_input, noised, target
from controlnet_core.schedule import NoiseSchedule

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.train_step_table import machine, table
from tests.support.reduced import noise, randomised

SD15 = FAMILIES["SD1.5"]
SIZES: Mapping[str, Family] = MappingProxyType(
    {
        "sd15": SD15,
        "sd21": FAMILIES["SD2.1"],
        "sdxl": FAMILIES["SDXL"],
        "tiny": FAMILIES["TINY"],
        "reduced": replace(SD15, unet=replace(SD15.unet, family="SD1.5-like", model_channels=64), image_size=256),
    }
)
PAPER = MappingProxyType({"time": 1.34, "memory": 1.23})
"""Ratios to full fine-tuning in the paper: on one A100, batch and precision not stated."""
WAYS = ("controlnet", "full_finetuning", "diffusers")
TOKENS = 77
ENCODED_SIZES = 6 * 256
"""The part of SDXL's vector condition that is not pooled text."""
PARITY = 1e-4
MEBIBYTE = 2**20


@dataclass(frozen=True)
class Settings:
    """What one process measures; `family` is a name in `SIZES`, and weights are always float32."""

    family: str
    size: int
    batch: int
    steps: int
    device: str
    dtype: str


@dataclass(frozen=True)
class Measured:
    """Measurements of one process: the loss of the first step, the seconds of each later one, the most bytes held."""

    loss: float
    seconds: list[float]
    peak_bytes: int


class TrainingStep:
    """One way to train, ready to take steps.

    Arguments:
        settings: What is measured.
        loss: Computes the loss, a number.
        modules: First the one that is trained, then the locked one, if there is one.
    """

    def __init__(self, settings: Settings, loss: Callable[[], Tensor], *modules: nn.Module) -> None:
        self.device = torch.device(settings.device)
        self.half = settings.dtype != "float32"
        self.loss = loss
        self.modules = [module.to(self.device) for module in modules]
        trained, *locked = self.modules
        for module in locked:
            module.requires_grad_(False)
        self.optimizer = torch.optim.AdamW(trained.parameters(), lr=1e-5, weight_decay=0.01, fused=True)

    def take(self) -> Tensor:
        """Take one optimizer step; returns the loss before it."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            loss = self.loss()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.detach()

    def seconds(self) -> float:
        """Take one optimizer step and time it."""
        self._synchronise()
        started = time.perf_counter()
        self.take()
        self._synchronise()
        return time.perf_counter() - started

    def _synchronise(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def training_step(way: str, settings: Settings) -> TrainingStep:
    """Make one of the `WAYS`; weights, none of them zero, and batch are the same for all."""
    family = SIZES[settings.family]
    batch, schedule = make_batch(family.unet, settings), NoiseSchedule.scaled_linear()
    given = batch, schedule, family.prediction
    unet = randomised(UNet(family.unet, device="meta").to_empty(device="cpu"), seed=1)
    if way == "full_finetuning":
        return TrainingStep(settings, lambda: plain_loss(unet, *given), unet)
    net = randomised(ControlNet(family.unet, device="meta").to_empty(device="cpu"), seed=2)
    if way == "controlnet":
        return TrainingStep(settings, lambda: control_loss(unet, net, *given), net, unet)
    from tests.support.references import reference_controlnet, reference_unet  # only this way needs diffusers

    their_unet, their_net = reference_unet(unet), reference_controlnet(net)
    return TrainingStep(settings, lambda: diffusers_loss(their_unet, their_net, *given), their_net, their_unet)


def make_batch(config: UNetConfig, settings: Settings) -> Batch:
    """Draw a batch; hints are channels last, as this package trains on them."""
    rows, side = settings.batch, settings.size
    latents = (rows, config.in_channels, side // 8, side // 8)
    y = None
    if config.vector_dim is not None:
        y = vector_condition(noise(rows, config.vector_dim - ENCODED_SIZES, seed=7), (side, side)).to(settings.device)
    return Batch(
        latents=noise(*latents, seed=3).to(settings.device),
        noise=noise(*latents, seed=4).to(settings.device),
        timesteps=torch.linspace(100, 900, rows).long().to(settings.device),
        hints=noise(rows, 3, side, side, seed=5).sigmoid().to(settings.device, memory_format=torch.channels_last),
        text=TextEmbeddings(noise(rows, TOKENS, config.context_dim, seed=6).to(settings.device), y),
    )


def plain_loss(unet: nn.Module, batch: Batch, schedule: NoiseSchedule, prediction: Prediction) -> Tensor:
    """Mean squared error of the UNet without control, all of it in the graph."""
    sigma = schedule.sigma(batch.timesteps)
    x = network_input(noised(batch.latents, batch.noise, sigma), sigma)
    output = unet(x, batch.timesteps, batch.text.context, batch.text.y)
    return functional.mse_loss(output.float(), target(prediction, batch.latents, batch.noise, sigma))


def diffusers_loss(
    unet: nn.Module, net: nn.Module, batch: Batch, schedule: NoiseSchedule, prediction: Prediction
) -> Tensor:
    """Mean squared error of the controlled prediction, by diffusers' modules."""
    sigma = schedule.sigma(batch.timesteps)
    x = network_input(noised(batch.latents, batch.noise, sigma), sigma)
    given = x, batch.timesteps, batch.text.context
    added = None
    if batch.text.y is not None:
        height, width = batch.hints.shape[-2:]
        sizes = torch.tensor([height, width, 0, 0, height, width], device=x.device).expand(len(x), -1)
        added = {"text_embeds": batch.text.y[:, :-ENCODED_SIZES], "time_ids": sizes}
    skips, middle = net(*given, controlnet_cond=batch.hints, added_cond_kwargs=added, return_dict=False)
    residuals = {"down_block_additional_residuals": skips, "mid_block_additional_residual": middle}
    (output,) = unet(*given, added_cond_kwargs=added, **residuals, return_dict=False)
    return functional.mse_loss(output.float(), target(prediction, batch.latents, batch.noise, sigma))


def measure_way(way: str, settings: Settings) -> Measured:
    """Take the steps of one of the `WAYS` in a process that does nothing else."""
    step = training_step(way, settings)
    loss = float(step.take())
    seconds = [step.seconds() for _ in range(settings.steps)]
    if step.device.type == "cuda":
        return Measured(loss, seconds, torch.cuda.max_memory_allocated(step.device))
    return Measured(loss, seconds, round((peak_mebibytes() or math.nan) * MEBIBYTE))


def measure(settings: Settings, rounds: int) -> dict[str, Any]:
    """Measure everything at one size; the docstring of this file says what the keys mean."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        measured = [{way: pool.submit(measure_way, way, settings).result() for way in WAYS} for _ in range(rounds)]
    seconds = [{way: statistics.median(figures[way].seconds) for way in WAYS} for figures in measured]
    peaks = [{way: figures[way].peak_bytes for way in WAYS} for figures in measured]
    return {
        "time_ratio": ratios(seconds),
        "memory_ratio": ratios(peaks),
        "seconds": {way: statistics.median(figures[way] for figures in seconds) for way in WAYS},
        "peak_bytes": {way: statistics.median(figures[way] for figures in peaks) for way in WAYS},
        "loss": checked_losses({way: measured[0][way].loss for way in WAYS}),
        "settings": {**asdict(settings), "rounds": rounds},
    }


def ratios(rounds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The median over the rounds of ControlNet's figure over each other way's."""
    return {way: statistics.median(figures["controlnet"] / figures[way] for figures in rounds) for way in WAYS[1:]}


def checked_losses(losses: Mapping[str, float]) -> dict[str, float]:
    """Check that both sets of modules computed the same loss at the first step.

    Raises:
        TrainingError: If they did not.
    """
    difference = abs(losses["controlnet"] / losses["diffusers"] - 1)
    if not difference <= PARITY:
        raise TrainingError(
            found=f"a loss of {losses['controlnet']}, and {losses['diffusers']} with diffusers' modules",
            expected=f"the same within {PARITY} of it",
            do="compare the two nets layer by layer; times of different computations mean nothing",
        )
    return {**losses, "relative_difference": difference}


def main() -> None:
    """Run as a command."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--family", choices=SIZES, default="sd15", help="default: sd15 at its real width and depth")
    parser.add_argument("--size", type=int, nargs="+", help="sides in pixels; default: 256 512 for sd15")
    parser.add_argument("--batch", type=int, default=1, help="pairs of one step; default: 1")
    parser.add_argument("--rounds", type=int, default=3, help="processes of each way; default: 3")
    parser.add_argument("--steps", type=int, default=3, help="timed steps of each process; default: 3")
    parser.add_argument("--device", default=device, help="default: a GPU, if there is one")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="bfloat16 is autocast")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    sizes = options.size or ([256, 512] if options.family == "sd15" else [SIZES[options.family].image_size])
    family, batch, steps = options.family, options.batch, options.steps
    results = [
        measure(Settings(family, size, batch, steps, options.device, options.dtype), options.rounds) for size in sizes
    ]
    result = {"sizes": results, "machine": machine(options.device), "paper": dict(PAPER)}
    print(json.dumps(result) if options.json else table(result))


if __name__ == "__main__":
    main()
