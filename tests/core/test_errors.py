"""Errors as a node shows them: what was found and what to do in one line, nothing lost."""

from __future__ import annotations

import pytest

from controlnet_core.errors import ControlNetCoreError

PATH = "/home/someone/" + 20 * "a folder/" + "edges.png"


@pytest.mark.parametrize(
    ("found", "do", "headline"),
    [
        ("3 weights", "give 5", "3 weights: give 5"),
        (f"no file {PATH}", "check the path", f"no file {PATH}"[:103] + "…: check the path"),
        ("two\nlines", "choose  one", "two lines: choose one"),
        (PATH, 30 * "do this and ", PATH[:11] + "…: " + (30 * "do this and ")[:105].rstrip() + "…"),
    ],
)
def test_one_line_says_what_was_found_and_what_to_do(found: str, do: str, headline: str) -> None:
    error = ControlNetCoreError(found, "something else", do)
    assert error.headline == headline and len(headline) <= 120
    whole = headline == f"{found}: {do}"
    assert error.details == (
        "Expected: something else." if whole else f"Found: {found}. Expected: something else. What to do: {do}."
    )
