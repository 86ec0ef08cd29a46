"""The command `queue` against a server that behaves well, badly, or not at all."""

from __future__ import annotations

import asyncio
import json
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from controlnet_core.cli import main, queue
from controlnet_core.comfy_client.failures import ServerError
from controlnet_core.comfy_client.limits import Limits
from controlnet_core.comfy_client.workflow import Workflow

WORKFLOW = {
    "1": {"class_type": "Draw", "inputs": {"steps": 4, "image": "a.png"}, "_meta": {"title": "My drawing"}},
}


class FakeServer:
    """The part of ComfyUI's API that `queue` uses.

    Attributes:
        url: Its address.
        script: What goes wrong: "drop" closes the socket in the middle, "forget" also forgets the job, "silent" sends
            no event, "slow" answers nothing, "fail" fails in the node, "block" reports a blocked node, "stop" is
            interrupted.
        prompt: What was queued.
        cancelled: Whether the job was stopped.
        connections: How often a socket was opened.
        files: What was uploaded, by name.
    """

    def __init__(self, script: str) -> None:
        self.script = script
        self.url = ""
        self.prompt: dict[str, Any] = {}
        self.cancelled = False
        self.connections = 0
        self.files: dict[str, bytes] = {}
        self.history: dict[str, Any] = {}
        self.done = asyncio.Event()

    def application(self) -> web.Application:
        """Its routes."""
        made = web.Application()
        made.router.add_get("/ws", self.socket)
        made.router.add_post("/prompt", self.queue_prompt)
        made.router.add_get("/history/{id}", self.give_history)
        made.router.add_get("/queue", self.give_queue)
        made.router.add_post("/queue", self.stop)
        made.router.add_post("/interrupt", self.stop)
        made.router.add_post("/upload/image", self.upload)
        made.router.add_get("/view", self.view)
        return made

    async def socket(self, request: web.Request) -> web.WebSocketResponse:
        """Send the events of one run."""
        self.connections += 1
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        while self.prompt.get("client_id") != request.query["clientId"]:
            await asyncio.sleep(0.01)
        prompt_id = self.prompt["prompt_id"]

        async def send(event: str, **data: object) -> None:
            await socket.send_json({"type": event, "data": {"prompt_id": prompt_id, **data}})

        if self.script != "silent":
            await send("executing", node="1")
            await socket.send_bytes(struct.pack(">II", 1, 1) + b"a preview")
            await socket.send_bytes(struct.pack(">II", 3, 1) + b"1" + "⚠ careful".encode())
            for value in range(1, 5):
                await send("progress", node="1", value=value, max=4)
            await socket.send_json({"type": "progress", "data": {"prompt_id": "another", "node": "7", "value": 1}})
        if self.script in ("drop", "forget") and self.connections == 1:
            await socket.close()
            return socket
        if self.script == "forget":
            await socket.receive()
            return socket
        await self.finish(send)
        return socket

    async def finish(self, send: Any) -> None:  # noqa: ANN401 - the function above
        """End the run."""
        prompt_id = self.prompt["prompt_id"]
        messages: list[Any] = []
        if self.script == "fail":
            messages = [["execution_error", {"node_id": "1", "exception_message": "out of paint\n"}]]
        if self.script == "stop":
            messages = [["execution_interrupted", {"node_id": "1"}]]
        if self.script == "block":
            await send("execution_error", node_id="1", exception_message="Execution Blocked: connect negative")
        outputs = {"1": {"images": [{"filename": "x.png", "subfolder": "s", "type": "output"}], "text": ["a text"]}}
        self.history[prompt_id] = {"outputs": outputs, "status": {"messages": messages}}
        if self.script != "silent":
            await send("executing", node=None)
        await asyncio.sleep(0.2)

    async def queue_prompt(self, request: web.Request) -> web.Response:
        """Take a workflow."""
        if self.script == "slow":
            await asyncio.sleep(30)
        self.prompt = await request.json()
        return web.json_response({"prompt_id": self.prompt["prompt_id"], "node_errors": {}})

    async def give_history(self, request: web.Request) -> web.Response:
        """What is known of a job."""
        name = request.match_info["id"]
        return web.json_response({name: self.history[name]} if name in self.history else {})

    async def give_queue(self, _: web.Request) -> web.Response:
        """The job runs, unless it was forgotten."""
        known = self.prompt and self.script != "forget"
        return web.json_response({"queue_running": [[0, self.prompt["prompt_id"]]] if known else []})

    async def stop(self, _: web.Request) -> web.Response:
        """Stop the job."""
        self.cancelled = True
        return web.Response()

    async def upload(self, request: web.Request) -> web.Response:
        """Take an image."""
        fields = await request.post()
        field = fields["image"]
        assert isinstance(field, web.FileField)
        self.files[field.filename] = field.file.read()
        return web.json_response({"name": field.filename, "subfolder": "up", "type": "input"})

    async def view(self, request: web.Request) -> web.Response:
        """Give a file that was made."""
        assert dict(request.query) == {"filename": "x.png", "subfolder": "s", "type": "output"}
        return web.Response(body=b"a picture")


@pytest.fixture
def fake(request: pytest.FixtureRequest) -> Iterator[FakeServer]:
    """A server in a thread; the test's parameter says what goes wrong."""
    made = FakeServer(getattr(request, "param", "well"))
    loop = asyncio.new_event_loop()
    runner = web.AppRunner(made.application(), shutdown_timeout=0.1)

    async def start() -> None:
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        assert site._server is not None
        made.url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"  # type: ignore[attr-defined]

    loop.run_until_complete(start())
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    yield made
    asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.fixture
