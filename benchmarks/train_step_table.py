"""What the benchmark of a training step prints: the machine that it ran on, and its figures as a table."""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

MISLEADING = ("tiny", "reduced")
"""Families that are narrower than any real net."""
INSTRUCTIONS = re.compile(r"avx\w*|amx\w*|fma|f16c|asimd\w*|sve\w*|bf16|i8mm")
"""The flags of a CPU that tell how fast it multiplies."""
MEBIBYTE = 2**20


def machine(device: str) -> dict[str, Any]:
    """The machine that the benchmark ran on."""
    info = Path("/proc/cpuinfo")
    text = info.read_text(encoding="utf-8") if info.exists() else ""
    names, flags = re.findall(r"model name\s*: (.*)", text), re.findall(r"(?:flags|Features)\s*: (.*)", text)
    return {
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else None,
        "cpu": names[0] if names else platform.processor(),
        "instructions": [flag for flag in (flags[0].split() if flags else []) if INSTRUCTIONS.fullmatch(flag)],
        "kernels": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "diffusers": version("diffusers"),
    }


def table(result: Mapping[str, Any]) -> str:
    """The result as text."""
    about = result["machine"]
    lines = [
        "{cpu} ({kernels}; {flags}), {threads} threads, torch {torch}, diffusers {diffusers}".format(
            **about, flags=" ".join(about["instructions"])
        )
    ]
    if about["device"]:
        lines.append(about["device"])
    for measured in result["sizes"]:
        settings = measured["settings"]
        lines += [
            "",
            "{family} at {size}x{size}, batch {batch}, {dtype}: {rounds} rounds of {steps} steps".format(**settings),
            f"{'':16}{'seconds a step':>16}{'controlnet / it':>17}{'peak MiB':>12}{'controlnet / it':>17}",
        ]
        for way in measured["seconds"]:
            time_ratio, memory_ratio = (
                f"{measured[name][way]:.3f}" if way in measured[name] else "" for name in ("time_ratio", "memory_ratio")
            )
            seconds, peak = measured["seconds"][way], measured["peak_bytes"][way] / MEBIBYTE
            lines.append(f"{way:16}{seconds:16.4f}{time_ratio:>17}{peak:12.1f}{memory_ratio:>17}")
        if settings["family"] in MISLEADING:
            lines.append("a reduced width: the hint encoder counts for too much, these ratios are those of no real net")
    lines += ["", "the paper: {time} of full fine-tuning's time, {memory} of its memory".format(**result["paper"])]
    return "\n".join(lines)
