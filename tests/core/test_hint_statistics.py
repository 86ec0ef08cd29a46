"""Hints that show nothing, or are of another kind than the net's, are told; good ones never."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from controlnet_core.control.notes import ControlWarning
from controlnet_core.control.stack import Control, ControlStack
from controlnet_core.hint_statistics import HintStatistics, expected_hints, hint_notes
from controlnet_core.model.controlnet import ControlNet
from controlnet_core.pictures.read import load_image
from controlnet_core.schedule import NoiseSchedule
from controlnet_core.toy.shapes_dataset import ShapesDataset
from controlnet_core.weights.load import load_controlnet
from controlnet_core.weights.load_base import TINY_FOLDER
from controlnet_core.weights.save import save_controlnet
from tests.support.bases import SMALL
from tests.support.reduced import randomised

PAIRS = ShapesDataset(64, 64, seed=3, held_out=True)
OUTLINES = PAIRS.hints(range(64))
COLOURS = ShapesDataset(64, 64, seed=3, held_out=True, hint="colour_map").hints(range(64))
PICTURES = PAIRS.images(range(64))
TRAINED = HintStatistics.of(ShapesDataset(32, 64, seed=0).hints(range(32)))
BY_NAME = expected_hints({}, "control_v11p_sd15_canny.pth")


def told(hints: Tensor, expected: HintStatistics | None) -> str:
    return "; ".join(hint_notes(hints, expected))


@pytest.mark.parametrize("expected", [TRAINED, BY_NAME], ids=["trained", "by name"])
def test_what_is_given_to_a_net_of_outlines(expected: HintStatistics) -> None:
    for row in range(64):
        assert told(OUTLINES[[row]], expected) == ""
        assert "looks inverted" in told(1 - OUTLINES[[row]], expected)
        on_black = HintStatistics.of(PICTURES[[row]]).dark > 0.5
        assert on_black or told(PICTURES[[row]], expected), "a picture in place of its outline"
    assert told(OUTLINES, expected) == "" and "looks inverted" in told(1 - OUTLINES, expected)


def test_a_net_of_another_kind_is_content_with_its_own() -> None:
    expected = HintStatistics.of(COLOURS[:32])
    assert told(COLOURS[32:], expected) == ""
    assert "another kind" in told(OUTLINES, expected)


@pytest.mark.parametrize("expected", [TRAINED, None])
@pytest.mark.parametrize(
    ("hint", "shade"),
    [(torch.zeros(64, 64), "black"), (torch.ones(64, 64), "white"), (torch.full((64, 64), 0.5), "grey")],
)
def test_a_hint_of_one_shade_shows_nothing(hint: Tensor, shade: str, expected: HintStatistics | None) -> None:
    hints = hint.expand(1, 3, -1, -1)
    found = told(hints, expected)
    assert found.startswith("the hint is all") and shade in found
    assert "1 of 3 hints are all" in told(torch.cat([OUTLINES[:2], hints]), expected)


def test_hints_that_are_all_the_same_are_told() -> None:
    assert told(OUTLINES[[5, 5, 5]], None) == "all 3 hints are the same picture"
    assert told(OUTLINES[[5, 5, 6]], None) == told(OUTLINES[[5]], None) == ""


def test_black_lines_on_a_transparent_ground_show_nothing(tmp_path: Path) -> None:
    lines = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    lines.paste((0, 0, 0, 255), (10, 10, 50, 14))
    lines.save(tmp_path / "lines.png")
    assert told(load_image(tmp_path / "lines.png"), None).startswith("the hint is all black")


@pytest.mark.parametrize("name", ["My_OpenPose.safetensors", "sd15-softedge.pth", "xl_canny_full", "t2i.pose"])
def test_names_of_files_that_tell_lines(name: str) -> None:
    assert expected_hints({}, name) == BY_NAME


@pytest.mark.parametrize("name", ["purpose.safetensors", "depth", "exposed", "tile", "inpaint", "shuffle", "uncanny"])
def test_names_of_files_that_tell_nothing(name: str) -> None:
    assert expected_hints({}, name) is None


@pytest.mark.parametrize("text", ["", "[]", "3", "{}", '{"dark": "x"}', 9000 * "[", '{"dark": null, "bright": 1}'])
def test_metadata_that_someone_changed_is_not_believed(text: str) -> None:
    assert expected_hints({"training.hints": text}, "a.safetensors") is None


def test_a_net_knows_its_hints_by_file_and_says_so_when_applied(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    save_controlnet(randomised(ControlNet(SMALL.unet)), path, metadata={"training.hints": TRAINED.text})
    net = load_controlnet(path)
    assert net.hint_statistics is not None and abs(net.hint_statistics.dark - TRAINED.dark) < 1e-4
    sigmas = torch.tensor([2.0, 0.0])
    for hint, words in ((OUTLINES[0], None), (1 - OUTLINES[0], "control 1: the hint looks inverted")):
        schedule, shape = NoiseSchedule.scaled_linear(), torch.Size((1, 4, 8, 8))
        controls = [Control(net, hint)]
        if words is None:
            assert not ControlStack(controls, schedule, sigmas, shape).warnings
        else:
            with pytest.warns(ControlWarning, match=words):
                ControlStack(controls, schedule, sigmas, shape)


def test_the_nets_that_ship_know_their_hints() -> None:
    shipped = load_controlnet(TINY_FOLDER / "nets" / "tiny_outline.safetensors").hint_statistics
    assert shipped is not None and told(OUTLINES, shipped) == "" and "inverted" in told(1 - OUTLINES, shipped)
