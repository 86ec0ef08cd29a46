"""Settings are checked by name and value."""

from __future__ import annotations

from pathlib import Path

import pytest

from controlnet_core.errors import SettingError
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
    ],
)
def test_what_is_wrong_is_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(SettingError, match=message) as caught:
        checked(values, "settings.toml")
    assert "settings.toml" in str(caught.value)


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
