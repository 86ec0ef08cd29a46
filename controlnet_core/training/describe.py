"""Settings explained by the descriptions of their fields: a settings file to copy, and a page that lists them all."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from .job import BaseSettings, FolderData, ShapesData
from .settings import EvaluationSettings, TrainSettings

COMMENT_COLUMN, WIDTH = 28, 80


def settings_file() -> str:
    """A settings file with every training setting at its default, and the tables [evaluation] and [base]."""
    tables = (("", TrainSettings), ("evaluation", EvaluationSettings), ("base", BaseSettings))
    return "\n".join("".join(_table(name, model)) for name, model in tables)


def data_table(model: type[ShapesData | FolderData]) -> str:
    """The table [data] of one kind, every setting at its default."""
    return "".join(_table("data", model))


def settings_page() -> str:
    """The page of the documentation that lists all settings, in Markdown."""
    tables = (
        ("At the top of the file", TrainSettings),
        ("[evaluation]", EvaluationSettings),
        ("[base]", BaseSettings),
        ('[data] with kind = "shapes"', ShapesData),
        ('[data] with kind = "folder"', FolderData),
    )
    return "\n".join(_section(title, model) for title, model in tables)


def _table(name: str, model: type[BaseModel]) -> Iterator[str]:
    """The lines of a table."""
    if name:
        yield f"[{name}]\n"
    for key, field in _plain_fields(model):
        absent = field.is_required() or field.default is None
        value = (field.examples or [""])[0] if absent else field.default
        setting = f"{'# ' if field.default is None else ''}{key} = {_value(value)}"
        yield from _commented(setting, field.description or "")


def _plain_fields(model: type[BaseModel]) -> Iterator[tuple[str, FieldInfo]]:
    """The fields that hold plain values; a nested table has a section of its own."""
    for name, field in model.model_fields.items():
        if not isinstance(field.default, BaseModel):
            yield name, field


def _commented(setting: str, description: str) -> Iterator[str]:
    """A setting, with its meaning as a comment beside it."""
    column = max(COMMENT_COLUMN, len(setting) + 1)
    first, *rest = textwrap.wrap(_plain(description), WIDTH - column - 2)
    yield f"{setting:{column}}# {first}\n"
    for line in rest:
        yield f"{'':{column}}# {line}\n"


def _plain(description: str) -> str:
    """A description as a comment: without the capital and the full stop of a sentence."""
    return (description[:1].lower() + description[1:]).removesuffix(".")


def _section(title: str, model: type[BaseModel]) -> str:
    """A heading and a table of Markdown."""
    lines = [f"## {title}", "", "| setting | default | meaning |", "|---|---|---|"]
    for name, field in _plain_fields(model):
        default = "required" if field.is_required() else "" if field.default is None else f"`{_value(field.default)}`"
        lines.append(f"| `{name}` | {default} | {field.description} |")
    return "\n".join([*lines, ""])


def _value(value: object) -> str:
    """A value in TOML."""
    if isinstance(value, Path):
        value = value.as_posix()
    return json.dumps(list(value) if isinstance(value, tuple) else value)
