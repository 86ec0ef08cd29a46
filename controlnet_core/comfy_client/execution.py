"""One workflow on a server, from its submission to its end."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass

from aiohttp import ClientWebSocketResponse, WSMessage, WSMsgType

from .answers import Counted, Entry, Executing, Failure, Output, Status, read_event, read_text
from .connection import close
from .failures import ExecutionError, JobLostError, ServerError
from .outputs import outputs_of
from .server import Server, State
from .workflow import Workflow

CLOSING = (WSMsgType.CLOSE, WSMsgType.CLOSED, WSMsgType.CLOSING, WSMsgType.ERROR)


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


class Job:
    """A workflow that was queued on a server.

    Arguments:
        server: The server.
        workflow: What to run.

    Attributes:
        prompt_id: Its id on the server.
        entry: Its entry in the server's history, when it is done.
    """

    def __init__(self, server: Server, workflow: Workflow) -> None:
        self.server = server
        self.workflow = workflow
        self.prompt_id = str(uuid.uuid4())
        self.entry: Entry | None = None
        self._limits = server.limits
        self._submitted = False
        self._failure: Failure | None = None
        self._node = ""
        self._attempts = 0
        self._spoken = False
        self._hear()

    async def run(self) -> AsyncIterator[Report]:
        """Queue the workflow and report until it is done; a lost connection is opened again.

        Raises:
            ServerError: If the server cannot be reached, stays unreachable, answers nonsense or forgets the job.
            ExecutionError: If it refuses the workflow, or a node fails.
        """
        socket = await self.server.connect()
        try:
            await self.server.submit(self.workflow, self.prompt_id)
            self._submitted = True
            self._hear()
            while self.entry is None:
                opened = time.monotonic()
                async for report in self._reports(socket):
                    yield report
                if self._spoken and time.monotonic() - opened >= self._limits.steady_seconds:
                    self._attempts = 0
                while self.entry is None and socket.closed:
                    await close(socket, self._limits)
                    pause = self._next_pause()
                    yield Waiting(f"the connection to {self.server.url} was lost, trying again in {pause:g} s")
                    socket = await self._reconnect(socket)
        finally:
            await close(socket, self._limits)
        self._raise_failure(self.entry)

    def outputs(self) -> list[tuple[str, Output]]:
        """The files that it made, each with the id of its node; none before it is done.

        Raises:
            ServerError: If there are more than the limits allow.
        """
        return outputs_of(self.entry, self._limits) if self.entry else []

    async def cancel(self) -> None:
        """Stop the job on the server; a job that was never queued needs nothing."""
        if self._submitted and self.entry is None:
            await self.server.cancel(self.prompt_id)

    async def _reports(self, socket: ClientWebSocketResponse) -> AsyncIterator[Report]:
        """What the server says until the job is done or the socket closed."""
        self._spoken = False
        while self.entry is None and not socket.closed:
            left = self._ask_at - time.monotonic()
            if left <= 0:
                yield await self._ask()
                continue
            try:
                message = await socket.receive(timeout=left)
            except TimeoutError:
                continue
            if message.type in CLOSING:
                await close(socket, self._limits)
                continue
            self._spoken = True
            if report := await self._read(message):
                yield report

    async def _read(self, message: WSMessage) -> Report | None:
        """One message: its report, if any; at the end of the job its entry is fetched."""
        if message.type == WSMsgType.BINARY:
            return self._text(message.data)
        event = read_event(message.data, self.prompt_id, self._limits) if message.type == WSMsgType.TEXT else None
        if event is None:
            return None
        self._hear()
        match event:
            case Failure():
                self._failure = event
            case Executing(node=None):
                await self._poll()
            case Executing(node=str(node)):
                self._node = self.workflow.title(node)
                return Progress(self._node)
            case Counted(node=node, value=value, max=total):
                self._node = self.workflow.title(node)
                return Progress(self._node, int(min(value, total)), int(total))
        return None

    def _text(self, frame: bytes) -> NodeText | None:
        """A node's text; it names no job, but only this one's are sent here."""
        said = read_text(frame)
        if said is None:
            return None
        self._hear()
        return NodeText(self.workflow.title(said[0]), said[1])

    def _hear(self) -> None:
        """Note that there is news of the job: until the next, the server is asked after longer and longer pauses."""
        now = time.monotonic()
        self._quiet = self._limits.quiet_seconds
        self._ask_at, self._lost_at = now + self._quiet, now + self._limits.lost_seconds

    async def _ask(self) -> Waiting:
        """Ask a quiet server for the state of the job; one that cannot say it for long is given up."""
        try:
            state = await self._poll()
            self._lost_at = time.monotonic() + self._limits.lost_seconds
            where = f" in {self._node}" if self._node else ""
            running = f"{self.server.url} is quiet, but the job runs{where}; waiting"
            reason = "waiting for other workflows" if state == "queued" else running
        except JobLostError:
            raise
        except ServerError:  # perhaps too busy to answer: if it is gone, the socket closes
            if time.monotonic() >= self._lost_at:
                raise
            reason = f"{self.server.url} does not say how far the job is; waiting"
        self._quiet = min(2 * self._quiet, self._limits.quietest_seconds)
        self._ask_at = time.monotonic() + self._quiet
        return Waiting(reason)

    async def _poll(self) -> State:
        """Ask the server for the state of the job, in case an event was missed."""
        state, self.entry = await self.server.state(self.prompt_id)
        if state == "unknown":
            raise JobLostError(
                found=f"that {self.server.url} no longer knows the job {self.prompt_id}",
                expected="a server that runs until the job is done",
                do="look into the server's log, as it may have been restarted, and queue the workflow again",
            )
        return state

    def _next_pause(self) -> float:
        """Seconds until the next attempt to connect.

        Raises:
            ServerError: If there were enough of them.
        """
        if self._attempts == len(self._limits.pauses):
            raise ServerError(
                found=f"that {self.server.url} lost the connection {self._attempts} times in a row",
                expected="a server that keeps a WebSocket open",
                do="see whether it runs, and whether a proxy in between takes WebSockets; the job may still run there",
            )
        return self._limits.pauses[self._attempts]

    async def _reconnect(self, lost: ClientWebSocketResponse) -> ClientWebSocketResponse:
        """Open the socket again, after a pause, and check that the server still knows the job.

        Returns:
            The new socket, or the lost one.

        Raises:
            ServerError: If this was the last attempt and it failed.
        """
        await asyncio.sleep(self._next_pause())
        self._attempts += 1
        try:
            await self._poll()
            return lost if self.entry else await self.server.connect()
        except JobLostError:
            raise
        except ServerError:
            if self._attempts == len(self._limits.pauses):
                raise
            return lost

    def _raise_failure(self, entry: Entry) -> None:
        """Raise what the history says went wrong."""
        status = entry.status or Status()
        failed = self._failure or status.messages.get("execution_error")
        interrupted = status.messages.get("execution_interrupted")
        if failed is None and interrupted is not None:
            node = self.workflow.title(interrupted.node_id)
            raise ExecutionError(f"that the job was interrupted in {node}", "no interruption", "queue it again")
        if failed is not None or status.status_str == "error":
            failed = failed or Failure()
            why = failed.exception_message.strip() or "the server does not say why"
            raise ExecutionError(
                found=f"{self.workflow.title(failed.node_id)} failed: {why}",
                expected="a workflow that runs to its end",
                do="correct the node's inputs; the server's log has more",
            )
