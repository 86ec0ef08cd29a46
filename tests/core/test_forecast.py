"""What a step takes is counted before it is done: at the real size, and as a real step takes it on a small net."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from controlnet_core.base import TextEmbeddings
from controlnet_core.config import FAMILIES
from controlnet_core.model.controlnet import ControlNet
from controlnet_core.objective import Batch
from controlnet_core.toy.shapes_dataset import ShapesDataset
from controlnet_core.training import session as session_module
from controlnet_core.training.devices import unet_in
from controlnet_core.training.events import Event, Memory, Stepped, event_json, event_lines
from controlnet_core.training.forecast import GIB, Forecast, Work, fitting_preset, forecast
from controlnet_core.training.live_memory import LiveMemory
from controlnet_core.training.memory import PRESETS, Preset
from controlnet_core.training.session import Session
from controlnet_core.training.settings import TrainSettings
from controlnet_core.training.step import Trainer
from tests.support.bases import SMALL, SmallBase, small_base
from tests.support.reduced import noise
from tests.support.scripts import tool

ROOT = Path(__file__).resolve().parents[2]
CARD, CPU = torch.device("cuda"), torch.device("cpu")
WAYS: list[dict[str, Any]] = [{}, *({"memory": preset} for preset in PRESETS), {"weights_dtype": "bfloat16"}]
REAL = {name: Work(FAMILIES[name].unet, (size, size)) for name, size in (("SD1.5", 512), ("SDXL", 1024))}


@pytest.mark.parametrize(
    ("name", "preset", "most"), [("SD1.5", 8, 7.5), ("SD1.5", 12, 11.5), ("SDXL", 16, 15.5), ("SDXL", 24, 23.5)]
)
def test_a_step_at_the_real_size_fits_the_card(name: str, preset: Preset, most: float) -> None:
    found = forecast(REAL[name], TrainSettings(batch_size=1, memory=preset), CARD)
    print(f"\n{name}, memory = {preset}: {found.gib:.2f} GiB, {found}")
    assert found.gib <= most
    counts = {"SD1.5": (859_520_964, 361_279_120), "SDXL": (2_567_463_684, 1_251_014_160)}[name]
    assert found.base == 2 * counts[0], "the locked UNet in bfloat16"
    assert found.net == counts[1] * (2 if preset == 16 else 4) and found.step > found.net, "all gradients are there"
    assert found.context == round(0.6 * GIB)


def test_the_page_of_presets_says_what_is_counted() -> None:
    page = (ROOT / "docs" / "memory.md").read_text(encoding="utf-8")
    made = tool("make_memory_page")
    assert made.HEAD in page and page.endswith(made.CHOICES + "".join(made.choices())), "run tools/make_memory_page.py"
    rows = re.findall(r"^\| (\d+) \| ([\d.]+ / [\d.]+|-) \| ([\d.]+ / [\d.]+|-) \| ([\d.]+ / [\d.]+|-) \|$", page, re.M)
    assert [int(row[0]) for row in rows] == list(PRESETS)
    for preset, *cells in rows:
        assert all(float(gib) <= float(preset) - 0.5 for cell in cells if cell != "-" for gib in cell.split(" / "))
    fits = [[cell != "-" for cell in row[1:]] for row in rows]
    assert fits == [[True, True, False]] * 2 + [[True] * 3] * 4
    for (name, size), column in ((("SD1.5", 512), 1), (("SDXL", 1024), 3)):
        shown = float(rows[2][column].split(" / ")[0])
        assert shown == pytest.approx(made.preset_gib(name, size, 16, 1), abs=0.051), "run tools/make_memory_page.py"


def taken(base: SmallBase, settings: TrainSettings, size: int) -> int:
    """What two real steps take at their peak on the CPU, the base included."""
    choices = settings.choices(base.unet.config, CPU)

    def batch(seed: int) -> Batch:
        rows, side = settings.batch_size, size // 8
        return Batch(
            latents=noise(rows, 4, side, side, seed=seed),
            noise=noise(rows, 4, side, side, seed=seed + 1),
            timesteps=torch.arange(rows),
            hints=noise(rows, 3, size, size, seed=seed + 2).sigmoid(),
            text=TextEmbeddings(noise(rows, 5, base.unet.config.context_dim, seed=seed + 3)),
        )

    with LiveMemory(base.unet.parameters()) as memory:
        net = ControlNet.from_unet(base.unet)
        with unet_in(base, choices.precision):
            trainer = Trainer(settings, base, net)
            for step in range(2):
                trainer.take_step(batch(seed=10 * step))
    return int(memory.peak) + sum(weight.numel() * 4 for weight in base.unet.parameters())


@pytest.mark.parametrize("size", [64, 192])
@pytest.mark.parametrize("changes", WAYS, ids=str)
def test_a_real_step_takes_what_was_forecast(changes: dict[str, Any], size: int) -> None:
    settings, base = TrainSettings(batch_size=3, **changes), small_base()
    work = Work(base.unet.config, (size, size), tokens=5)
    wanted, found = taken(base, settings, size), forecast(work, settings, CPU)
    ratio = found.total / wanted
    print(f"\n{changes} at {size}: {found.total / 2**20:.1f} MiB forecast, {wanted / 2**20:.1f} taken: {ratio:.3f}")
    assert abs(ratio - 1) <= 0.1


def test_each_of_several_processes_takes_its_share_of_a_batch_and_memory_for_all_gradients() -> None:
    alone = forecast(Work(SMALL.unet, (64, 64)), TrainSettings(batch_size=2), CPU)
    several = forecast(Work(SMALL.unet, (64, 64), processes=4), TrainSettings(batch_size=7), CPU)
    assert several == replace(alone, step=alone.step + alone.net)


def test_the_preset_that_fits_is_the_largest_one() -> None:
    settings = TrainSettings(batch_size=2)
    fits: Callable[[str, float], Preset | None] = lambda name, gib: fitting_preset(  # noqa: E731
        REAL[name], settings, CARD, round(gib * GIB)
    )
    assert (fits("SD1.5", 11.5), fits("SD1.5", 6.5), fits("SD1.5", 4.0)) == (12, 8, None)
    assert (fits("SDXL", 15.5), fits("SDXL", 11.5)) == (16, None)


class Stopped(Exception):
    """The events up to the first step were heard."""


def heard(out: Path) -> Memory:
    """What a session tells before its first step."""
    settings = TrainSettings(steps=2, batch_size=2, device="cpu", out=out)
    events: list[Event] = []

    def listen(event: Event) -> None:
        events.append(event)
        if isinstance(event, Stepped):
            raise Stopped

    with pytest.raises(Stopped):
        Session(settings, small_base(), ShapesDataset(4, 32, seed=0), None, "a test").go(listen)
    (memory,) = (event for event in events if isinstance(event, Memory))
    assert events.index(memory) == 1
    return memory


def test_a_session_says_what_a_step_will_take(tmp_path: Path) -> None:
    memory = heard(tmp_path)
    wanted = forecast(Work(SMALL.unet, (32, 32)), TrainSettings(batch_size=2), CPU)
    assert memory.gib == wanted.gib and memory.fits and memory.precision == "float32"
    assert sum(memory.parts.values()) == pytest.approx(memory.gib)
    (line,) = event_lines(memory)
    assert line == f"a step takes {wanted.gib:.1f} GiB, in float32"
    assert event_json(memory)["event"] == "memory"


@pytest.mark.parametrize(("preset", "advice"), [(12, "memory = 12 would fit"), (None, "no preset fits")])
def test_where_a_step_does_not_fit_it_says_what_would(
    preset: Preset | None, advice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Any, ...]] = []
    large = Forecast(base=8 * GIB, net=4 * GIB, optimizer=2 * GIB, average=0, step=GIB, context=GIB // 2)
    monkeypatch.setattr(session_module, "forecast", lambda *given: large)
    monkeypatch.setattr(session_module, "free_memory", lambda device: 11 * GIB)

    def fitting(*given: object) -> Preset | None:
        asked.append(given)
        return preset

    monkeypatch.setattr(session_module, "fitting_preset", fitting)
    memory = heard(tmp_path)
    assert not memory.fits and asked[0][-1] == 11.5 * GIB, "what the device has, and its context that is there already"
    told, advised = event_lines(memory)
    parts = "base 8.0, net 4.0, optimizer 2.0, gradients and activations 1.0, CUDA 0.5"
    assert told == f"a step takes 15.5 GiB ({parts}), in float32"
    assert advised == f"the device has 11.5 GiB: {advice}"
    assert replace(memory, free=15.6).fits
