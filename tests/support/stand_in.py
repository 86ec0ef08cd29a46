"""A server with as much of ComfyUI as its packaged frontend needs to start, and to open and queue workflows."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from aiohttp import web

from tests.support.node_info import PACK

ROOT = Path(__file__).resolve().parents[2]
PAGE = Path(str(files("comfyui_frontend_package"))) / "static"
IDLE = {"status": {"exec_info": {"queue_remaining": 0}}, "sid": "stand-in"}
NO_JOBS = {"jobs": [], "pagination": {"offset": 0, "limit": 64, "total": 0, "has_more": False}}
EMPTY = {
    "users": {"storage": "server", "migrated": True},
    "jobs": NO_JOBS,
    "features": {},
    "i18n": {},
    "userdata": [],
    "global_subgraphs": {},
    "node_replacements": {},
    "system_stats": {"system": {"argv": []}, "devices": []},
    "experiment/models": [],
    "embeddings": [],
}
"""What ComfyUI answers where nothing was ever saved, installed or run."""


@dataclass
class StandIn:
    """The server.

    Attributes:
        nodes: What it says of its nodes, by their names.
        settings: The user's settings, which the page reads and writes.
        queued: What the page queued, newest last.
        url: Where it listens.
    """

    nodes: dict[str, Any]
    settings: dict[str, Any] = field(default_factory=dict)
    queued: list[dict[str, Any]] = field(default_factory=list)
    url: str = ""

    def application(self) -> web.Application:
        """Its routes."""
        answers = {**EMPTY, "object_info": self.nodes, "settings": self.settings, "extensions": _scripts()}
        answers["workflow_templates"] = {PACK: sorted(path.stem for path in (ROOT / "workflows").glob("*.json"))}
        application = web.Application()
        routes = application.router
        for name, answer in answers.items():
            routes.add_get(f"/api/{name}", _answering(answer))
        routes.add_post("/api/settings", self._write_settings)
        routes.add_post("/api/settings/{name}", self._write_setting)
        routes.add_post("/api/prompt", self._queue)
        routes.add_get("/templates/index.json", _answering([]))
        routes.add_get("/ws", _say_idle)
        routes.add_get("/", _page)
        routes.add_static(f"/api/workflow_templates/{PACK}", ROOT / "workflows")
        routes.add_static(f"/extensions/{PACK}", ROOT / "js")
        routes.add_static("/", PAGE)
        return application

    async def _write_settings(self, request: web.Request) -> web.Response:
        self.settings.update(await request.json())
        return web.Response()

    async def _write_setting(self, request: web.Request) -> web.Response:
        self.settings[request.match_info["name"]] = await request.json()
        return web.Response()

    async def _queue(self, request: web.Request) -> web.Response:
        self.queued.append(await request.json())
        return web.json_response({"prompt_id": str(len(self.queued)), "number": len(self.queued), "node_errors": {}})


@asynccontextmanager
async def stand_in(nodes: dict[str, Any]) -> AsyncIterator[StandIn]:
    """Serve on a free port of this machine."""
    server = StandIn(nodes)
    runner = web.AppRunner(server.application())
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    server.url = f"http://{host}:{port}"
    try:
        yield server
    finally:
        await runner.cleanup()


def _scripts() -> list[str]:
    """The scripts that the page imports: every one of the folder, as ComfyUI lists them."""
    return [f"/extensions/{PACK}/{path.relative_to(ROOT / 'js').as_posix()}" for path in (ROOT / "js").rglob("*.js")]


def _answering(answer: Any) -> Any:  # noqa: ANN401 - JSON
    async def handler(request: web.Request) -> web.Response:
        return web.json_response(answer)

    return handler


async def _page(request: web.Request) -> web.FileResponse:
    return web.FileResponse(PAGE / "index.html")


async def _say_idle(request: web.Request) -> web.WebSocketResponse:
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    await socket.send_json({"type": "status", "data": IDLE})
    async for _ in socket:
        pass
    return socket
