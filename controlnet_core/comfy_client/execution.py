"""One workflow on a server, from its submission to its end."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import ClientWebSocketResponse, WSMessage, WSMsgType

from .server import ExecutionError, Server, ServerError
from .workflow import Workflow

QUIET_SECONDS = 5.0
"""After this long without an event the server is asked for the state of the job: events can be missed."""
RECONNECT_SECONDS = 60.0
"""How long a server may be unreachable before the job is given up."""
RETRY_SECONDS = 1.0
TEXT_FRAME = 3
CLOSING = (WSMsgType.CLOSE, WSMsgType.CLOSED, WSMsgType.CLOSING, WSMsgType.ERROR)


class JobLostError(ServerError):
    """A job that the server no longer knows."""


@dataclass(frozen=True)
class Progress:
    """A node that runs.

    Attributes:
        node: Its title and id.
        done: Steps done.
        total: Steps in all; 0 if the node does not count them.
    """

    node: str
    done: int = 0
    total: int = 0


@dataclass(frozen=True)
class NodeText:
    """A text that a node shows, such as a warning.

    Attributes:
        node: Its title and id.
        text: The text.
    """

    node: str
    text: str


@dataclass(frozen=True)
class Waiting:
    """The job is not running.

    Attributes:
        reason: Why not.
    """

    reason: str


Report = Progress | NodeText | Waiting


@dataclass
class Job:
    """A workflow that was queued on a server.

    Arguments:
        server: The server.
        workflow: What to run.

    Attributes:
        prompt_id: Its id on the server.
        entry: Its entry in the server's history, when it is done.
    """

    server: Server
    workflow: Workflow
    prompt_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    entry: Mapping[str, Any] = field(default_factory=dict)
    _submitted: bool = False
    _failure: Mapping[str, Any] = field(default_factory=dict)

    async def run(self) -> AsyncIterator[Report]:
        """Queue the workflow and report until it is done; a lost connection is opened again.

        Raises:
            ServerError: If the server cannot be reached, stays unreachable, or forgets the job.
            ExecutionError: If it refuses the workflow, or a node fails.
        """
        socket = await self.server.connect()
        try:
            await self.server.submit(self.workflow, self.prompt_id)
            self._submitted = True
            while not self.entry:
                async for report in self._reports(socket):
                    yield report
                if not self.entry:
                    await socket.close()
                    yield Waiting(f"the connection to {self.server.url} was lost, trying again")
                    socket = await self._reconnect()
            self._raise_failure()
        finally:
            await socket.close()

    async def cancel(self) -> None:
        """Stop the job on the server; a job that was never queued needs nothing."""
        if self._submitted and not self.entry:
            await self.server.cancel(self.prompt_id)

    async def _reports(self, socket: ClientWebSocketResponse) -> AsyncIterator[Report]:
        """What the server says until the job is done or the socket closed."""
        while not socket.closed:
            try:
                message = await socket.receive(timeout=QUIET_SECONDS)
            except TimeoutError:
                if waiting := await self._try_poll():
                    yield waiting
                if self.entry:
                    return
                continue
            if message.type in CLOSING:
                return
            report, ended = self._read(message)
            if report is not None:
                yield report
            if ended:
                await self._poll()
            if self.entry:
                return

    def _read(self, message: WSMessage) -> tuple[Report | None, bool]:
        """One message: its report, if any, and whether the job ended."""
        if message.type == WSMsgType.BINARY:
            return self._text(message.data), False
        if message.type != WSMsgType.TEXT:
            return None, False
        event = json.loads(message.data)
        data = event.get("data", {})
        if data.get("prompt_id") != self.prompt_id:
            return None, False
        match event["type"]:
            case "execution_error":
                self._failure = data
            case "executing":
                node = data.get("node")
                return (None, True) if node is None else (Progress(self.workflow.title(node)), False)
            case "progress":
                return Progress(self.workflow.title(data["node"]), int(data["value"]), int(data["max"])), False
        return None, False

    def _text(self, frame: bytes) -> NodeText | None:
        """The text in a binary frame; previews hold none."""
        if int.from_bytes(frame[:4], "big") != TEXT_FRAME:
            return None
        end = 8 + int.from_bytes(frame[4:8], "big")
        return NodeText(self.workflow.title(frame[8:end].decode()), frame[end:].decode())

    async def _poll(self) -> Waiting | None:
        """Ask the server for the state of the job, in case an event was missed."""
        state, entry = await self.server.state(self.prompt_id)
        if state == "done":
            self.entry = entry
        if state == "unknown":
            raise JobLostError(
                found=f"that {self.server.url} no longer knows the job {self.prompt_id}",
                expected="a server that runs until the job is done",
                do="look into the server's log, as it may have been restarted, and queue the workflow again",
            )
        return Waiting("waiting for other workflows") if state == "queued" else None

    async def _try_poll(self) -> Waiting | None:
        """Poll, and keep waiting if the server is too busy to answer: if it is gone, the socket closes."""
        try:
            return await self._poll()
        except JobLostError:
            raise
        except ServerError:
            return Waiting(f"{self.server.url} is busy")

    async def _reconnect(self) -> ClientWebSocketResponse:
        """Open the socket again, trying for RECONNECT_SECONDS, and check that the server still knows the job."""
        deadline = time.monotonic() + RECONNECT_SECONDS
        while True:
            try:
                socket = await self.server.connect()
                await self._poll()
                return socket
            except JobLostError:
                raise
            except ServerError:
                if time.monotonic() > deadline:
                    raise
            await asyncio.sleep(RETRY_SECONDS)

    def _raise_failure(self) -> None:
        """Raise what the history says went wrong."""
        messages = dict(self.entry.get("status", {}).get("messages", ()))
        failed = self._failure or messages.get("execution_error")
        if failed is not None:
            raise ExecutionError(
                found=f"{self.workflow.title(failed['node_id'])} failed: {failed['exception_message'].strip()}",
                expected="a workflow that runs to its end",
                do="correct the node's inputs; the server's log has more",
            )
        if "execution_interrupted" in messages:
            node = self.workflow.title(messages["execution_interrupted"]["node_id"])
            raise ExecutionError(f"that the job was interrupted in {node}", "no interruption", "queue it again")
