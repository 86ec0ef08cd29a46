"""Writes settings as TOML, which the standard library only reads."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any


def toml_text(values: Mapping[str, Any]) -> str:
    """Write nested tables of numbers, booleans, strings and lists; None is left out."""
    return "\n".join(_lines(values, "")) + "\n"


def _lines(values: Mapping[str, Any], table: str) -> Iterator[str]:
    """A table's own values, then the tables in it."""
    inner = {name: value for name, value in values.items() if isinstance(value, Mapping)}
    for name, value in values.items():
        if name not in inner and value is not None:
            yield f"{name} = {_toml(value)}"
    for name, value in inner.items():
        yield f"\n[{table}{name}]"
        yield from _lines(value, f"{table}{name}.")


def _toml(value: object) -> str:
    """One value. A JSON string is a TOML string, except that TOML needs the character 127 escaped."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")
