"""What names a run, a base and data: what has a say in the net, and nothing else. The names themselves are pinned."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import torch
from PIL import Image

from controlnet_core.config import UNetConfig
from controlnet_core.data.dataset import PairDataset
from controlnet_core.data.folder.folder_dataset import FolderDataset
from controlnet_core.data.in_memory import InMemoryDataset
from controlnet_core.data.shuffled import ShuffledHints
from controlnet_core.model.controlnet import ControlNet
from controlnet_core.toy.shapes_dataset import ShapesDataset
from controlnet_core.training import devices, identity
from controlnet_core.training.identity import BRANCH, TRUNK, WITHOUT_EFFECT, differences, run_name, trunk_of
from controlnet_core.training.settings import EvaluationSettings, TrainSettings
from controlnet_core.weights.load_base import load_base
from controlnet_core.weights.save import save_controlnet
from tests.support.bases import small_base

PAIRS = ShapesDataset(10, 32, seed=0)
PLAIN = TrainSettings(device="cpu")
PINNED = {
    "the small base": "3eb5852533e17299be84adbb0a66a240",
    "shapes": "78d5478f9f36f0d5b2b8a03e0f4f0211",
    "shuffled": "2ca76f87cd3dc1a4b76c8958cc5a1b8c",
    "folder": "ee851acb89f0901a004ca2bf342bb955",
    "in memory": "da826b1e5a5939e928d09bc1c89393a2",
    "run": "1eae0ccefd0a",
    "a run with everything changed": "67c852de05b4",
}


def name_of(settings: TrainSettings, dataset: PairDataset = PAIRS) -> str:
    return run_name(trunk_of(settings, small_base(), dataset), settings)


def test_every_setting_has_one_part() -> None:
    parts = [*TRUNK, *BRANCH, *WITHOUT_EFFECT]
    assert sorted(parts) == sorted(TrainSettings.model_fields), "a new setting needs its place in identity.py"


@pytest.mark.parametrize(
    "change",
    [
        {"checkpoint_every": 7},
        {"gradient_accumulation": 2},
        {"average_on": "cpu"},
        {"activation_checkpointing": True},
        {"evaluation": EvaluationSettings(every=1, hints=3, guidance=2.0)},
        {"sharded": True},
        {"device": "cuda:1"},
        {"out": Path("elsewhere")},
    ],
)
def test_what_changes_no_net_renames_no_run(change: dict[str, Any]) -> None:
    assert name_of(PLAIN.model_copy(update=change)) == name_of(PLAIN)


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 3},
        {"cool_down_steps": 5},
        {"batch_size": 3},
        {"learning_rate": 2e-5},
        {"warm_up_steps": 2},
        {"weight_decay": 0.0},
        {"gradient_clip": 2.0},
        {"average_decay": 0.9},
        {"prompt_drop": 0.4},
        {"hint_encoder": "paper"},
        {"hint_start": "zero"},
        {"loss_weighting": "v"},
        {"timestep_density": "cubic"},
        {"offset_noise": 0.05},
        {"seed": 1},
        {"precision": "bfloat16"},
        {"weights_dtype": "bfloat16"},
        {"optimizer": "adamw_8bit"},
        {"average_every": 2},
        {"memory": 8},
    ],
)
def test_what_changes_the_net_renames_the_run(change: dict[str, Any]) -> None:
    assert name_of(PLAIN.model_copy(update=change)) != name_of(PLAIN)


def test_a_default_that_changes_renames_no_run_that_says_what_it_does() -> None:
    before = PLAIN.model_copy(update={"hint_start": "zero", "loss_weighting": "plain"})
    assert name_of(before) == "4391e91fd9ba"


def test_the_dtype_that_the_base_computes_in_names_the_run() -> None:
    names, trunks = [], []
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        trunks.append(trunk_of(PLAIN, small_base().to(dtype=dtype), PAIRS))
        names.append(run_name(trunks[-1], PLAIN))
    assert len(set(names)) == 3 and names[0] == name_of(PLAIN)
    assert differences(trunks[1], trunks[0]) == ["compute_dtype float16 instead of float32"]
    assert differences(trunks[0], trunks[2]) == ["compute_dtype float32 instead of bfloat16"]


def test_a_run_is_named_by_what_a_preset_chooses_and_not_by_the_preset() -> None:
    names = {preset: name_of(PLAIN.model_copy(update={"memory": preset})) for preset in (8, 12, 16, 24, 48, 80)}
    assert names[16] == names[24] == names[48] == names[80] and len(set(names.values())) == 3
    chosen = {"precision": "bfloat16", "optimizer": "adamw_8bit", "average_every": 10}
    assert names[8] == name_of(PLAIN.model_copy(update=chosen))
    usual = {"precision": "float32", "optimizer": "adamw", "average_every": 1}
    assert name_of(PLAIN.model_copy(update={"memory": 8, **usual})) == name_of(PLAIN), "settings have the last word"


def test_what_is_usual_for_a_device_names_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "usual_precision", lambda device: "bfloat16")
    trunk = trunk_of(PLAIN, small_base(), PAIRS)
    assert trunk["precision"] == "bfloat16"
    assert name_of(PLAIN) == name_of(PLAIN.model_copy(update={"precision": "bfloat16"}))
    without = trunk_of(PLAIN.model_copy(update={"precision": "float32"}), small_base(), PAIRS)
    assert differences(trunk, without) == ["precision bfloat16 instead of float32"]


def test_a_setting_that_is_added_with_what_was_done_before_renames_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Later(TrainSettings):
        min_snr: float | None = None

    before = name_of(PLAIN)
    monkeypatch.setattr(identity, "TRUNK", MappingProxyType({**TRUNK, "min_snr": None}))
    assert name_of(Later(device="cpu")) == before
    assert name_of(Later(device="cpu", min_snr=5.0)) != before


def test_a_net_to_start_from_is_known_by_its_content(tmp_path: Path) -> None:
    net = ControlNet.from_unet(small_base().unet)
    first, copied = tmp_path / "first.safetensors", tmp_path / "copied.safetensors"
    save_controlnet(net, first)
    shutil.copy(first, copied)
    names = {name_of(PLAIN.model_copy(update={"start_from": path})) for path in (first, copied)}
    assert len(names) == 1 and names != {name_of(PLAIN)}


def test_a_field_that_a_config_gains_renames_no_base(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass(frozen=True)
    class Later(UNetConfig):
        gain: float = field(default=1.0)

    from controlnet_core.weights import load_base as loading

    base = load_base("tiny")
    modules = (base.unet, base.autoencoder, *base.text_encoders)
    later = replace(base.family, unet=Later(**vars(base.family.unet)))
    assert loading._fingerprint(later, base.schedule, modules) == base.fingerprint
    other = replace(base.family, prediction="v")
    assert loading._fingerprint(other, base.schedule, modules) != base.fingerprint


def photographs(folder: Path) -> Path:
    """Two pairs of grey pictures, which are the same bytes on every machine."""
    for place in ("images", "hints"):
        (folder / place).mkdir(parents=True)
        for number, shade in enumerate((40, 200)):
            Image.new("L", (64, 64), shade).save(folder / place / f"{number}.bmp")
    return folder


def test_data_is_known_by_its_content(tmp_path: Path) -> None:
    folder = photographs(tmp_path / "data")
    index = tmp_path / "index.sqlite"
    with pytest.warns(UserWarning, match="no caption"):
        first = FolderDataset(folder, 64, index=index).fingerprint
    os.utime(folder / "images" / "0.bmp", ns=(0, 1))
    copied = shutil.copytree(folder, tmp_path / "copied")
    with pytest.warns(UserWarning, match="no caption"):
        assert FolderDataset(folder, 64, index=index).fingerprint == first, "a file was touched"
        assert FolderDataset(copied, 64, index=index).fingerprint == first, "the folder was copied"
        Image.new("L", (64, 64), 41).save(folder / "images" / "0.bmp")
        assert FolderDataset(folder, 64, index=index).fingerprint != first, "a picture was changed"


def test_the_names_are_those_of_this_format(tmp_path: Path) -> None:
    """They name runs and caches that people have: a change here needs a new format number."""
    pixels = torch.arange(2 * 3 * 8 * 8).reshape(2, 3, 8, 8) / 512
    with pytest.warns(UserWarning, match="no caption"):
        folder = FolderDataset(photographs(tmp_path), 64).fingerprint
    found = {
        "the small base": load_base("tiny").fingerprint,
        "shapes": PAIRS.fingerprint,
        "shuffled": ShuffledHints(PAIRS, seed=0).fingerprint,
        "folder": folder,
        "in memory": InMemoryDataset(pixels, pixels, "a").fingerprint,
        "run": name_of(PLAIN),
        "a run with everything changed": name_of(
            TrainSettings(steps=9, batch_size=2, learning_rate=1e-3, warm_up_steps=1, cool_down_steps=2, seed=4)
        ),
    }
    assert found == PINNED
