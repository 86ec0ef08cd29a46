"""The model card of a trained net: a page beside its file that says what it is and how it was made."""

from __future__ import annotations

from typing import Any

from ..version import __version__
from .settings import TrainSettings
from .toml_text import toml_text

NAME = "model_card.md"


def model_card(title: str, family: str, settings: TrainSettings, report: dict[str, Any], file: str) -> str:
    """Write a model card, in Markdown with the header that model hubs read.

    Arguments:
        title: The headline, the same as the report's.
        family: The model family that the net is for.
        settings: The run's settings.
        report: The content of `report.json`.
        file: The name of the net's file.
    """
    chosen = settings.model_dump(mode="json", exclude={"device", "out", "start_from"})
    return f"""\
---
library_name: controlnet-core
tags:
- controlnet
---

# {title}

A ControlNet for {family}, trained for {report["steps"]:,} steps with ControlNet Core {__version__}.
{_measured(report)}

## Use it

In ComfyUI: put `{file}` into `models/controlnet`, and use Load ControlNet and Apply ControlNet, ComfyUI's own or those
of ControlNet Core. From a terminal:

```
controlnet-core generate "a prompt" --base BASE --control {file} --hint HINT.png --out picture.png
```

## How it was trained

```toml
{toml_text(chosen)}```
"""


def _measured(report: dict[str, Any]) -> str:
    """How well the net follows its hints, as a sentence."""
    following = report["following"]
    if following["caption"] is None:
        return "How well it follows its hints was not measured."
    return (
        f"Its following score on held-out hints is {following['caption']:.2f}; the best possible score is "
        f"{following['ceiling']:.2f}, and the score without control {following['without_control']:.2f}."
    )
