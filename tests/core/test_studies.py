"""The studies over seeds: what they keep and read back, and the measures of photographs and recipes."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch

from controlnet_core.base import Base
from controlnet_core.data.dataset import PairDataset
from controlnet_core.model.controlnet import ControlNet
from controlnet_core.toy.shapes_dataset import ShapesDataset
from tests.support.bases import small_base
from tests.support.reduced import noise
from tests.support.scripts import benchmark

recipes, zero_convolutions, convergence = map(benchmark, ("recipes", "zero_convolutions", "convergence"))
photographs, seeded_runs = (importlib.import_module(f"benchmarks.{name}") for name in ("photographs", "seeded_runs"))


@dataclass(frozen=True)
class SmallTask:
    """Eight pairs on a random base; a net's score is how far its middle zero convolution is from zero."""

    name: str = "small"

    @property
    def base(self) -> Base:
        return small_base()

    def pairs(self) -> PairDataset:
        return ShapesDataset(8, 32, seed=0)

    def score(self, net: ControlNet | None) -> dict[str, Any]:
        assert net is not None
        size = sum(float(parameter.abs().sum()) for parameter in net.middle_zero_convolution.parameters())
        return {"following": size, "scores": [size]}

    def ceiling(self) -> float:
        return 1.0


def test_a_run_is_kept_and_read_back_and_zero_connections_start_at_zero(tmp_path: Path) -> None:
    changes = {"batch_size": 2}
    plan = seeded_runs.Plan(tmp_path, (0, 2), SmallTask())
    zero = seeded_runs.Variant("zero", changes)
    gaussian = seeded_runs.Variant("Gaussian", changes, start=zero_convolutions.start_gaussian)
    curves = {variant.name: plan.run(variant, 0) for variant in (zero, gaussian)}
    assert [found["step"] for found in curves["zero"]] == [0, 2]
    assert curves["zero"][0]["following"] == 0.0 and curves["Gaussian"][0]["following"] > 1.0
    assert curves["zero"][1]["following"] > 0.0 and curves["zero"][1]["loss"] > 0.0
    kept = plan.path(zero, 0)
    kept.write_text(kept.read_text().replace(": 2,", ": 3,"))
    assert [found["step"] for found in plan.run(zero, 0)] == [0, 3], "trained again, not read back"
    others = {plan.path(zero, 1), seeded_runs.Plan(tmp_path, (0, 3), SmallTask()).path(zero, 0), plan.path(gaussian, 0)}
    assert kept not in others and len(others) == 3


def test_steps_to_a_share_of_the_distance() -> None:
    curve = [{"step": step, "following": value} for step, value in ((0, 0.2), (10, 0.2), (20, 0.6), (30, 1.0))]
    assert recipes.steps_to(curve, 0.5, 0.2, 1.0) == pytest.approx(20)
    assert recipes.steps_to(curve, 0.25, 0.2, 1.0) == pytest.approx(15)
    assert recipes.steps_to(curve, 0.0, 0.2, 1.0) == 0
    assert recipes.steps_to(curve, 1.1, 0.2, 1.0) is None
    result = recipes.summary({"recipe": [curve, curve[:2]]}, 0.2, 1.0, {"recipe": {"start": 2.0, "step": 0.5}})
    numbers = result["recipes"]["recipe"]
    assert numbers["steps_to_0.5"] == [pytest.approx(20), None] and numbers["seconds_to_0.5"] == [12.0, None]
    assert "20 (20 to 20, 1 never)" in recipes.table(result)


def drawn(hint_scores: list[list[float]]) -> list[dict[str, Any]]:
    """A curve whose hints have these scores, at every 10th step."""
    columns = zip(*hint_scores, strict=True)
    return [{"step": 10 * row, "scores": scores, "following": fmean(scores)} for row, scores in enumerate(columns)]


def test_hints_that_jump_are_told_from_hints_that_rise_as_their_smooth_mean_does() -> None:
    jumps = [10 + 2 * hint for hint in range(16)]
    noises = noise(16, 60, seed=4).mul(0.03).tolist()
    jumping = [
        [(0.2 if index < jump else 0.9) + noises[hint][index] for index in range(60)] for hint, jump in enumerate(jumps)
    ]
    curve = drawn(jumping)
    assert convergence.own_rise(convergence.of_mean(curve), 0.95).pace == "gradual"
    found = convergence.paces(convergence.of_hints(curve), 0.95)
    assert (found["hints"], found["converged"], found["sudden"]) == (16, 16, 16)
    smooth = convergence.paces(convergence.risen_as_the_mean(curve, 0), 0.95)
    assert smooth["converged"] == 16 and smooth["sudden"] <= 2, smooth


def test_hints_that_are_not_followed_do_not_converge() -> None:
    flat = [(0.3 + 0.1 * noise(60, seed=hint)).tolist() for hint in range(16)]
    assert convergence.paces(convergence.of_hints(drawn(flat)), 0.95)["converged"] == 0


def test_edges_count_within_a_pixel_and_both_ways() -> None:
    line = torch.zeros(3, 32, 32)
    line[:, 16] = 1.0
    assert photographs.edge_f1(line, line) == 1.0
    assert photographs.edge_f1(line.roll(1, 1), line) == 1.0
    assert photographs.edge_f1(line.roll(3, 1), line) == 0.0
    assert photographs.edge_f1(torch.zeros_like(line), line) == photographs.edge_f1(line, torch.zeros_like(line)) == 0.0
    both = line.maximum(line.roll(8, 1))
    assert photographs.edge_f1(both, line) == photographs.edge_f1(line, both) == pytest.approx(2 / 3)


def test_similarity_is_1_only_for_the_same_picture() -> None:
    a, b = noise(3, 32, 32, seed=1).sigmoid(), noise(3, 32, 32, seed=2).sigmoid()
    assert photographs.similarity(a, a) == pytest.approx(1.0)
    assert photographs.similarity(a, b) < 0.3


def test_crops_are_keyed_and_held_out_ones_are_of_other_pictures() -> None:
    assert not set(photographs.TRAINING) & set(photographs.HELD_OUT)
    picture = photographs.photograph(photographs.HELD_OUT[0])
    crops = [photographs.crop(picture, 64, row, "chelsea") for row in (0, 0, 1)]
    assert crops[0].shape == (1, 3, 64, 64) and torch.equal(crops[0], crops[1])
    assert not torch.equal(crops[0], crops[2])
