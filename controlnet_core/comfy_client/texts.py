"""Texts of others, made safe to show: a terminal would obey what is written in them."""

from __future__ import annotations

import unicodedata

from .limits import LIMITS

ORDERS = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Unicode's categories of what is no letter but an order: controls, directions, halves of characters, line ends."""
KEPT = "\n\t\u200c\u200d"
"""Those of them that belong to texts: line ends, tabs, and the joiners of some scripts and emoji."""


def visible(text: str, length: int = LIMITS.text_length) -> str:
    """A text with its control characters written out, such as `\\x1b`; of a longer one, the first characters."""
    start = text[:length]
    shown = start if start.isprintable() else "".join(map(_written_out, start))
    return shown if len(text) <= length else f"{shown}…"


def _written_out(char: str) -> str:
    if char in KEPT or unicodedata.category(char) not in ORDERS:
        return char
    return char.encode("unicode_escape").decode("ascii")
