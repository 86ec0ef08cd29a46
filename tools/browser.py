"""A headless Chromium, driven over its debugging protocol.

    python -m tools.browser

says what to do where there is none.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import ClientSession, ClientWebSocketResponse

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
)
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
NONE = """\
no Chromium was found, and tests/web opens the workflows in one; install it (Debian: apt-get install chromium), \
name the program with CHROMIUM=..., or leave these tests out with CHROMIUM= and nothing behind it"""
START_SECONDS = 60


class PageError(Exception):
    """What went wrong in a page."""


class Page:
    """One page of the browser.

    Attributes:
        console: What the page wrote to its console as errors, and its uncaught exceptions.
    """

    def __init__(self, socket: ClientWebSocketResponse) -> None:
        self.console: list[str] = []
        self._socket = socket
        self._numbers = itertools.count(1)

    async def send(self, method: str, **parameters: object) -> dict[str, Any]:
        """Give a command and wait for its answer; events that come meanwhile are looked at."""
        number = next(self._numbers)
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        while True:
            message = json.loads((await self._socket.receive()).data)
            if message.get("id") == number:
                if "error" in message:
                    raise PageError(f"{method}: {message['error']['message']}")
                result: dict[str, Any] = message["result"]
                return result
            self._note(message)

    async def open(self, url: str, width: int, height: int) -> None:
        """Go to an address, in a window of that size."""
        for domain in ("Page", "Runtime", "Log"):
            await self.send(f"{domain}.enable")
        await self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )
        await self.send("Page.navigate", url=url)

    async def run(self, script: str) -> Any:  # noqa: ANN401 - whatever the script gives
        """Run JavaScript, await what it gives, and give that."""
        answer = await self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise PageError(json.dumps(answer["exceptionDetails"].get("exception", answer["exceptionDetails"]))[:2000])
        return answer["result"].get("value")

    async def until(self, script: str, seconds: float = 60) -> None:
        """Wait until JavaScript gives something true."""
        for _ in range(int(seconds * 5)):
            if await self.run(script):
                return
            await asyncio.sleep(0.2)
        raise PageError(f"still not true after {seconds} s: {script}")

    async def press(self, key: str, code: int) -> None:
        """Press and release a key, named as in JavaScript, with its code there."""
        for kind in ("keyDown", "keyUp"):
            await self.send("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code)

    async def screenshot(self, clip: dict[str, float] | None = None) -> bytes:
        """The window, or a part of it, as PNG."""
        extra = {} if clip is None else {"clip": {**clip, "scale": 1}}
        answer = await self.send("Page.captureScreenshot", format="png", **extra)
        return base64.b64decode(answer["data"])

    def _note(self, event: dict[str, Any]) -> None:
        parameters = event.get("params", {})
        if event.get("method") == "Runtime.exceptionThrown":
            details = parameters["exceptionDetails"]
            self.console.append(details.get("exception", {}).get("description", details["text"]))
        if event.get("method") == "Runtime.consoleAPICalled" and parameters["type"] == "error":
            self.console.append(" ".join(str(one.get("value", one.get("description"))) for one in parameters["args"]))


def find_chromium() -> str | None:
    """The program: the one that the environment's CHROMIUM names, or one that is installed under a usual name.

    It is None where there is none, and where CHROMIUM is empty.

    Raises:
        PageError: If CHROMIUM names no program.
    """
    named = os.environ.get("CHROMIUM")
    if named is None:
        return next(filter(None, map(shutil.which, NAMES)), None)
    program = shutil.which(named)
    if named and program is None:
        raise PageError(f"found CHROMIUM={named}, which is no program; expected a Chromium; correct its path")
    return program


@asynccontextmanager
async def new_page() -> AsyncIterator[Page]:
    """Start a browser with an empty profile and give its page; the browser ends with it.

    Raises:
        PageError: If there is no Chromium, or it does not start.
    """
    program = find_chromium()
    if program is None:
        raise PageError(NONE)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = await asyncio.create_subprocess_exec(
            program, *FLAGS, f"--user-data-dir={profile}", "about:blank", stderr=asyncio.subprocess.DEVNULL
        )
        try:
            port = await _port(Path(profile) / "DevToolsActivePort")
            async with ClientSession() as session, _first_page(session, port) as page:
                yield page
        finally:
            process.terminate()
            await process.wait()


@asynccontextmanager
async def _first_page(session: ClientSession, port: int) -> AsyncIterator[Page]:
    """The page that the browser opened when it started."""
    async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
        target = next(one for one in await answer.json(content_type=None) if one["type"] == "page")
    async with session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0) as socket:
        yield Page(socket)


async def _port(file: Path) -> int:
    """The port that the browser listens on, when it has written it."""
    for _ in range(START_SECONDS * 10):
        if file.exists() and (text := file.read_text()):
            return int(text.split()[0])
        await asyncio.sleep(0.1)
    raise PageError(f"Chromium did not start in {START_SECONDS} s")


if __name__ == "__main__":
    try:
        found = find_chromium()
    except PageError as error:
        sys.exit(str(error))
    if found is None and "CHROMIUM" not in os.environ:
        sys.exit(NONE)
