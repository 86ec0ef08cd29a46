"""The settings of a training as a form, made of the model that settings files are checked with."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from typing import Any, get_args

from comfy_api.latest import io
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ..controlnet_core.errors import SettingError
from ..controlnet_core.training.settings import EvaluationSettings, TrainSettings, checked

IN_SIGHT = ("steps", "batch_size", "learning_rate", "seed")
GIVEN_BY_THE_GRAPH = ("device", "out", "base", "data")
IN_TOML_ALONE = ("start_from",)
"""Settings without a widget: `settings_toml` may hold them."""
EVALUATION = "evaluation"
WIDGETS = {f"{EVALUATION}_side": f"{EVALUATION}_sides"}
"""Settings whose widget has another name, which saved workflows know."""
MOST = 2**32 - 1
FINE_STEP, FINEST_STEP = 0.001, 0.000001


def setting_inputs() -> list[Any]:
    """A widget for each setting; all but the few that matter most are advanced."""
    inputs = list(_inputs(TrainSettings, ""))
    return sorted(inputs, key=lambda one: IN_SIGHT.index(one.id) if one.id in IN_SIGHT else len(IN_SIGHT))


def read_settings(widgets: Mapping[str, Any], toml: str) -> TrainSettings:
    """The settings that a form asks for.

    Arguments:
        widgets: The values of the widgets.
        toml: The content of a settings file, whose settings take the place of the widgets'; base, data, device and
            folder are the graph's and are passed over.

    Raises:
        SettingError: If it is no TOML, a name is unknown or a value impossible.
    """
    names = {name: f"{EVALUATION}_{name}" for name in EvaluationSettings.model_fields}
    evaluation = {name: widgets[WIDGETS.get(widget, widget)] for name, widget in names.items()}
    plain = {name: value for name, value in widgets.items() if not name.startswith(f"{EVALUATION}_")}
    try:
        written = tomllib.loads(toml)
    except tomllib.TOMLDecodeError as error:
        raise SettingError(f"settings_toml: {error}", "settings in TOML", "correct them, or leave it empty") from error
    written = {name: value for name, value in written.items() if name not in GIVEN_BY_THE_GRAPH}
    section = written.pop(EVALUATION, {})
    if not isinstance(section, dict):
        raise SettingError(f"evaluation = {section!r} in settings_toml", "a table [evaluation]", "correct it")
    return checked({**plain, **written, EVALUATION: {**evaluation, **section}}, "the form and settings_toml")


def _inputs(model: type[BaseModel], prefix: str) -> Iterator[Any]:
    """Widgets for the fields of a model."""
    for name, field in model.model_fields.items():
        if name == EVALUATION:
            yield from _inputs(EvaluationSettings, f"{EVALUATION}_")
        elif name not in (*GIVEN_BY_THE_GRAPH, *IN_TOML_ALONE):
            yield _input(WIDGETS.get(prefix + name, prefix + name), field)


def _input(name: str, field: FieldInfo) -> io.Input:
    """The widget for one field."""
    common = {"default": field.default, "tooltip": field.description, "advanced": name not in IN_SIGHT}
    choices = get_args(field.annotation)
    if choices:
        return io.Combo.Input(name, options=list(choices), **common)
    words = ("ge", "gt", "le", "lt")
    limits = {word: getattr(limit, word) for limit in field.metadata for word in words if hasattr(limit, word)}
    low, high = limits.get("ge", limits.get("gt", 0)), limits.get("le", limits.get("lt", MOST))
    if field.annotation is int:
        # The editor would give a new seed to every run, and a run goes on only where its seed stays.
        return io.Int.Input(name, min=low, max=min(high, MOST), control_after_generate=False, **common)
    step = FINEST_STEP if name == "learning_rate" else FINE_STEP
    return io.Float.Input(name, min=float(low), max=float(high), step=step, round=False, **common)
