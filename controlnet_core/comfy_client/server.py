"""A ComfyUI server over HTTP."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import ClientConnectionError, ClientError, ClientSession, ClientTimeout, ClientWebSocketResponse, FormData

from ..errors import UNREADABLE, ControlNetCoreError
from ..whole_file import write_whole
from .workflow import Workflow

ANSWER_SECONDS = 60.0
"""How long one request may take; how long a workflow takes does not matter."""
CONNECT_SECONDS = 10.0


class ServerError(ControlNetCoreError):
    """A server that cannot be reached, does not answer, or refuses what it was asked."""


class ExecutionError(ControlNetCoreError):
    """A workflow that the server refuses or that failed while it ran."""


@dataclass(frozen=True)
class Output:
    """A file that a workflow made.

    Attributes:
        node_id: The node that made it.
        filename: Its name on the server.
        subfolder: Where it is, below the folder of its kind.
        kind: "output" or "temp".
    """

    node_id: str
    filename: str
    subfolder: str
    kind: str


class Server:
    """Requests to a ComfyUI server.

    Arguments:
        url: Its address, such as http://127.0.0.1:8188.
        session: What connects to it.
        client_id: The id that the server sends events to.
    """

    def __init__(self, url: str, session: ClientSession, client_id: str) -> None:
        self.url = url.rstrip("/")
        self.session = session
        self.client_id = client_id

    async def connect(self) -> ClientWebSocketResponse:
        """Open the WebSocket that events arrive on."""
        address = f"{self.url}/ws"
        try:
            return await self.session.ws_connect(
                address, params={"clientId": self.client_id}, heartbeat=20, max_msg_size=0
            )
        except (ClientError, TimeoutError, OSError, ValueError) as error:
            raise self._unreachable(error) from error

    async def upload_image(self, path: Path) -> str:
        """Put an image into the server's input folder; return the name to use in a workflow."""
        form = FormData(quote_fields=False)  # ComfyUI takes names as they are
        form.add_field("image", path.read_bytes(), filename=path.name, content_type="application/octet-stream")
        answer = await self._request("POST", "/upload/image", data=form)
        return "/".join(filter(None, (answer.get("subfolder"), answer["name"])))

    async def submit(self, workflow: Workflow, prompt_id: str) -> None:
        """Queue a workflow.

        Raises:
            ExecutionError: If the server refuses it, wholly or in part.
        """
        body = {"prompt": workflow.nodes, "client_id": self.client_id, "prompt_id": prompt_id}
        status, answer = await self._raw("POST", "/prompt", body=body)
        errors = answer.get("node_errors") or {}
        if status < 400 and not errors:
            return
        if status < 400:
            await self.cancel(prompt_id)
        raise ExecutionError(
            found=_refusals(workflow, answer) or f"{self.url} refused the workflow (HTTP {status})",
            expected="a workflow that the server can run",
            do="correct it, or install what it needs on the server",
        )

    async def state(self, prompt_id: str) -> tuple[str, dict[str, Any]]:
        """How far a job is: "queued", "running", "done" or "unknown", and its entry in the history when it is done."""
        queue = await self._request("GET", "/queue")
        history = await self._request("GET", f"/history/{prompt_id}")  # after the queue: jobs move from there to here
        if prompt_id in history:
            return "done", history[prompt_id]
        for name, key in (("running", "queue_running"), ("queued", "queue_pending")):
            if any(item[1] == prompt_id for item in queue.get(key, ())):
                return name, {}
        return "unknown", {}

    async def cancel(self, prompt_id: str) -> None:
        """Take a job from the queue, or interrupt it if it runs; other jobs continue."""
        await self._raw("POST", "/queue", body={"delete": [prompt_id]})
        await self._raw("POST", "/interrupt", body={"prompt_id": prompt_id})

    async def fetch(self, output: Output, folder: Path) -> Path:
        """Write a file that a workflow made into a folder, without replacing another file there."""
        params = {"filename": output.filename, "subfolder": output.subfolder, "type": output.kind}
        try:
            async with self.session.get(f"{self.url}/view", params=params) as response:
                response.raise_for_status()
                content = await response.read()
        except (ClientError, TimeoutError) as error:
            raise ServerError(
                f"that {output.filename} cannot be fetched ({_reason(error)})", "the file", "look for it on the server"
            ) from error
        return write_new(folder / Path(output.filename.replace("\\", "/")).name, content)

    async def _request(self, method: str, path: str, data: FormData | None = None) -> dict[str, Any]:
        """The answer to a request that must succeed."""
        status, answer = await self._raw(method, path, data=data)
        if status >= 400:
            raise ServerError(
                f"{self.url}{path} answered HTTP {status}", "a ComfyUI server", "check the address and the server's log"
            )
        return answer

    async def _raw(
        self, method: str, path: str, *, body: object = None, data: FormData | None = None
    ) -> tuple[int, dict[str, Any]]:
        """The status and JSON of an answer; what is not a JSON object becomes an empty one."""
        try:
            async with self.session.request(method, f"{self.url}{path}", json=body, data=data) as response:
                text = await response.text()
                status = response.status
        except (ClientError, TimeoutError, OSError, ValueError) as error:
            raise self._unreachable(error) from error
        try:
            answer = json.loads(text) if text else {}
        except UNREADABLE:
            answer = {}
        return status, answer if isinstance(answer, dict) else {}

    def _unreachable(self, error: Exception) -> ServerError:
        if isinstance(error, TimeoutError):
            found = f"that {self.url} did not answer in {ANSWER_SECONDS:.0f} s"
            return ServerError(found, "a ComfyUI server that answers", "see whether it is busy or stuck, and try again")
        kind = "no server at" if isinstance(error, ClientConnectionError) else "no ComfyUI server at"
        found = f"{kind} {self.url} ({_reason(error)})"
        return ServerError(found, "a running ComfyUI server", "start it, or give its address with --server")


