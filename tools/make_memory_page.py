"""Write docs/memory.md, the page that says what a training step takes on which card.

    python tools/make_memory_page.py
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

from controlnet_core.config import FAMILIES, UNetConfig
from controlnet_core.training.forecast import Work, counted
from controlnet_core.training.memory import PRESETS, SD, SDXL, MemoryChoices, Preset, preset_choices
from controlnet_core.training.settings import TrainSettings

PAGE = Path(__file__).resolve().parent.parent / "docs" / "memory.md"
BASES = (("SD1.5", 512), ("SD2.1", 768), ("SDXL", 1024))
HEAD = """\
# The memory of a training

`memory = 12` in a settings file chooses, for a card of 12 GB, all of the settings below that are not set themselves.
What a preset does not name has the default of [settings.md](settings.md).

Before the first step, `controlnet-core train` and the Train ControlNet node say what a step will take, by the count
that made this page: the real modules, loss and backward pass are run on tensors without numbers, and what is alive at
once is added up. 0.6 GiB for CUDA are included. Made by `tools/make_memory_page.py`.

## GiB of a step

With a batch of one pair, and, after the slash, with any batch of at least two parts, each of the most pairs that the
preset computes at once. A dash: it does not fit.

"""
CHOICES = """
## What a preset chooses

"""


def preset_gib(name: str, size: int, preset: Preset, batch_size: int) -> float:
    """What a step takes with a preset."""
    config = FAMILIES[name].unet
    return _counted(config, size, preset_choices(preset, config, batch_size), batch_size)


@cache
def _counted(config: UNetConfig, size: int, choices: MemoryChoices, batch_size: int) -> float:
    return counted(Work(config, (size, size)), choices, TrainSettings(batch_size=batch_size), "cuda").gib


def at_once(name: str, preset: Preset) -> int:
    """The most pairs that a preset computes at once."""
    return (SD if FAMILIES[name].unet.vector_dim is None else SDXL)[preset][1]


def sizes() -> Iterator[str]:
    """The table of sizes."""
    yield "| `memory` | " + " | ".join(f"{name}, {size} px" for name, size in BASES) + " |\n"
    yield "|---" * (1 + len(BASES)) + "|\n"
    for preset in PRESETS:
        cells = []
        for name, size in BASES:
            one = preset_gib(name, size, preset, 1)
            more = preset_gib(name, size, preset, 2 * at_once(name, preset))
            cells.append(f"{one:.1f} / {more:.1f}" if more <= preset - 0.5 else "-")
        yield f"| {preset} | {' | '.join(cells)} |\n"


def choices() -> Iterator[str]:
    """The table of choices."""
    yield "| `memory` | base | pairs at once | settings |\n|---|---|---|---|\n"
    for table, name in ((SD, "SD1.5, SD2.1"), (SDXL, "SDXL")):
        for preset, (recipe, most) in table.items():
            values = vars(replace(recipe, gradient_accumulation=1))
            usual = vars(MemoryChoices())
            chosen = [f"`{key} = {json.dumps(value)}`" for key, value in values.items() if value != usual[key]]
            yield f"| {preset} | {name} | {most} | {', '.join(chosen)} |\n"


def page() -> str:
    """The whole page."""
    return HEAD + "".join(sizes()) + CHOICES + "".join(choices())


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
