"""The benchmark of a training step runs, and its JSON is complete."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from controlnet_core.config import TINY
from controlnet_core.model.unet import UNet

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "train_step.py"
WAYS = {"controlnet", "full_finetuning", "diffusers"}


# The benchmark compares peaks of memory, and where none is told its ratios would mean nothing.
@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not report the peak memory of a process")
def test_one_round_of_the_smallest_family() -> None:
    options = ["--family", "tiny", "--batch", "1", "--rounds", "1", "--steps", "1", "--device", "cpu", "--json"]
    done = subprocess.run([sys.executable, str(SCRIPT), *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result.keys() == {"sizes", "machine", "paper"}
    assert result["paper"] == {"time": 1.34, "memory": 1.23}
    (found,) = result["sizes"]
    assert found.keys() == {"time_ratio", "memory_ratio", "seconds", "peak_bytes", "loss", "settings"}
    for name, measured in (("time_ratio", "seconds"), ("memory_ratio", "peak_bytes")):
        assert found[measured].keys() == WAYS
        assert found[name].keys() == WAYS - {"controlnet"}
        for way, ratio in found[name].items():
            assert math.isfinite(ratio) and ratio > 0, f"{name} over {way} is {ratio}"
            expected = found[measured]["controlnet"] / found[measured][way]
            assert math.isclose(ratio, expected, rel_tol=1e-9), f"{ratio} over {way} is not {expected}"
    assert 0 <= found["loss"]["relative_difference"] <= 1e-4
    parameters = sum(parameter.numel() for parameter in UNet(TINY, device="meta").parameters())
    held = 4 * 4 * parameters  # weights, gradients and AdamW's two moments, four bytes each
    assert held < found["peak_bytes"]["full_finetuning"]
    assert found["settings"] == {
        "family": "tiny", "size": 64, "batch": 1, "steps": 1, "rounds": 1, "device": "cpu", "dtype": "float32"
    }  # fmt: skip
    assert result["machine"]["kernels"]

