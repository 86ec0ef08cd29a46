"""A ComfyUI server: what can be asked of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal, TypeVar

from aiohttp import ClientSession, ClientWebSocketResponse, FormData
from pydantic import BaseModel

from . import outputs
from .answers import SHOWN_REFUSALS, Entry, History, Output, Queue, Refusal, Submitted, Uploaded, check, read_answer
from .connection import Connection
from .failures import ExecutionError, ServerError
from .limits import LIMITS, Limits
from .workflow import Workflow

State = Literal["queued", "running", "done", "unknown"]
Kind = TypeVar("Kind", bound=BaseModel)


class Server:
    """Requests to a ComfyUI server. Each raises a ServerError where it is not answered as ComfyUI does.

    Arguments:
        url: Its address, such as http://127.0.0.1:8188.
        session: What connects to it, made by `new_session`.
        client_id: The id that the server sends events to.
        limits: What it may send.
    """

    def __init__(self, url: str, session: ClientSession, client_id: str, limits: Limits = LIMITS) -> None:
        self.connection = Connection(url, session, limits)
        self.url = self.connection.url
        self.client_id = client_id
        self.limits = limits

    async def connect(self) -> ClientWebSocketResponse:
        """Open the WebSocket that events arrive on."""
        return await self.connection.socket("/ws", {"clientId": self.client_id})

    async def upload_image(self, path: Path) -> str:
        """Put an image into the server's input folder; return the name to use in a workflow."""
        form = FormData(quote_fields=False)  # ComfyUI takes names as they are
        content = path.read_bytes()
        form.add_field("image", content, filename=path.name, content_type="application/octet-stream")
        uploaded = await self._read(Uploaded, "POST", "/upload/image", form, len(content))
        return "/".join(filter(None, (uploaded.subfolder, uploaded.name)))

    async def submit(self, workflow: Workflow, prompt_id: str) -> None:
        """Queue a workflow.

        Raises:
            ExecutionError: If the server refuses it, wholly or in part.
        """
        body = {"prompt": workflow.nodes, "client_id": self.client_id, "prompt_id": prompt_id}
        status, answer = await self._post("/prompt", body)
        submitted = self._submitted(status, answer)
        if status < 400 and not submitted.node_errors:
            return
        if status < 400:
            await self.cancel(prompt_id)
        raise ExecutionError(
            found=_refusals(workflow, submitted) or f"{self.url} refused the workflow (HTTP {status})",
            expected="a workflow that the server can run",
            do="correct it, or install what it needs on the server",
        )

    async def state(self, prompt_id: str) -> tuple[State, Entry | None]:
        """How far a job is, and its entry in the history when it is done."""
        if entry := await self._entry(prompt_id):
            return "done", entry
        queue = await self._read(Queue, "GET", "/queue")
        if prompt_id in queue.running:
            return "running", None
        if prompt_id in queue.pending:
            return "queued", None
        entry = await self._entry(prompt_id)  # once more: it may have moved here from the queue between the two
        return ("done", entry) if entry else ("unknown", None)

    async def cancel(self, prompt_id: str) -> None:
        """Take a job from the queue, or interrupt it if it runs; other jobs continue."""
        await self._post("/queue", {"delete": [prompt_id]})
        await self._post("/interrupt", {"prompt_id": prompt_id})

    async def fetch(self, output: Output, folder: Path) -> Path:
        """Write a file that a workflow made into a folder, without replacing another file there."""
        return await outputs.fetch(self.connection, output, folder)

    async def _entry(self, prompt_id: str) -> Entry | None:
        path = f"/history/{prompt_id}"
        history = (await self._read(History, "GET", path)).root
        return check(Entry, history[prompt_id], f"{self.url}{path}") if prompt_id in history else None

    async def _read(
        self, kind: type[Kind], method: str, path: str, content: FormData | None = None, size: int = 0
    ) -> Kind:
        """The answer to a request that must succeed."""
        status, answer = await self.connection.ask(method, path, content, size)
        if status >= 400:
            raise self.connection.refused(path, status)
        return read_answer(kind, answer, f"{self.url}{path}", self.limits)

    async def _post(self, path: str, body: object) -> tuple[int, bytes]:
        """The status and the body of the answer to JSON."""
        content = json.dumps(body).encode()
        return await self.connection.ask("POST", path, content, len(content))

    def _submitted(self, status: int, answer: bytes) -> Submitted:
        """What the server says to a workflow; where it only refuses it, its words may be anything."""
        try:
            return read_answer(Submitted, answer, f"{self.url}/prompt", self.limits)
        except ServerError:
            if status < 400:
                raise
            return Submitted()


def _refusals(workflow: Workflow, submitted: Submitted) -> str:
    """A server's refusal as text, with the titles of the nodes."""
    lines = [
        f"{workflow.title(node_id)}: {_sentence(error)}"
        for node_id, errors in submitted.node_errors.items()
        for error in errors
    ]
    if lines:
        more = "; and more" if len(lines) > SHOWN_REFUSALS else ""
        return "; ".join(lines[:SHOWN_REFUSALS]) + more
    error, extra = submitted.error, submitted.error.extra_info
    where = f"{workflow.title(extra.node_id)}: " if extra.node_id else ""
    kind = f"no node type {extra.class_type} on this server; " if extra.class_type else ""
    return f"{where}{kind}{_sentence(error)}" if where or kind or error.message else ""


def _sentence(error: Refusal) -> str:
    return (error.message or "error") + (f" ({error.details})" if error.details else "")
