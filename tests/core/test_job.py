"""Settings files: every fault is named, the documented file holds every setting with its default."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from controlnet_core.errors import SettingError
from controlnet_core.training.describe import data_table, settings_file, settings_page
from controlnet_core.training.job import BaseSettings, FolderData, ShapesData, changed, checked_job, read_job
from controlnet_core.training.settings import EvaluationSettings, TrainSettings

ROOT = Path(__file__).resolve().parents[2]
SHAPES = {"kind": "shapes"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "no data.kind in run.toml"),
        ({"data": {"path": "photos"}}, "no data.kind in run.toml"),
        ({"data": {"kind": "foldre"}}, "'foldre' in run.toml; expected one of shapes, folder"),
        ({"data": {"kind": "folder"}}, "no data.path in run.toml"),
        ({"data": {**SHAPES, "cuont": 3}}, "did you mean 'data.count'"),
        ({"data": {**SHAPES, "path": "photos"}}, "unknown setting 'data.path'"),
        ({"data": {**SHAPES, "size": 20}}, "data.size = 20 in run.toml"),
        ({"data": SHAPES, "base": {"pth": "x"}}, "did you mean 'base.path'"),
        ({"data": SHAPES, "learning_rat": 1}, "did you mean 'learning_rate'"),
        ({"data": SHAPES, "evaluation": {"evry": 1}}, "did you mean 'evaluation.every'"),
        ({"data": SHAPES, "steps": 0}, "steps = 0 in run.toml"),
    ],
)
def test_what_is_wrong_is_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        checked_job(values, "run.toml")


def test_the_documented_file_holds_every_setting_with_its_default() -> None:
    plain = checked_job({"data": SHAPES}, "test")
    text = f"{settings_file()}\n{data_table(ShapesData)}"
    assert checked_job(tomllib.loads(text), "help") == plain
    named = set(re.findall(r"^(?:# )?(\w+) =", text, flags=re.MULTILINE))
    tables = (TrainSettings, EvaluationSettings, BaseSettings, ShapesData)
    assert named == {name for model in tables for name in model.model_fields} - {"evaluation"}
    folder = checked_job(tomllib.loads(data_table(FolderData)), "help")
    assert folder.data == FolderData(path=Path("photos"))
    assert max(map(len, f"{text}\n{data_table(FolderData)}".splitlines())) <= 80


def test_the_pages_that_describe_settings_are_made_of_their_fields() -> None:
    page = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    assert page.endswith(settings_page()), "run tools/make_settings_page.py"


def test_a_job_holds_the_training_settings() -> None:
    job = checked_job({"data": SHAPES, "seed": 3, "evaluation": {"every": 7}}, "test")
    assert job.settings == TrainSettings(seed=3, evaluation={"every": 7})


def test_changes_take_the_place_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('steps = 9\n[data]\nkind = "shapes"\ncount = 5\n')
    job = read_job(file, {"steps": 3, "data.seed": 2, "evaluation.hints": 4})
    assert (job.settings.steps, job.settings.evaluation.hints, job.data) == (3, 4, ShapesData(count=5, seed=2))
    with pytest.raises(SettingError, match=r"steps = 0 in .*run\.toml \(with steps changed\)"):
        read_job(file, {"steps": 0})
    with pytest.raises(SettingError, match=r"steps = 9; expected a table \[steps\]"):
        read_job(file, {"steps.many": 1})


def test_changing_leaves_the_tables_as_they_were() -> None:
    values = {"evaluation": {"every": 1}}
    assert changed(values, "evaluation.hints", 2) == {"evaluation": {"every": 1, "hints": 2}}
    assert values == {"evaluation": {"every": 1}}
