"""What a ComfyUI server may answer: everything else is an error that says where it came from, or is passed over."""

from __future__ import annotations

import json
from itertools import islice
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, RootModel, ValidationError

from ..errors import UNREADABLE
from .failures import ServerError
from .limits import LIMITS, Limits
from .texts import visible

TEXT_FRAME = 3
"""How a WebSocket frame begins that holds a text."""
SHOWN_REFUSALS = 20
"""The nodes that are named where a workflow is refused, and the errors of each."""
WORST = {"execution_error", "execution_interrupted"}
"""The messages of a finished job that matter."""


class Answer(BaseModel):
    """Something that a server says; what it says beyond the fields is passed over."""

    model_config = ConfigDict(frozen=True, strict=True)


def _text_or_nothing(value: object) -> str:
    """A text that is only shown: made visible; another value is passed over."""
    return visible(value) if isinstance(value, str) else ""


def _dict_or_nothing(value: object) -> dict[Any, Any]:
    return value if isinstance(value, dict) else {}


def _name(value: str) -> str:
    """A name that can be sent back to the server."""
    value.encode()
    if "\0" in value:
        raise ValueError
    return value


Shown = Annotated[str, BeforeValidator(_text_or_nothing)]
Name = Annotated[str, Field(max_length=4096), AfterValidator(_name)]
Count = Annotated[float, Field(ge=0, le=2**53, allow_inf_nan=False)]


class Uploaded(Answer):
    """The answer to an upload: what the server calls the file, below its input folder."""

    name: Annotated[Name, Field(min_length=1)]
    subfolder: Name | None = None


class Where(Answer):
    """The node that a refusal is about."""

    node_id: Shown = ""
    class_type: Shown = ""


class Refusal(Answer):
    """Why the server refuses a workflow or one of its nodes."""

    message: Shown = ""
    details: Shown = ""
    extra_info: Annotated[Where, BeforeValidator(_dict_or_nothing)] = Where()


def _refusal(value: object) -> object:
    return {"message": value} if isinstance(value, str) else _dict_or_nothing(value)


def _refusals(node: object) -> object:
    """The errors of one node."""
    errors = _dict_or_nothing(node).get("errors")
    return [_refusal(error) for error in errors[:SHOWN_REFUSALS]] if isinstance(errors, list) else []


def _refused_nodes(nodes: object) -> object:
    """The first nodes with errors; older servers answer with an empty list where there is none."""
    return dict(islice(nodes.items(), SHOWN_REFUSALS)) if isinstance(nodes, dict) else nodes or {}


NodeRefusals = Annotated[list[Refusal], BeforeValidator(_refusals)]


class Submitted(Answer):
    """The answer to a workflow."""

    error: Annotated[Refusal, BeforeValidator(_refusal)] = Refusal()
    node_errors: Annotated[dict[str, NodeRefusals], BeforeValidator(_refused_nodes)] = {}


def _job_id(item: object) -> object:
    """The id in [number, id, ...]."""
    if isinstance(item, list) and len(item) > 1:
        return item[1]
    raise ValueError


JobId = Annotated[str, BeforeValidator(_job_id)]


class Queue(Answer):
    """The ids of the jobs that run and that wait."""

    running: list[JobId] = Field([], alias="queue_running")
    pending: list[JobId] = Field([], alias="queue_pending")


class Output(Answer):
    """A file that a workflow made.

    Attributes:
        filename: Its name on the server.
        subfolder: Where it is, below the folder of its kind.
        kind: "output" or "temp".
    """

    filename: Name
    subfolder: Annotated[Name, BeforeValidator(lambda value: "" if value is None else value)] = ""
    kind: Annotated[Name, BeforeValidator(lambda value: "output" if value is None else value)] = Field(
        "output", alias="type"
    )


def _files(kinds: object) -> list[object]:
    """The files among what one node made; nodes also put texts and numbers there, in any form."""
    lists = [items for items in _dict_or_nothing(kinds).values() if isinstance(items, list)]
    return [item for items in lists for item in items if isinstance(_dict_or_nothing(item).get("filename"), str)]