def new_session() -> ClientSession:
    """A session with the time limits of this module."""
    return ClientSession(timeout=ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=ANSWER_SECONDS))


def outputs_of(entry: Mapping[str, Any]) -> list[Output]:
    """The files of a finished job: those it saved, or its previews if it saved none."""
    found = [
        Output(node_id, item["filename"], item.get("subfolder", ""), item.get("type", "output"))
        for node_id, kinds in entry.get("outputs", {}).items()
        for items in kinds.values()
        if isinstance(items, list)
        for item in items
        if isinstance(item, dict) and isinstance(item.get("filename"), str)
    ]
    return [output for output in found if output.kind == "output"] or found


def write_new(path: Path, content: bytes) -> Path:
    """Write a file under its name, with a number added if there is another file of that name."""
    candidate, number = path, 0
    while candidate.exists() and candidate.read_bytes() != content:
        number += 1
        candidate = path.with_stem(f"{path.stem}_{number}")
    write_whole(candidate, content)
    return candidate


def _refusals(workflow: Workflow, answer: Mapping[str, Any]) -> str:
    """A server's refusal as text, with the titles of the nodes."""
    lines = [
        f"{workflow.title(node_id)}: {error.get('message', 'error')}{_detail(error)}"
        for node_id, node in (answer.get("node_errors") or {}).items()
        for error in node.get("errors", ())
    ]
    if lines:
        return "; ".join(lines)
    error = answer.get("error")
    if isinstance(error, dict):
        extra = error.get("extra_info") or {}
        where = f"{workflow.title(str(extra['node_id']))}: " if "node_id" in extra else ""
        kind = f"no node type {extra['class_type']} on this server; " if "class_type" in extra else ""
        return f"{where}{kind}{error.get('message', 'error')}{_detail(error)}"
    return str(error or "")


def _detail(error: Mapping[str, Any]) -> str:
    return f" ({error['details']})" if error.get("details") else ""


def _reason(error: BaseException) -> str:
    """An error's message, or its type if it has none."""
    return str(error) or type(error).__name__
