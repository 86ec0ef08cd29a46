"""Settings written as TOML are the settings that are read."""

from __future__ import annotations

import tomllib
from pathlib import Path

from controlnet_core.training.job import checked_job
from controlnet_core.training.toml_text import toml_text


def test_what_is_written_is_read() -> None:
    values = {
        "steps": 3,
        "learning_rate": 1e-05,
        "answer": True,
        "text": 'a "quoted" \\ path\nwith é, 円 and \x7f',
        "list": [0.1, 0.2],
        "table": {"inner": {"deep": 1}, "after": "x"},
    }
    assert tomllib.loads(toml_text(values | {"absent": None})) == values


def test_a_job_is_written_and_read(tmp_path: Path) -> None:
    words = {"steps": 7, "evaluation": {"side": "conditional"}, "data": {"kind": "shapes", "count": 5}}
    job = checked_job(words, "here")
    values = {**job.settings.model_dump(mode="json"), "base": job.base.model_dump(mode="json")}
    again = checked_job(tomllib.loads(toml_text({**values, "data": job.data.model_dump(mode="json")})), "there")
    assert again == job