def workflow(tmp_path: Path) -> Path:
    """A workflow in a file."""
    path = tmp_path / "workflow.json"
    path.write_text(json.dumps(WORKFLOW), encoding="utf-8")
    return path


def run(fake: FakeServer, workflow: Path, *options: str) -> int:
    """Run the command."""
    return main(["queue", str(workflow), "--server", fake.url, "--out", str(workflow.parent / "out"), *options])


def test_a_workflow_is_run_and_its_outputs_fetched(
    fake: FakeServer, workflow: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = workflow.parent / "my hint.png"
    image.write_bytes(b"pixels")
    for _ in range(2):
        options = ["--set", "My drawing.steps=9", "--image", f"My drawing.image={image}", "--json"]
        assert run(fake, workflow, *options) == 0
    captured = capsys.readouterr()
    assert fake.prompt["prompt"]["1"]["inputs"] == {"steps": 9, "image": "up/my hint.png"}
    assert fake.files == {"my hint.png": b"pixels"}
    result = json.loads(captured.out[captured.out.rindex("\n{\n") :])
    assert [one["node"] for one in result["outputs"]] == ["My drawing (node 1)"]
    assert result["texts"] == [{"node": "My drawing (node 1)", "text": "⚠ careful"}]
    assert [path.name for path in (workflow.parent / "out").iterdir()] == ["x.png"]
    assert "My drawing (node 1): ⚠ careful" in captured.err
    assert "4/4" in captured.err


def test_a_file_of_that_name_is_kept(fake: FakeServer, workflow: Path) -> None:
    (workflow.parent / "out").mkdir()
    (workflow.parent / "out" / "x.png").write_bytes(b"mine")
    assert run(fake, workflow) == 0
    names = {path.name: path.read_bytes() for path in (workflow.parent / "out").iterdir()}
    assert names == {"x.png": b"mine", "x_1.png": b"a picture"}


@pytest.mark.parametrize("fake", ["drop"], indirect=True)
def test_a_dropped_socket_is_opened_again(
    fake: FakeServer, workflow: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(fake, workflow) == 0
    assert fake.connections == 2
    assert "was lost, trying again" in capsys.readouterr().err


@pytest.mark.parametrize("fake", ["silent"], indirect=True)
def test_missed_events_do_not_matter(fake: FakeServer, tmp_path: Path) -> None:
    result = asyncio.run(queue.queued(Workflow(WORKFLOW), [], fake.url, tmp_path, Limits(quiet_seconds=0.1)))
    assert [Path(one["path"]).name for one in result["outputs"]] == ["x.png"]


@pytest.mark.parametrize("fake", ["slow"], indirect=True)
def test_a_server_that_does_not_answer_is_given_up(fake: FakeServer, tmp_path: Path) -> None:
    limits = Limits(answer_seconds=0.5, close_seconds=0.1)
    with pytest.raises(ServerError, match=r"did not answer in 0\.5 s"):
        asyncio.run(queue.queued(Workflow(WORKFLOW), [], fake.url, tmp_path, limits))


@pytest.mark.parametrize(
    ("fake", "message"),
    [
        ("forget", "no longer knows the job"),
        ("fail", "My drawing (node 1) failed: out of paint"),
        ("block", "Execution Blocked: connect negative"),
        ("stop", "interrupted in My drawing (node 1)"),
    ],
    indirect=["fake"],
)
def test_each_failure_ends_with_a_message_and_code_1(
    fake: FakeServer,
    workflow: Path,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(fake, workflow, "--json") == 1
    captured = capsys.readouterr()
    assert message in captured.err.splitlines()[-1]
    assert message in json.loads(captured.out)["error"]["message"]
    assert not list((workflow.parent / "out").glob("*")) if (workflow.parent / "out").exists() else True


@pytest.mark.parametrize("address", ["http://127.0.0.1:9", "no address", "ftp://127.0.0.1", "http://"])
def test_an_address_without_server_is_said(
    workflow: Path, address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["queue", str(workflow), "--server", address, "--out", str(workflow.parent / "out")]) == 1
    message = capsys.readouterr().err
    assert address in message and "--server" in message


@pytest.mark.parametrize("options", [["--set", "steps"], ["--set", "steps=3"], ["--image", "x"]])
def test_wrong_usage_is_said(workflow: Path, options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["queue", str(workflow), *options]) == 2
    assert "NODE.INPUT=VALUE" in capsys.readouterr().err


def test_a_missing_image_is_said_before_the_server_is_asked(
    workflow: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--image", "1.image=nowhere.png", "--server", "http://127.0.0.1:9"]
    assert main(["queue", str(workflow), *options]) == 1
    assert "nowhere.png" in capsys.readouterr().err


def test_the_help_names_the_limits(capsys: pytest.CaptureFixture[str]) -> None:
    limits = Limits()
    assert main(["queue", "--help"]) == 0
    shown = capsys.readouterr().out
    numbers = (limits.answer_values, limits.files, limits.text_length, limits.texts, limits.file_bytes // 2**20)
    seconds = (limits.answer_seconds, sum(limits.pauses), limits.lost_seconds)
    assert all(str(number) in shown for number in numbers)
    assert all(f"{number:.0f} s" in shown for number in seconds)
