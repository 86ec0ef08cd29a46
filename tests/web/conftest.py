"""ComfyUI's packaged frontend in a headless Chromium, over a stand-in for ComfyUI's server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import pytest

from tests.support.extension import Extension
from tests.support.node_info import server_nodes
from tests.support.stand_in import StandIn, stand_in
from tools.browser import NONE, Page, find_chromium, new_page

RENDERERS = {"classic": False, "nodes 2.0": True}
"""How the editor draws nodes: the setting `Comfy.VueNodes.Enabled`."""
SECONDS = 240
"""How long the page may take for anything: it is hundreds of scripts, and the machine may be busy."""
TEMPLATES = "!!document.querySelector('[data-testid=template-workflows-content]')"
COMPLAINT = "document.querySelector('[data-testid=error-overlay], [data-testid=error-dialog]')?.innerText ?? ''"


@dataclass(frozen=True)
class Editor:
    """The editor in the browser, and the server that it talks to; both sleep between two calls.

    Attributes:
        runner: The event loop of both.
        page: The browser's page.
        server: The server.
        vue: Whether nodes are elements of the page, as in Nodes 2.0, or drawn on a canvas.
    """

    runner: asyncio.Runner
    page: Page
    server: StandIn
    vue: bool

    def run(self, script: str) -> Any:  # noqa: ANN401 - whatever the script gives
        """Run JavaScript in the page, await what it gives, and give that."""
        return self.runner.run(self.page.run(script))

    def until(self, script: str) -> None:
        """Wait until JavaScript gives something true."""
        self.runner.run(self.page.until(script, SECONDS))

    def complaints(self) -> list[str]:
        """Errors in the console since the last call, and what the page shows of things that are missing or failed."""
        shown = self.run(COMPLAINT)
        said = [*self.page.console, *filter(None, [shown])]
        self.page.console.clear()
        return said


@pytest.fixture(scope="session")
def browser(extension: Extension) -> Iterator[tuple[asyncio.Runner, Page, StandIn]]:
    """One browser for all tests, with the server, in one event loop."""
    # Whoever runs pytest alone may have no browser; `make test` fails before it comes here.
    if find_chromium() is None:
        pytest.skip(NONE)
    nodes = server_nodes(extension)
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        server = runner.run(stack.enter_async_context(stand_in(nodes)))
        page = runner.run(stack.enter_async_context(new_page()))
        yield runner, page, server
        runner.run(stack.aclose())


@pytest.fixture(scope="session", params=RENDERERS)
def editor(browser: tuple[asyncio.Runner, Page, StandIn], request: pytest.FixtureRequest) -> Editor:
    """The editor with each way of drawing, as somebody sees it who opens it for the first time.

    It has then finished to start, with an empty graph, when it offers the templates.
    """
    opened = Editor(*browser, vue=RENDERERS[request.param])
    opened.server.settings.clear()
    opened.server.settings.update({"Comfy.VueNodes.Enabled": opened.vue, "Comfy.Workflow.Persist": False})
    opened.runner.run(opened.page.open(opened.server.url, 1600, 1000))
    opened.until(TEMPLATES)
    opened.runner.run(opened.page.press("Escape", 27))
    opened.until(f"!{TEMPLATES}")
    assert not (said := opened.complaints()), said
    return opened
