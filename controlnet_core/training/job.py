"""What a settings file says: how to train, on which base and on which data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..errors import SettingError
from .settings import Count, TrainSettings, read_toml, setting_error

Size = Annotated[int, Field(ge=16, multiple_of=8)]


class BaseSettings(BaseModel):
    """The base to train on.

    Attributes:
        path: A safetensors file in the LDM layout or a diffusers folder; "tiny" is the small base of this package.
        tokenizer: A folder with CLIP's vocab.json and merges.txt; None looks where `load_base` does.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str = "tiny"
    tokenizer: Path | None = None


class ShapesData(BaseModel):
    """Pairs from the shapes generator.

    Attributes:
        kind: "shapes".
        count: Number of pairs.
        size: Side of the pictures in pixels; None is the base's own.
        seed: Names one endless row of scenes.
        hint: "outline" or "colour_map".
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["shapes"] = "shapes"
    count: Count = 2000
    size: Size | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    hint: Literal["outline", "colour_map"] = "outline"


class FolderData(BaseModel):
    """Pairs from a folder of pictures.

    Attributes:
        kind: "folder".
        path: The folder.
        size: Side of the pictures in pixels; None is the base's own.
        hint: "files" reads the hints from the folder; "canny", "blur" and "grey" make them of the pictures.
        canny: The lower and the upper threshold of "canny", as `canny_hint` takes them.
        blur: The standard deviation of "blur" in pixels at the side of training.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["folder"] = "folder"
    path: Path
    size: Size | None = None
    hint: Literal["files", "canny", "blur", "grey"] = "files"
    canny: tuple[float, float] = (0.1, 0.2)
    blur: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 8.0


DataSettings = TypeVar("DataSettings", bound=BaseModel)


class TrainJob(TrainSettings, Generic[DataSettings]):
    """A whole settings file: the training settings, and the tables `[base]` and `[data]` beside them.

    Attributes:
        base: The base to train on.
        data: The pairs to learn from.
    """

    base: BaseSettings = BaseSettings()
    data: DataSettings

    def settings(self) -> TrainSettings:
        """The training settings alone, which name a run together with the content of base and data."""
        return TrainSettings(**{name: getattr(self, name) for name in TrainSettings.model_fields})


AnyJob = TrainJob[ShapesData] | TrainJob[FolderData]
JOBS: Mapping[str, type[AnyJob]] = MappingProxyType({"shapes": TrainJob[ShapesData], "folder": TrainJob[FolderData]})


def read_job(path: Path, changes: Mapping[str, Any] = MappingProxyType({})) -> AnyJob:
    """Read a settings file.

    Arguments:
        path: The TOML file.
        changes: Settings that take the place of the file's, by dotted names such as "evaluation.every".

    Raises:
        SettingError: If the file is missing or no TOML, a name is unknown, or a value is missing or impossible.
    """
    values = read_toml(path)
    for name, value in changes.items():
        values = changed(values, name, value)
    return checked_job(values, f"{path} (with {', '.join(changes)} changed)" if changes else str(path))


def checked_job(values: Mapping[str, Any], source: str) -> AnyJob:
    """Make a job of the content of a settings file.

    Arguments:
        values: The file's content.
        source: Where it comes from, for the message.

    Raises:
        SettingError: If a name is unknown, or a value is missing or impossible.
    """
    data = values.get("data")
    kind = data.get("kind") if isinstance(data, dict) else None
    if not isinstance(kind, str) or kind not in JOBS:
        raise SettingError(
            found=f"data.kind = {kind!r} in {source}" if kind is not None else f"no data.kind in {source}",
            expected=f"one of {', '.join(JOBS)}",
            do='say what to learn from: a table [data] with, for example, kind = "shapes"',
        )
    model = JOBS[kind]
    try:
        return model(**values)
    except ValidationError as error:
        raise _missing(error, source) or setting_error(error, model, source) from error


def changed(values: Mapping[str, Any], name: str, value: object) -> dict[str, Any]:
    """A copy of nested tables with one value replaced or added.

    Arguments:
        values: The tables.
        name: Where, with a dot between the names of table and setting.
        value: What to put there.

    Raises:
        SettingError: If the name leads through something that is no table.
    """
    head, _, rest = name.partition(".")
    if not rest:
        return {**values, head: value}
    inner = values.get(head, {})
    if not isinstance(inner, dict):
        raise SettingError(f"{head} = {inner!r}", f"a table [{head}], to set {name} in", f"correct {head} or {name}")
    return {**values, head: changed(inner, rest, value)}


def _missing(error: ValidationError, source: str) -> SettingError | None:
    """Name a required setting that is not there, if that is what is wrong first."""
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"])
    if first["type"] != "missing":
        return None
    return SettingError(f"no {name} in {source}", "a value for it", f"set {name}")
