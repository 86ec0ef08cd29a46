"""The benchmarks of curves and of composition: what they draw obeys the laws of guidance and of adding nets."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from controlnet_core.evaluation.validation import Evaluation
from controlnet_core.model.controlnet import ControlNet
from controlnet_core.sampling.generate import SamplingSettings
from controlnet_core.toy.scenes import is_held_out
from controlnet_core.toy.shapes_dataset import ShapesDataset
from controlnet_core.training.settings import TrainSettings
from tests.support.bases import small_base
from tests.support.reduced import randomised
from tests.support.scripts import benchmark

PAIRS = ShapesDataset(2, 32, seed=0, held_out=True)
SETTINGS = SamplingSettings(steps=2, guidance=4.0)


@pytest.fixture(scope="module")
def curves() -> ModuleType:
    return benchmark("curves")


@pytest.fixture(scope="module")
def composition() -> ModuleType:
    return benchmark("composition")


def random_net(seed: int) -> ControlNet:
    return randomised(ControlNet(small_base().unet.config), seed)


def apart(a: Evaluation, b: Evaluation) -> float:
    return (a.pictures - b.pictures).abs().max().item()


def evaluation(scores: Sequence[float], pictures: Tensor) -> Evaluation:
    following, *accuracies = scores
    names = ("colour", "background", "shape", "clarity")
    return Evaluation((following,), dict(zip(names, accuracies, strict=True)), pictures)


def test_no_prompt_and_control_on_both_sides_cancel_guidance(curves: ModuleType) -> None:
    base, net = small_base(), random_net(seed=9)

    def drawn(side: str, guidance: float) -> Evaluation:
        way = curves.Way("flat", prompted=False, side=side)
        found: Evaluation = curves.draw(base, net, PAIRS, way, replace(SETTINGS, guidance=guidance))
        return found

    unguided = drawn("both", 1.0)
    both, conditional = apart(drawn("both", 4.0), unguided), apart(drawn("conditional", 4.0), unguided)
    assert both < 1e-3 < 1e-2 < conditional, f"both sides moved by {both}, one side by {conditional}"
    assert (one_side := apart(drawn("conditional", 1.0), unguided)) == 0, f"the sides differ unguided by {one_side}"


def test_every_way_draws_something_else(curves: ModuleType) -> None:
    base, net = small_base(), random_net(seed=9)
    drawn = [curves.draw(base, net, PAIRS, way, SETTINGS) for way in curves.WAYS]
    names = [way.name for way in curves.WAYS]
    assert len(set(names)) == len(names)
    for index, (name, found) in enumerate(zip(names, drawn, strict=True)):
        nearest = min(apart(found, other) for other in drawn[:index] + drawn[index + 1 :])
        assert nearest > 1e-4, f"{name} is within {nearest} of another way"


def test_curves_are_reported_with_their_own_sides_and_scores(curves: ModuleType) -> None:
    black = torch.zeros(4, 3, 64, 64)
    scores = {way: {2.0: evaluation([0.125 * row, 0.25, 0.5, 0.75, 1.0], black)} for row, way in enumerate(curves.WAYS)}
    entries = json.loads(json.dumps(curves.summary(scores)))
    sides = {(entry["curve"], entry["prompted"]): entry["side"] for entry in entries if entry["curve"] != "flat"}
    assert sides.pop((None, True)) is None
    assert set(sides.values()) == {"conditional"}
    flat = [entry["side"] for entry in entries if entry["curve"] == "flat"]
    assert flat == ["both", "conditional", "both", "conditional"]
    assert [entry["following"] for entry in entries] == [0.125 * row for row in range(len(curves.WAYS))]
    lines = curves.table(scores).splitlines()
    assert lines[2] == f"{'cfg_resolution':36}  0.12 / 0.25 / 0.75", lines[2]
    assert len({len(line) for line in lines}) == 1


def test_a_block_shows_its_pictures_and_a_label(curves: ModuleType) -> None:
    levels = torch.tensor([0.2, 0.4, 0.6, 0.8])[:, None, None, None].expand(-1, 3, 64, 64)
    image = curves.block(levels, "0.50")
    step = 64 + curves.GAP
    shown = [image.getpixel((32 + step * index, 32))[0] / 255 for index in range(curves.SHOWN)]
    assert shown == pytest.approx([0.2, 0.4, 0.6], abs=1e-6)
    assert image.width == step * curves.SHOWN - curves.GAP
    label = image.crop((0, image.height - curves.LABEL_HEIGHT, *image.size)).convert("L")
    assert label.getextrema()[0] < 200 < label.getextrema()[1]


def test_an_untrained_net_adds_nothing_to_a_stack(composition: ModuleType) -> None:
    base = small_base()
    nets = {"outline": random_net(seed=9), "colour_map": ControlNet.from_unet(base.unet)}
    drawn = {name: composition.draw(base, stack, 2, SETTINGS) for name, stack in composition.stacks(nets).items()}
    assert list(drawn) == ["without control", "outline alone", "colour_map alone", "both"]
    assert (zero := apart(drawn["colour_map alone"], drawn["without control"])) == 0, f"zero convolutions added {zero}"
    assert (zero := apart(drawn["both"], drawn["outline alone"])) == 0, f"zero convolutions added {zero}"
    assert (moved := apart(drawn["both"], drawn["without control"])) > 1e-2, f"the outline's net moved only {moved}"


def test_stacked_nets_add_in_any_order(composition: ModuleType) -> None:
    base, first, second = small_base(), random_net(seed=9), random_net(seed=10)
    forward = composition.draw(base, {"outline": first, "colour_map": second}, 2, SETTINGS)
    backward = composition.draw(base, {"colour_map": second, "outline": first}, 2, SETTINGS)
    swapped = composition.draw(base, {"outline": second, "colour_map": first}, 2, SETTINGS)
    assert (order := apart(forward, backward)) < 1e-4, f"the order moved the drawings by {order}"
    assert (hints := apart(forward, swapped)) > 1e-3, f"nets with each other's hints moved the drawings only by {hints}"


def test_both_hints_are_of_one_held_out_scene(composition: ModuleType) -> None:
    outline, colour_map = (composition.held_out(kind, 8, 64) for kind in ("outline", "colour_map"))
    rows = range(8)
    assert is_held_out(outline.scenes(rows)).all()
    averages = functional.adaptive_avg_pool2d(outline.images(rows), 4)
    cells = functional.adaptive_avg_pool2d(colour_map.hints(rows), 4)
    difference = (averages - cells).abs().max().item()
    assert difference < 1e-5, f"the colour maps are {difference} from the averages of the outlines' pictures"


def test_true_pictures_in_place_of_drawings(composition: ModuleType) -> None:
    pairs = composition.held_out("outline", composition.SHOWN, 64)
    rows = range(composition.SHOWN)
    names = ("without control", "outline alone", "colour_map alone", "both")
    evaluations = {name: evaluation([0.9, 1.0, 1.0, 0.5, 1.0], pairs.images(rows)) for name in names}
    hints = {kind: composition.held_out(kind, composition.SHOWN, 64).hints(rows) for kind in ("outline", "colour_map")}
    image = composition.picture(evaluations, hints)
    assert 5 * composition.CELL < image.width < 6 * composition.CELL, "five columns: two hints and three drawings"
    assert composition.SHOWN * composition.CELL < image.height < (composition.SHOWN + 1) * composition.CELL
    lines = composition.table(composition.summary(evaluations)).splitlines()
    assert lines[0].split() == ["following", "colour", "background", "shape", "clarity"]
    assert lines[-1].split() == ["both", "0.900", "1.000", "1.000", "0.500", "1.000"]


def test_a_second_net_is_trained_and_read_back(composition: ModuleType, tmp_path: Path) -> None:
    pairs = ShapesDataset(3, 32, seed=0, hint="colour_map")
    settings = TrainSettings(steps=2, batch_size=2, learning_rate=1e-3, device="cpu", out=tmp_path)
    trained, again = (composition.train_net(small_base(), settings, pairs) for _ in range(2))
    tap, same = trained.middle_zero_convolution.weight, again.middle_zero_convolution.weight
    assert tap.abs().max() > 0, "the zero convolution did not move"
    assert torch.equal(tap, same), f"read back {(tap - same).abs().max().item()} apart"
