"""The training settings as a form, made from the model that checks settings files."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any, get_args

from comfy_api.latest import io
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ..controlnet_core.errors import UNREADABLE, SettingError
from ..controlnet_core.training.memory import MemoryChoices
from ..controlnet_core.training.settings import MOST, EvaluationSettings, TrainSettings, checked

BASIC = ("steps", "batch_size", "learning_rate", "seed")
FROM_GRAPH = ("device", "out", "base", "data")
TOML_ONLY = (
    *("start_from", "hint_start", "loss_weighting", "timestep_density", "offset_noise", "pictures", "memory"),
    *(field.name for field in fields(MemoryChoices)),
    "sharded",
)
"""Settings without a widget: `settings_toml` may hold them."""
EVALUATION = "evaluation"
WIDGETS = {f"{EVALUATION}_side": f"{EVALUATION}_sides"}
"""Settings whose widget has another name, which saved workflows know."""
FINE_STEP, FINEST_STEP = 0.001, 0.000001


def setting_inputs() -> list[Any]:
    """A widget for each setting; all but the few that matter most are advanced."""
    inputs = list(_inputs(TrainSettings, ""))
    return sorted(inputs, key=lambda widget: BASIC.index(widget.id) if widget.id in BASIC else len(BASIC))


def read_settings(widgets: Mapping[str, Any], toml: str) -> TrainSettings:
    """The settings that a form asks for.

    Arguments:
        widgets: The values of the widgets.
        toml: The content of a settings file, whose settings override the widgets; base, data, device and folder are
            the graph's and are ignored.

    Raises:
        SettingError: If it is not TOML, a name is unknown or a value impossible.
    """
    names = {name: f"{EVALUATION}_{name}" for name in EvaluationSettings.model_fields if name not in TOML_ONLY}
    evaluation = {name: widgets[WIDGETS.get(widget, widget)] for name, widget in names.items()}
    plain = {name: value for name, value in widgets.items() if not name.startswith(f"{EVALUATION}_")}
    try:
        written = tomllib.loads(toml)
    except UNREADABLE as error:
        raise SettingError(f"settings_toml: {error}", "settings in TOML", "correct them, or leave it empty") from error
    written = {name: value for name, value in written.items() if name not in FROM_GRAPH}
    section = written.pop(EVALUATION, {})
    if not isinstance(section, dict):
        raise SettingError(f"evaluation = {section!r} in settings_toml", "a table [evaluation]", "correct it")
    return checked({**plain, **written, EVALUATION: {**evaluation, **section}}, "the form and settings_toml")


def _inputs(model: type[BaseModel], prefix: str) -> Iterator[Any]:
    """Widgets for the fields of a model."""
    for name, field in model.model_fields.items():
        if name == EVALUATION:
            yield from _inputs(EvaluationSettings, f"{EVALUATION}_")
        elif name not in (*FROM_GRAPH, *TOML_ONLY):
            yield _input(WIDGETS.get(prefix + name, prefix + name), field)


def _input(name: str, field: FieldInfo) -> io.Input:
    """The widget for one field."""
    common = {"default": field.default, "tooltip": field.description, "advanced": name not in BASIC}
    choices = get_args(field.annotation)
    if choices:
        return io.Combo.Input(name, options=list(choices), **common)
    kinds = ("ge", "gt", "le", "lt")
    limits = {kind: getattr(limit, kind) for limit in field.metadata for kind in kinds if hasattr(limit, kind)}
    low, high = limits.get("ge", limits.get("gt", 0)), limits.get("le", limits.get("lt", MOST))
    if field.annotation is int:
        # The editor would change the seed after each run, and a run resumes only with the same seed.
        return io.Int.Input(name, min=low, max=min(high, MOST), control_after_generate=False, **common)
    step = FINEST_STEP if name == "learning_rate" else FINE_STEP
    return io.Float.Input(name, min=float(low), max=float(high), step=step, round=False, **common)