Files = Annotated[list[Output], Field(max_length=LIMITS.files), BeforeValidator(_files)]


class Failure(Answer):
    """What ended a job early: the node where, and its words."""

    node_id: Shown = ""
    exception_message: Shown = ""


def _worst(messages: object) -> dict[str, object]:
    """The last message of each kind that matters, of [[kind, data], ...]."""
    pairs = [one for one in messages if isinstance(one, list) and one] if isinstance(messages, list) else []
    return {
        one[0]: _dict_or_nothing(one[1] if len(one) > 1 else None)
        for one in pairs
        if isinstance(one[0], str) and one[0] in WORST
    }


class Status(Answer):
    """How a job ended."""

    status_str: Shown = ""
    messages: Annotated[dict[str, Failure], BeforeValidator(_worst)] = {}


class Entry(Answer):
    """A finished job in the server's history."""

    outputs: dict[str, Files]
    status: Status | None = None


class History(RootModel[dict[str, object]]):
    """Finished jobs by their ids; only the own one is looked into."""

    model_config = ConfigDict(frozen=True, strict=True)


class Executing(Answer):
    """The node that runs now; None at the end of the job."""

    node: str | None = None


class Counted(Answer):
    """How far a node is."""

    node: str
    value: Count
    max: Count


class _Envelope(Answer):
    type: str
    data: dict[str, Any]


Event = Executing | Counted | Failure
EVENTS: dict[str, type[Executing] | type[Counted] | type[Failure]] = {
    "executing": Executing,
    "progress": Counted,
    "execution_error": Failure,
}
Kind = TypeVar("Kind", bound=BaseModel)


class _TooManyValues(ValueError):
    """JSON that would take far more memory than its text."""


def _parsed(content: str, limits: Limits) -> object:
    """JSON as values; raises one of UNREADABLE."""
    if content.count(",") + content.count("[") + content.count("{") > limits.answer_values:
        raise _TooManyValues
    return json.loads(content)


def read_answer(kind: type[Kind], content: bytes, address: str, limits: Limits) -> Kind:
    """Read an answer.

    Raises:
        ServerError: If it is anything else than that kind of answer; it names the address and the wrong part.
    """
    try:
        return check(kind, _parsed(content.decode(), limits), address)
    except _TooManyValues as error:
        raise _wrong(address, f"of more than {limits.answer_values} values") from error
    except UNREADABLE as error:
        raise _wrong(address, "which is no JSON") from error


def check(kind: type[Kind], value: object, address: str) -> Kind:
    """Read a part of an answer; raises as `read_answer` does."""
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        parts = [visible(str(part), 40) for part in error.errors(include_url=False, include_input=False)[0]["loc"]]
        wrong = f"in which {'.'.join(parts)} is missing or wrong" if parts else "which is of another kind"
        raise _wrong(address, wrong) from error


def _wrong(address: str, how: str) -> ServerError:
    return ServerError(
        found=f"an answer of {address} {how}",
        expected="what a ComfyUI server answers",
        do="check the address, and whether a proxy or another program answers there",
    )


def read_event(content: str, prompt_id: str, limits: Limits) -> Event | None:
    """Read a WebSocket message; one that is not about the job, or cannot be read, is passed over."""
    try:
        event = _Envelope.model_validate(_parsed(content, limits))
        kind = EVENTS.get(event.type)
        return kind.model_validate(event.data) if kind and event.data.get("prompt_id") == prompt_id else None
    except UNREADABLE:  # the schema's error is a ValueError as well
        return None


def read_text(frame: bytes) -> tuple[str, str] | None:
    """The node and the text in a binary WebSocket message; previews hold none."""
    if len(frame) < 8 or int.from_bytes(frame[:4], "big") != TEXT_FRAME:
        return None
    end = 8 + int.from_bytes(frame[4:8], "big")
    most = 4 * LIMITS.text_length + 4  # a character has four bytes at most; those beyond are not shown
    node, text = frame[8:end][:most], frame[end:][:most]
    return node.decode(errors="replace"), visible(text.decode(errors="replace"))
