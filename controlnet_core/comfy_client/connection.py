"""Requests to one address: bounded in size and time, and never led to another one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

from aiohttp import (
    ClientConnectionError,
    ClientError,
    ClientResponse,
    ClientSession,
    ClientTimeout,
    ClientWebSocketResponse,
    FormData,
    TraceConfig,
    TraceRequestRedirectParams,
)

from .failures import ServerError
from .limits import LIMITS, Limits
from .texts import visible

FAILURES = (ClientError, TimeoutError, ConnectionError, ValueError)
"""What aiohttp raises where a server is not there, is cut off, or does not speak HTTP."""


class Connection:
    """What is sent to a server, and what comes back.

    Arguments:
        url: Its address, such as http://127.0.0.1:8188.
        session: What connects to it, made by `new_session`.
        limits: What it may send.
    """

    def __init__(self, url: str, session: ClientSession, limits: Limits = LIMITS) -> None:
        self.url = url.rstrip("/")
        self.session = session
        self.limits = limits

    async def ask(
        self, method: str, path: str, content: bytes | FormData | None = None, size: int = 0
    ) -> tuple[int, bytes]:
        """The status and the body of an answer.

        Arguments:
            method: Such as "GET".
            path: What is asked for.
            content: What is sent: JSON or a form.
            size: Its bytes, about.

        Raises:
            ServerError: If there is none, or it is beyond the limits.
        """
        body = bytearray()
        headers = {"Content-Type": "application/json"} if isinstance(content, bytes) else {}
        more = {"data": content, "headers": headers}
        status = await self._exchange(method, path, body.extend, self.limits.answer_bytes, size, more)
        return status, bytes(body)

    async def download(self, path: str, params: Mapping[str, str], write: Callable[[bytes], object]) -> None:
        """Pass a file on in pieces.

        Raises:
            ServerError: If it cannot be had whole, or is beyond the limits.
        """
        status = await self._exchange("GET", path, write, self.limits.file_bytes, 0, {"params": params})
        if status != 200:
            raise self.refused(path, status)

    async def socket(self, path: str, params: Mapping[str, str]) -> ClientWebSocketResponse:
        """Open a WebSocket; close it with `close`.

        Raises:
            ServerError: If it cannot be opened.
        """
        address, most = f"{self.url}{path}", self.limits.message_bytes
        async with self._answering(self.limits.answer_seconds):
            return await self.session.ws_connect(address, params=params, heartbeat=20, max_msg_size=most)

    def refused(self, path: str, status: int) -> ServerError:
        """The error for an answer that should have been a success."""
        found = f"{self.url}{path} answered HTTP {status}"
        return ServerError(found, "a ComfyUI server", "check the address and the server's log")

    async def _exchange(
        self,
        method: str,
        path: str,
        take: Callable[[bytes], object],
        most: int,
        size: int,
        more: Mapping[str, Any],
    ) -> int:
        """Send a request and give `take` the pieces of the answer, up to so many bytes; return the status."""
        allowed, received = self.limits.answer_seconds + size / self.limits.slowest, 0
        end = asyncio.get_running_loop().time() + allowed
        request = self.session.request(method, f"{self.url}{path}", **more)
        async with self._answering(allowed) as clock, request as response:
            self._check(response, path, most)
            async for piece in response.content.iter_any():
                received += len(piece)
                if received > most:
                    raise self._too_large(path, most)
                take(piece)
                clock.reschedule(end + received / self.limits.slowest)
            return response.status

    @asynccontextmanager
    async def _answering(self, seconds: float) -> AsyncIterator[asyncio.Timeout]:
        """A block that ends in a ServerError if it takes longer, or aiohttp fails in it."""
        try:
            async with asyncio.timeout(seconds) as clock:
                yield clock
        except FAILURES as error:
            raise self._unreachable(error) from error

    def _check(self, response: ClientResponse, path: str, most: int) -> None:
        """Raise an error for an answer that says itself that it cannot be read."""
        if (response.content_length or 0) > most:
            raise self._too_large(path, most)
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise ServerError(
                found=f"a compressed answer of {self.url}{path}",
                expected="one that is not compressed, as was asked for",
                do="give the address of ComfyUI itself, without the proxy that compresses",
            )

    def _too_large(self, path: str, most: int) -> ServerError:
        return ServerError(
            found=f"an answer of {self.url}{path} of more than {most / 2**20:.4g} MiB",
            expected="what a ComfyUI server answers",
            do="check the address; a larger output file has to be copied from the server's output folder",
        )

    def _unreachable(self, error: Exception) -> ServerError:
        if isinstance(error, TimeoutError):
            found = f"that {self.url} did not answer in {self.limits.answer_seconds:.3g} s, or much too slowly"
            return ServerError(found, "a ComfyUI server that answers", "see whether it is busy or stuck, and try again")
        kind = "no server at" if isinstance(error, ClientConnectionError) else "no ComfyUI server at"
        found = f"{kind} {self.url} ({visible(str(error) or type(error).__name__, 300)})"
        return ServerError(found, "a running ComfyUI server", "start it, or give its address with --server")


async def close(socket: ClientWebSocketResponse, limits: Limits) -> None:
    """Close a WebSocket, whether or not the server takes its part in that."""
    try:
        async with asyncio.timeout(limits.close_seconds):
            await socket.close()
    except TimeoutError:
        return  # closing was given up: aiohttp has cut the connection


def new_session(limits: Limits = LIMITS) -> ClientSession:
    """A session that waits no longer than the limits, takes nothing compressed, and is not led elsewhere."""
    trace = TraceConfig()
    trace.on_request_redirect.append(_refuse_to_be_led)
    return ClientSession(
        timeout=ClientTimeout(total=None, sock_connect=limits.connect_seconds, sock_read=limits.answer_seconds),
        headers={"Accept-Encoding": "identity"},
        auto_decompress=False,
        trace_configs=[trace],
    )


async def _refuse_to_be_led(_: ClientSession, __: SimpleNamespace, led: TraceRequestRedirectParams) -> None:
    """Raise an error instead of sending the same to where an answer leads."""
    led.response.close()
    where = visible(led.response.headers.get("Location", led.response.headers.get("URI", "")), 300)
    raise ServerError(
        found=f"that {led.url.origin()}{led.url.path} leads to {where}",
        expected="a ComfyUI server that answers itself",
        do="if you trust that address, give it with --server",
    )
