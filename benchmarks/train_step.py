"""Time and peak memory of a ControlNet training step, over those of full fine-tuning and of diffusers, in one run.

    python benchmarks/train_step.py --family reduced --steps 10 --json

Three ways to train take a step in turn, on the same batch, with the same AdamW and the same dtype:

- `controlnet`: this package's `control_loss`, the net trained, the UNet locked;
- `full_finetuning`: all of this package's UNet trained, without a ControlNet;
- `diffusers`: the first again, of diffusers' modules with the same weights, as its `train_controlnet.py` puts them.

A step is the loss, the backward pass, AdamW, and forgetting the gradients; clipping, moving averages and the loading of
data are left out everywhere. A time ratio is the median of the ratios of all rounds.

Peak memory is measured first, each way in a process of its own, over two steps: the most bytes that torch's allocator
held for tensors, with weights, gradients and optimizer state. On CUDA that is `max_memory_allocated`; on a CPU it is
counted from the allocations that torch's profiler saw. What libraries keep beside the allocator is in neither.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile

from controlnet_core.base import TextEmbeddings, vector_condition
from controlnet_core.config import FAMILIES, Family, Prediction, UNetConfig
from controlnet_core.errors import TrainingError
from controlnet_core.model.controlnet import ControlNet
from controlnet_core.model.unet import UNet
from controlnet_core.prediction import network_input, noised, target
from controlnet_core.schedule import NoiseSchedule
from controlnet_core.training.loss import Batch, control_loss

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
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
WAYS = ("controlnet", "full_finetuning", "diffusers")
TOKENS = 77
ENCODED_SIZES = 6 * 256
"""How much of SDXL's vector condition is not pooled text."""
PARITY = 1e-4
MEBIBYTE = 2**20


@dataclass(frozen=True)
class Settings:
    """What is measured: the options of the command; `family` is a name in `SIZES`, and weights are always float32."""

    family: str
    size: int
    batch: int
    steps: int
    warm_up: int
    device: str
    dtype: str


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

    def take(self) -> None:
        """Take one optimizer step."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            loss = self.loss()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def seconds(self) -> float:
        """Take one optimizer step and time it."""
        self._synchronise()
        started = time.perf_counter()
        self.take()
        self._synchronise()
        return time.perf_counter() - started

    def weight_bytes(self) -> int:
        """What the weights take."""
        return sum(parameter.nbytes for module in self.modules for parameter in module.parameters())

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
    from tests.support.references import reference_controlnet, reference_unet  # the other ways need no diffusers

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


def peak_bytes(way: str, settings: Settings) -> int:
    """The most that tensors took at one time during two steps of a way to train."""
    step = training_step(way, settings)
    if step.device.type == "cuda":
        step.take()
        step.take()
        return torch.cuda.max_memory_allocated(step.device)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step.take()
        step.take()
    return step.weight_bytes() + most_allocated(profiler)


def most_allocated(profiler: profile) -> int:
    """The most bytes, of those allocated since the profile began, that were held at one time."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    return max(int(event["args"]["Total Allocated"]) for event in events if event.get("name") == "[memory]")


def check_parity(ours: TrainingStep, theirs: TrainingStep) -> dict[str, float]:
    """See, in float32, that both compute the same loss.

    Raises:
        TrainingError: If they do not.
    """
    with torch.no_grad():
        losses = {"controlnet": ours.loss().item(), "diffusers": theirs.loss().item()}
    difference = abs(losses["controlnet"] / losses["diffusers"] - 1)
    if not difference <= PARITY:
        raise TrainingError(
            found=f"a loss of {losses['controlnet']}, and {losses['diffusers']} with diffusers' modules",
            expected=f"the same within {PARITY} of it",
            do="compare the two nets layer by layer; times of different computations mean nothing",
        )
    return {**losses, "relative_difference": difference}


def measure(settings: Settings) -> dict[str, Any]:
    """Measure everything; the top of this file says what the keys mean."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        memory = dict(zip(WAYS, pool.map(peak_bytes, WAYS, repeat(settings)), strict=True))
    steps = {way: training_step(way, settings) for way in WAYS}
    losses = check_parity(steps["controlnet"], steps["diffusers"])
    rounds = [{way: steps[way].seconds() for way in WAYS} for _ in range(settings.warm_up + settings.steps)]
    rounds, others = rounds[settings.warm_up :], WAYS[1:]
    return {
        "time_ratio": {way: statistics.median(one["controlnet"] / one[way] for one in rounds) for way in others},
        "memory_ratio": {way: memory["controlnet"] / memory[way] for way in others},
        "seconds": {way: statistics.median(one[way] for one in rounds) for way in WAYS},
        "peak_bytes": memory,
        "loss": losses,
        "machine": machine(settings.device),
        "settings": asdict(settings),
    }


def machine(device: str) -> dict[str, str | int]:
    """What it was measured on."""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", info.read_text(encoding="utf-8")) if info.exists() else []
    cpu = names[0] if names else platform.processor()
    return {
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else cpu,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "diffusers": version("diffusers"),
    }


def table(result: Mapping[str, Any]) -> str:
    """The result in words."""
    settings, words = result["settings"], result["machine"]
    lines = [
        "{family} at {size}x{size}, batch {batch}, {dtype}, {steps} rounds".format(**settings),
        "{device}, {threads} threads, torch {torch}, diffusers {diffusers}".format(**words),
        f"{'':16}{'seconds a step':>16}{'controlnet / it':>17}{'peak MiB':>12}{'controlnet / it':>17}",
    ]
    for way in WAYS:
        time_ratio, memory_ratio = (
            f"{result[name][way]:.3f}" if way in result[name] else "" for name in ("time_ratio", "memory_ratio")
        )
        seconds, peak = result["seconds"][way], result["peak_bytes"][way] / MEBIBYTE
        lines.append(f"{way:16}{seconds:16.4f}{time_ratio:>17}{peak:12.1f}{memory_ratio:>17}")
    return "\n".join(lines)


def main() -> None:
    """Run as a command."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--family", choices=SIZES, help="default: reduced (SD1.5, 64 wide); sd15 on a GPU")
    parser.add_argument("--size", type=int, help="height and width in pixels, a multiple of 64; default: the family's")
    parser.add_argument("--batch", type=int, default=1, help="pairs of one step; default: 1")
    parser.add_argument("--steps", type=int, default=10, help="measured rounds; default: 10")
    parser.add_argument("--warm-up", type=int, default=2, help="rounds before them; default: 2")
    parser.add_argument("--device", default=device, help="default: a GPU, if there is one")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="bfloat16 is autocast")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    values = vars(parser.parse_args())
    as_json = values.pop("json")
    values["family"] = values["family"] or ("sd15" if values["device"].startswith("cuda") else "reduced")
    values["size"] = values["size"] or SIZES[values["family"]].image_size
    result = measure(Settings(**values))
    print(json.dumps(result) if as_json else table(result))


if __name__ == "__main__":
    main()
