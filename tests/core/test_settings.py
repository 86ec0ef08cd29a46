"""Settings are checked by name and value."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from controlnet_core.config import SD15, SDXL, UNetConfig
from controlnet_core.errors import SettingError
from controlnet_core.training.memory import MemoryChoices, Preset, preset_choices
from controlnet_core.training.settings import TrainSettings, checked, read_toml


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"learning_rat": 1e-4}, "did you mean 'learning_rate'"),
        ({"evaluation": {"evry": 5}}, "did you mean 'evaluation.every'"),
        ({"every": 3}, "did you mean 'evaluation.every'"),
        ({"steps": 0}, "steps = 0"),
        ({"prompt_drop": 1.5}, "prompt_drop = 1.5"),
        ({"learning_rate": float("nan")}, "learning_rate = nan"),
        ({"hint_encoder": "papre"}, "'reference' or 'paper'"),
        ({"steps": "many"}, "steps = 'many'"),
        ({"steps": 10**4000}, r"steps = 10{79}…"),
        ({"steps": 10**10}, "less than or equal to 4294967295"),
        ({"warm_up_steps": 10**400}, "less than or equal to 4294967295"),
        ({"out": [[[["x" * 5000]]]]}, r"out = \[\[\[\['x{74}x…"),
        ({"memory": 10}, "memory = 10 .*expected 8, 12, 16, 24, 48 or 80"),
        ({"optimizer": "adam"}, "expected 'adamw' or 'adamw_8bit'"),
        ({"gradient_accumulation": 0}, "gradient_accumulation = 0"),
    ],
)
def test_what_is_wrong_is_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(SettingError, match=message) as caught:
        checked(values, "settings.toml")
    assert "settings.toml" in str(caught.value)


@pytest.mark.parametrize(("config", "preset", "parts"), [(SD15, 8, 3), (SD15, 12, 5), (SD15, 80, 1), (SDXL, 24, 3)])
def test_a_preset_decides_what_is_not_set(config: UNetConfig, preset: Preset, parts: int) -> None:
    device = torch.device("cpu")
    chosen = TrainSettings(batch_size=5, memory=preset).choices(config, device)
    assert chosen == preset_choices(preset, config, 5) and chosen.gradient_accumulation == parts
    own: dict[str, Any] = {"gradient_accumulation": 2, "activation_checkpointing": False, "optimizer": "adamw"}
    settings = TrainSettings(batch_size=5, memory=preset, **own)
    assert settings.choices(config, device) == replace(chosen, **own)
    assert checked(settings.model_dump(mode="json"), "a file") == settings, "a file says what was set, and no more"
    assert TrainSettings().choices(config, device) == MemoryChoices()


@pytest.mark.parametrize(
    ("batch_size", "chosen", "parts"),
    [
        (16, {"memory": 24}, (4, 2, 1)),  # at most 4 pairs at once
        (6, {"memory": 12}, (6, 3, 1)),  # one at once, but a process with 1 pair has no 2 parts
        (8, {"gradient_accumulation": 2}, (2, 2, 2)),
        (5, {"gradient_accumulation": 4}, (4, 2, 1)),
    ],
)
def test_several_processes_split_their_shares_into_as_many_parts(
    batch_size: int, chosen: dict[str, Any], parts: tuple[int, ...]
) -> None:
    settings, device = TrainSettings(batch_size=batch_size, **chosen), torch.device("cpu")
    found = [settings.choices(SD15, device, processes).gradient_accumulation for processes in (1, 2, 4)]
    assert found == list(parts)


def test_the_learning_rate_rises_and_falls() -> None:
    settings = TrainSettings(steps=10, learning_rate=0.5, warm_up_steps=3, cool_down_steps=4)
    rates = [settings.learning_rate_at(step) for step in range(10)]
    assert rates == pytest.approx([0.125, 0.25, 0.375, 0.5, 0.5, 0.5, 0.4, 0.3, 0.2, 0.1])
    assert {TrainSettings(learning_rate=0.5).learning_rate_at(step) for step in (0, 5000, 9999)} == {0.5}


def test_a_toml_file_is_read_or_its_fault_named(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    with pytest.raises(SettingError, match=r"no file .*run\.toml"):
        read_toml(file)
    file.write_text("steps = = 3")
    with pytest.raises(SettingError, match=r"run\.toml.*line 1"):
        read_toml(file)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(SettingError, match=r"run\.toml"):
        read_toml(file)
    for text in ("steps = " + 5000 * "9", "steps = " + 20_000 * "[", "steps = " + 20_000 * "{a = "):
        file.write_text(text)
        with pytest.raises(SettingError, match=r"run\.toml"):
            read_toml(file)
    file.write_text("steps = 3\n[evaluation]\nevery = 2\n")
    assert checked(read_toml(file), str(file)) == TrainSettings(steps=3, evaluation={"every": 2})
