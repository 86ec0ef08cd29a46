"""A settings file: how to train, on which base and on which data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..errors import SettingError
from .settings import Count, TrainSettings, read_toml, setting_error

Size = Annotated[int, Field(ge=16, multiple_of=8)]


class BaseSettings(BaseModel):
    """The base to train on. Each field says what it means."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str = Field(
        "tiny", description='A safetensors file, a diffusers folder, or "tiny", the small base of this package.'
    )
    tokenizer: Path | None = Field(
        None,
        description="A folder with CLIP's vocab.json and merges.txt (default: found beside the base).",
        examples=["clip"],
    )


class ShapesData(BaseModel):
    """Pairs from the shapes generator. Each field says what it means."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["shapes"] = Field("shapes", description="Pairs made by the shapes generator.")
    count: Count = Field(2000, description="Number of pairs.")
    size: Size | None = Field(
        None, description="Side of the pictures in pixels (default: the base's own).", examples=[512]
    )
    seed: int = Field(0, ge=0, lt=2**63, description="Seeds the scenes.")
    hint: Literal["outline", "colour_map"] = Field(
        "outline", description='The kind of hint: "outline" or "colour_map".'
    )


class FolderData(BaseModel):
    """Pairs from a folder of pictures. Each field says what it means."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["folder"] = Field("folder", description="Pairs from a folder of pictures.")
    path: Path = Field(
        description="A folder with images/NAME.png, hints/NAME.png and captions/NAME.txt, or with a prompt.json as in "
        "fill50k, or with a metadata.jsonl as on Hugging Face.",
        examples=["photos"],
    )
    size: Size | None = Field(
        None, description="Side of the pictures in pixels (default: the base's own).", examples=[512]
    )
    hint: Literal["files", "canny", "blur", "grey"] = Field(
        "files", description='"files" reads the hints; "canny", "blur" and "grey" make them from the pictures.'
    )
    canny: tuple[float, float] = Field((0.1, 0.2), description='The two thresholds of "canny".')
    blur: float = Field(
        8.0, gt=0, allow_inf_nan=False, description='The standard deviation of "blur", in pixels of the training size.'
    )


Data = ShapesData | FolderData


@dataclass(frozen=True)
class TrainJob:
    """What a settings file says.

    Attributes:
        settings: How to train.
        base: The base to train on, the table [base].
        data: The pairs to train on, the table [data].
    """

    settings: TrainSettings
    base: BaseSettings
    data: Data


DataTable = TypeVar("DataTable", bound=BaseModel)


class SettingsFile(TrainSettings, Generic[DataTable]):
    """The form of a settings file: the training settings, and two tables beside them."""

    base: BaseSettings = Field(BaseSettings(), description="The base to train on.")
    data: DataTable = Field(description="The pairs to train on.")


AnyFile = SettingsFile[ShapesData] | SettingsFile[FolderData]
FILES: Mapping[str, type[AnyFile]] = MappingProxyType(
    {"shapes": SettingsFile[ShapesData], "folder": SettingsFile[FolderData]}
)


def read_job(path: Path, changes: Mapping[str, Any] = MappingProxyType({})) -> TrainJob:
    """Read a settings file.

    Arguments:
        path: The TOML file.
        changes: Settings that replace the file's, by dotted names such as "evaluation.every".

    Raises:
        SettingError: If the file is missing or is not TOML, a name is unknown, or a value is missing or impossible.
    """
    values = read_toml(path)
    for name, value in changes.items():
        values = changed(values, name, value)
    return checked_job(values, f"{path} (with {', '.join(changes)} changed)" if changes else str(path))


def checked_job(values: Mapping[str, Any], source: str) -> TrainJob:
    """Make a job of the content of a settings file.

    Arguments:
        values: The file's content.
        source: Where it comes from, for the message.

    Raises:
        SettingError: If a name is unknown, or a value is missing or impossible.
    """
    data = values.get("data")
    kind = data.get("kind") if isinstance(data, dict) else None
    if not isinstance(kind, str) or kind not in FILES:
        raise SettingError(
            found=f"data.kind = {kind!r} in {source}" if kind is not None else f"no data.kind in {source}",
            expected=f"one of {', '.join(FILES)}",
            do='add a table [data] with, for example, kind = "shapes"',
        )
    model = FILES[kind]
    try:
        file = model(**values)
    except ValidationError as error:
        raise _missing(error, source) or setting_error(error, model, source) from error
    settings = TrainSettings(**{name: getattr(file, name) for name in TrainSettings.model_fields})
    return TrainJob(settings, file.base, file.data)


def changed(values: Mapping[str, Any], name: str, value: object) -> dict[str, Any]:
    """A copy of nested tables with one value replaced or added.

    Arguments:
        values: The tables.
        name: Where, with a dot between the names of table and setting.
        value: What to put there.

    Raises:
        SettingError: If the name leads through something that is not a table.
    """
    head, _, rest = name.partition(".")
    if not rest:
        return {**values, head: value}
    inner = values.get(head, {})
    if not isinstance(inner, dict):
        raise SettingError(f"{head} = {inner!r}", f"a table [{head}], to set {name} in", f"correct {head} or {name}")
    return {**values, head: changed(inner, rest, value)}


def _missing(error: ValidationError, source: str) -> SettingError | None:
    """The error for a required setting that is missing, if that is the first fault."""
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"])
    if first["type"] != "missing":
        return None
    return SettingError(f"no {name} in {source}", "a value for it", f"set {name}")
