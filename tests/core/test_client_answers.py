"""The command `queue` against servers that lie: each lie ends in one error that names the server, or is passed over."""

from __future__ import annotations

import asyncio
import gzip
import json
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from controlnet_core.cli import queue
from controlnet_core.comfy_client.failures import ExecutionError, ServerError
from controlnet_core.comfy_client.limits import LIMITS, Limits
from controlnet_core.comfy_client.texts import visible
from controlnet_core.comfy_client.workflow import Workflow
from controlnet_core.errors import ControlNetCoreError

FAST = Limits(
    close_seconds=0.1,
    answer_bytes=2**16,
    message_bytes=2**16,
    answer_values=1000,
    file_bytes=2**17,
    files=3,
    namesakes=3,
    texts=5,
    quiet_seconds=10.0,
    lost_seconds=0.3,
    pauses=(0.01, 0.02, 0.03),
)
ASKING = replace(FAST, quiet_seconds=0.02, quietest_seconds=0.05)
"""Those with which a server that says nothing is soon asked."""
IMPATIENT = replace(FAST, answer_seconds=0.5)
"""Those with which an answer has little time."""
WORKFLOW = Workflow({"1": {"class_type": "Draw", "inputs": {"image": "a.png"}, "_meta": {"title": "My drawing"}}})
ESCAPES = "\x1b[2J\x1b]0;owned\x07\u202e"
Handler = Callable[["Liar", web.Request], Awaitable[web.StreamResponse]]


class Liar:
    """A server that tells the truth but for its lies.

    Attributes:
        lies: What it answers below a path's first part: a handler, bytes, or JSON, in which JOB is the job's id.
        job: The id of the job.
        connections: How often a socket was opened.
        asked: The paths that were asked for.
    """

    def __init__(self, lies: Mapping[str, object]) -> None:
        self.lies = {**TRUTH, **lies}
        self.job = ""
        self.connections = 0
        self.asked: list[str] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer as told."""
        part = request.path.split("/")[1]
        self.asked.append(f"{request.method} {request.path}")
        if part == "prompt":
            self.job = (await request.json())["prompt_id"]
        lie = self.lies[part]
        if callable(lie):
            return await lie(self, request)  # type: ignore[no-any-return]
        return web.Response(body=lie if isinstance(lie, bytes) else self.about(lie).encode())

    def about(self, content: object) -> str:
        """JSON with the job's id."""
        return (content if isinstance(content, str) else json.dumps(content)).replace("JOB", self.job)

    async def socket(self, request: web.Request) -> web.WebSocketResponse:
        """A socket that is open, once there is a job."""
        self.connections += 1
        made = web.WebSocketResponse(max_msg_size=0, timeout=0.1)
        await made.prepare(request)
        while not self.job:
            await asyncio.sleep(0.01)
        return made


def said(*messages: object, then: object = "end") -> Handler:
    """A socket that sends messages, and last the end of the job; without an end it stays open."""

    async def run(liar: Liar, request: web.Request) -> web.WebSocketResponse:
        socket = await liar.socket(request)
        for message in (*messages, *([event("executing", node=None)] if then == "end" else [])):
            if isinstance(message, bytes):
                await socket.send_bytes(message)
            else:
                await socket.send_str(liar.about(message))
        if then != "close":
            await socket.receive()
        return socket

    return run


def event(kind: str, **data: object) -> dict[str, object]:
    return {"type": kind, "data": {"prompt_id": "JOB", **data}}


def text(content: bytes, length: int = 1) -> bytes:
    """A binary message with a text of node 1."""
    return struct.pack(">II", 3, length) + b"1" + content


def status(code: int, body: object = b"oops", **headers: str) -> Handler:
    async def run(liar: Liar, _: web.Request) -> web.Response:
        content = body if isinstance(body, bytes) else liar.about(body).encode()
        return web.Response(status=code, body=content, headers=headers)

    return run


def endless(piece: bytes = b"x" * 2**14, wait: float = 0.0, count: int = 10_000, length: int = 0) -> Handler:
    """A body that goes on for long, and may say how long it is."""
    headers = {"Content-Length": str(length)} if length else {}

    async def run(liar: Liar, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        for _ in range(count):
            await response.write(piece)
            await asyncio.sleep(wait)
        return response

    return run


async def broken_off(_: Liar, request: web.Request) -> web.StreamResponse:
    """Less than was promised."""
    response = web.StreamResponse(headers={"Content-Length": "99"})
    await response.prepare(request)
    await response.write(b"a pic")
    assert request.transport is not None
    request.transport.close()
    return response


async def abort(liar: Liar, request: web.Request) -> web.StreamResponse:
    """Cut the connection after the handshake."""
    socket = await liar.socket(request)
    assert request.transport is not None
    request.transport.abort()
    return socket


def outputs(*files: object) -> dict[str, object]:
    """A history in which a node made files."""
    return entry(outputs={"1": {"images": list(files)}})


def entry(**parts: object) -> dict[str, object]:
    return {"JOB": {"outputs": {}, "status": {"messages": []}, **parts}}


def messages(*pairs: object) -> dict[str, object]:
    return entry(status={"messages": list(pairs)})


def running(job: object = "JOB") -> dict[str, object]:
    return {"queue_running": [[0, job, {}, {}]], "queue_pending": []}


X = {"filename": "x.png", "subfolder": "", "type": "output"}
TRUTH: dict[str, object] = {
    "ws": said(),
    "prompt": {"prompt_id": "JOB", "node_errors": {}},
    "queue": {},
    "interrupt": {},
    "history": outputs(X),
    "view": b"a picture",
    "upload": {"name": "x.png"},
}
ELSEWHERE = "http://127.0.0.1:9/stolen"
SILENT = said(then="nothing")

LIES: dict[str, tuple[dict[str, object], str]] = {
    "socket is a page": ({"ws": b"<html>"}, "no ComfyUI server at"),
    "socket leads away": ({"ws": status(302, Location=ELSEWHERE)}, f"leads to {ELSEWHERE}"),
    "socket leads to a file": ({"ws": status(302, Location="file:///etc/passwd")}, "leads to file:///etc/passwd"),
    "socket fails": ({"ws": status(500)}, "no ComfyUI server at"),
    "socket hangs up": ({"ws": said(then="close"), "history": {}, "queue": running()}, "3 times in a row"),
    "socket is cut": ({"ws": abort, "history": {}, "queue": running()}, "3 times in a row"),
    "socket hangs up on a stranger": ({"ws": said(then="close"), "history": {}, "queue": status(500)}, "HTTP 500"),
    "prompt is a page": ({"prompt": b"<html>"}, "/prompt which is no JSON"),
    "prompt is a list": ({"prompt": [1]}, "/prompt which is of another kind"),
    "prompt's errors are a list": ({"prompt": {"node_errors": [1]}}, "node_errors is missing or wrong"),
    "prompt leads away": ({"prompt": status(307, Location=ELSEWHERE)}, f"/prompt leads to {ELSEWHERE}"),
    "prompt leads to itself": ({"prompt": status(307, Location="/prompt")}, "/prompt leads to /prompt"),
    "prompt leads nowhere": ({"prompt": status(307)}, "/prompt leads to"),
    "prompt is endless": ({"prompt": endless()}, "/prompt of more than 0.0625 MiB"),
    "prompt says it is long": ({"prompt": endless(b"", length=10**10)}, "of more than 0.0625 MiB"),
    "prompt is a bomb": (
        {"prompt": status(200, gzip.compress(b"0" * 10**6), **{"Content-Encoding": "gzip"})},
        "a compressed answer of",
    ),
    "history is a list": ({"history": [1]}, "which is of another kind"),
    "history is a page": ({"history": b"<html>"}, "which is no JSON"),
    "history fails": ({"history": status(500)}, "HTTP 500"),
    "history is deep": ({"history": b"[" * 900}, "which is no JSON"),
    "history is too deep to count": ({"history": b"[" * 60_000}, "of more than 1000 values"),
    "history has too many values": ({"history": json.dumps({"JOB": [0] * 2000}).encode()}, "of more than 1000 values"),
    "history is no text": ({"history": b"\xff\xfe{"}, "which is no JSON"),
    "history is a long number": ({"history": b"9" * 9000}, "which is no JSON"),
    "entry is a list": ({"history": {"JOB": [1]}}, "which is of another kind"),
    "entry is a number": ({"history": {"JOB": 5}}, "which is of another kind"),
    "entry is empty": ({"history": {"JOB": {}}}, "outputs is missing or wrong"),
    "outputs are a list": ({"history": entry(outputs=[1])}, "outputs is missing or wrong"),
    "outputs are null": ({"history": entry(outputs=None)}, "outputs is missing or wrong"),
    "status is a list": ({"history": entry(status=[1])}, "status is missing or wrong"),
    "subfolder is a number": ({"history": outputs({**X, "subfolder": 5})}, "outputs.1.0.subfolder"),
    "subfolder is a table": ({"history": outputs({**X, "subfolder": {"a": 1}})}, "outputs.1.0.subfolder"),
    "kind is a list": ({"history": outputs({**X, "type": ["output"]})}, "outputs.1.0.type"),
    "name is half a character": ({"history": outputs({**X, "filename": "\ud800.png"})}, "outputs.1.0.filename"),
    "name holds a null": ({"history": outputs({**X, "filename": "a\0b.png"})}, "outputs.1.0.filename"),
    "name is endless": ({"history": outputs({**X, "filename": "x" * 9000})}, "outputs.1.0.filename"),
    "a key orders the terminal": ({"history": entry(outputs={ESCAPES: {"images": [{**X, "type": 1}]}})}, r"\x1b[2J"),
    "queue of numbers": ({"history": {}, "queue": {"queue_running": [1]}}, "queue_running.0 is missing or wrong"),
    "queue of short lists": ({"history": {}, "queue": {"queue_running": [[0]]}}, "queue_running.0"),
    "queue of numbered jobs": ({"history": {}, "queue": running(5)}, "queue_running.0"),
    "queue is a word": ({"history": {}, "queue": {"queue_running": "abc"}}, "queue_running"),
    "queue is null": ({"history": {}, "queue": {"queue_running": None}}, "queue_running"),
    "job is unknown": ({"history": {}}, "no longer knows the job"),
    "view fails": ({"view": status(500)}, "x.png cannot be fetched: "),
    "view leads away": ({"view": status(302, Location=ELSEWHERE)}, f"leads to {ELSEWHERE}"),
    "view leads with an order": ({"view": status(302, Location="http://a/%1b\x85")}, r"leads to http://a/%1b"),
    "view is a part": ({"view": status(206)}, "HTTP 206"),
    "view is endless": ({"view": endless()}, "/view of more than 0.125 MiB"),
    "view breaks off": ({"view": broken_off}, "no ComfyUI server at"),
    "view is a bomb": (
        {"view": status(200, gzip.compress(b"0" * 10**6), **{"Content-Encoding": "gzip"})},
        "a compressed answer of",
    ),
    "upload has no name": ({"upload": {}}, "name is missing or wrong"),
    "upload's name is empty": ({"upload": {"name": ""}}, "name is missing or wrong"),
    "upload's name is a number": ({"upload": {"name": 5}}, "name is missing or wrong"),
    "upload's folder is a number": ({"upload": {"name": "x", "subfolder": 5}}, "subfolder is missing or wrong"),
    "upload is a list": ({"upload": [1]}, "/upload/image which is of another kind"),
    "upload leads away": ({"upload": status(307, Location=ELSEWHERE)}, f"leads to {ELSEWHERE}"),
    "upload fails": ({"upload": status(500)}, "/upload/image answered HTTP 500"),
}
SLOW_LIES: dict[str, tuple[dict[str, object], str]] = {
    "prompt drips": ({"prompt": endless(b"x", wait=0.05)}, "did not answer in 0.5 s"),
    "view drips": ({"view": endless(b"x", wait=0.05)}, "did not answer in 0.5 s"),
    "view is silent": ({"view": endless(b"x", wait=0.7, count=2)}, "did not answer in 0.5 s"),
}
SILENT_LIES: dict[str, tuple[dict[str, object], str]] = {
    "silent and stuck": ({"ws": SILENT, "history": {}, "queue": status(503)}, "/queue answered HTTP 503"),
    "silent and wrong": ({"ws": SILENT, "history": {}, "queue": [1]}, "which is of another kind"),
    "silent but for other jobs, and stuck": (
        {"ws": said(*[{"type": "status", "data": {}}] * 50, then="nothing"), "history": [], "queue": []},
        "/history/",
    ),
    "silent, job forgotten": ({"ws": SILENT, "history": {}}, "no longer knows the job"),
}
CASES = {
    name: (limits, *case)
    for limits, cases in ((FAST, LIES), (IMPATIENT, SLOW_LIES), (ASKING, SILENT_LIES))
    for name, case in cases.items()
}

PASSED_OVER: dict[str, object] = {
    "no JSON": said("not json"),
    "a list": said("[1]"),
    "null": said("null"),
    "no data": said({"type": "x", "data": None}),
    "listed data": said({"type": "x", "data": [1]}),
    "no type": said({"data": {"prompt_id": "JOB"}}),
    "a type that is none": said({"type": ["progress"], "data": {"prompt_id": "JOB"}}),
    "deep": said("[" * 900),
    "too many values": said("[" * 60_000),
    "a long number": said('{"a": ' + "9" * 10_000 + "}"),
    "progress of nothing": said(event("progress", value=1, max=2)),
    "progress in words": said(event("progress", node="1", value="x", max="y")),
    "progress of null": said(event("progress", node=None, value=None, max=None)),
    "progress of a list": said(event("progress", node=[1], value=1, max=2)),
    "negative progress": said(event("progress", node="1", value=-5, max=-1)),
    "huge progress": said(event("progress", node="1", value=10**300, max=10**301)),
    "unspeakable progress": said(event("progress", node="1", value=10**4000, max=10**4000)),
    "endless progress": said(
        '{"type": "progress", "data": {"prompt_id": "JOB", "node": "1", "value": Infinity, "max": NaN}}'
    ),
    "progress beyond": said(event("progress", node="1", value=99, max=2), event("progress", node="1", value=1, max=2)),
    "progress of none": said(event("progress", node="1", value=0, max=0)),
    "an executed table": said(event("executing", node={"a": 1})),
    "an executed number": said(event("executing", node=1)),
    "short frames": said(b"", b"\0", b"\0\0\0\3", b"\0\0\0\3\0\0"),
    "a frame that lies": said(text(b"abc", 2**32 - 1)),
    "a frame of no text": said(text(b"\xff\xff\xfe")),
    "a message that is too large": said(b"\0" * 2**17),
}


@asynccontextmanager
async def serving(liar: Liar) -> AsyncIterator[str]:
    """A running server; its address."""
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", liar.answer)
    runner = web.AppRunner(application, shutdown_timeout=0.01, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def queued(liar: Liar, folder: Path, limits: Limits = FAST, image: bool = False) -> tuple[str, Any]:
    """Run the workflow; return the server's address, and what came of it or the error."""
    picture = folder / "my.png"
    picture.write_bytes(b"pixels")

    async def run() -> tuple[str, Any]:
        async with serving(liar) as url:
            try:
                images = [("1.image", picture)] if image else []
                return url, await queue.queued(WORKFLOW, images, url, folder / "out", limits)
            except ControlNetCoreError as error:
                return url, error

    return asyncio.run(asyncio.wait_for(run(), 20))


def written(folder: Path) -> list[str]:
    """All that lies in the folder, below it, and beside it, but for what the test put there."""
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and path.name != "my.png")


@pytest.mark.parametrize("name", CASES)
def test_a_lie_ends_in_an_error_that_names_the_server(name: str, tmp_path: Path) -> None:
    limits, lies, part = CASES[name]
    liar = Liar(lies)
    url, error = queued(liar, tmp_path, limits, image="upload" in lies)
    assert isinstance(error, ServerError), error
    message = str(error).replace(liar.job or "JOB", "JOB")
    assert part in message
    assert url in message
    assert message.isprintable() and len(message) < 1000
    assert written(tmp_path) == []



@pytest.mark.parametrize("name", PASSED_OVER)
def test_a_lie_that_does_not_matter_is_passed_over(name: str, tmp_path: Path) -> None:
    _, result = queued(Liar({"ws": PASSED_OVER[name]}), tmp_path)
    assert not isinstance(result, Exception), result
    assert [one["node"] for one in result["outputs"]] == ["My drawing (node 1)"]
    assert written(tmp_path) == ["x.png"]


@pytest.mark.parametrize(
    ("prompt", "part"),
    [
        (status(500), "refused the workflow (HTTP 500)"),
        (status(400, b"<html>"), "refused the workflow (HTTP 400)"),
        (status(400, b"[" * 60_000), "refused the workflow (HTTP 400)"),
        (status(400, {"node_errors": [1]}), "refused the workflow (HTTP 400)"),
        (status(400, {"node_errors": "x"}), "refused the workflow (HTTP 400)"),
        (status(400, {"node_errors": {"1": 5}}), "refused the workflow (HTTP 400)"),
        (status(400, {"node_errors": {"1": {"errors": None}}}), "refused the workflow (HTTP 400)"),
        ({"node_errors": {"1": 5}}, "refused the workflow (HTTP 200)"),
        (status(400, {"node_errors": {"1": {"errors": [5]}}}), "My drawing (node 1): error"),
        (status(400, {"node_errors": {"1": {"errors": [{"message": "no", "details": 5}]}}}), "My drawing (node 1): no"),
        (status(400, {"error": "not today", "node_errors": []}), "found not today"),
        (status(400, {"error": {"message": "no", "extra_info": 5}}), "found no;"),
        (status(400, {"error": {"message": "no", "extra_info": ["node_id"]}}), "found no;"),
        (status(400, {"error": {"message": ESCAPES}}), r"found \x1b[2J\x1b]0;owned\x07\u202e;"),
        (
            status(400, {"error": {"message": "no", "extra_info": {"node_id": "1", "class_type": "Draw"}}}),
            "My drawing (node 1): no node type Draw on this server; no",
        ),
        (status(400, {"node_errors": {str(n): {"errors": [{}] * 2} for n in range(30)}}), "; and more"),
    ],
)
def test_a_refusal_in_any_words_is_a_refusal(prompt: object, part: str, tmp_path: Path) -> None:
    _, error = queued(Liar({"prompt": prompt}), tmp_path)
    assert isinstance(error, ExecutionError)
    assert part in str(error) and str(error).isprintable()


@pytest.mark.parametrize(
    ("history", "part"),
    [
        (messages(["execution_error"]), "a node failed: the server does not say why"),
        (messages(["execution_error", None]), "a node failed: the server does not say why"),
        (messages(["execution_error", {}]), "a node failed: the server does not say why"),
        (messages(["execution_error", {"node_id": [1], "exception_message": "x"}]), "a node failed: x"),
        (messages(["execution_error", {"node_id": "1", "exception_message": 5}]), "My drawing (node 1) failed: the"),
        (messages(["execution_error", {"node_id": ESCAPES, "exception_message": "x"}]), r"node \x1b[2J"),
        (messages(["execution_error", {"exception_message": ESCAPES}]), r"failed: \x1b[2J\x1b]0;owned\x07"),
        (messages(["execution_error", {"node_id": "1", "exception_message": "z" * 9000}]), "zzz…; expected"),
        (messages(["execution_interrupted", {}]), "was interrupted in a node"),
        (messages(1, [2], ["execution_interrupted", {"node_id": "1"}]), "was interrupted in My drawing (node 1)"),
        (entry(status={"status_str": "error", "messages": None}), "a node failed: the server does not say why"),
    ],
)
def test_a_failure_in_any_words_is_a_failure(history: object, part: str, tmp_path: Path) -> None:
    _, error = queued(Liar({"history": history}), tmp_path)
    assert isinstance(error, ExecutionError)
    assert part in str(error) and str(error).isprintable() and len(str(error)) < 5000


def test_an_error_event_without_words_is_a_failure(tmp_path: Path) -> None:
    _, error = queued(Liar({"ws": said(event("execution_error"))}), tmp_path)
    assert isinstance(error, ExecutionError) and "a node failed" in str(error)


@pytest.mark.parametrize(
    "history",
    [
        entry(status=None, outputs={"1": {"images": [X]}}),
        entry(status={"messages": [1, 2, None, [], ["status"]]}, outputs={"1": {"images": [X]}}),
        entry(outputs={"2": None, "3": [1], "4": {"n": 5, "z": ["a", None, {"filename": 5}]}, "1": {"i": [X]}}),
        outputs({"filename": "x.png", "subfolder": None, "type": None}),
    ],
)
def test_what_nodes_put_beside_their_files_is_passed_over(history: object, tmp_path: Path) -> None:
    _, result = queued(Liar({"history": history}), tmp_path)
    assert not isinstance(result, Exception), result
    assert written(tmp_path) == ["x.png"]


def test_nothing_is_sent_to_where_an_answer_leads(tmp_path: Path) -> None:
    other = Liar({})

    async def run() -> None:
        async with serving(other) as elsewhere:
            for part in ("ws", "upload", "prompt", "history", "view"):
                for code in (301, 302, 303, 307, 308):
                    async with serving(Liar({part: status(code, Location=f"{elsewhere}/x")})) as url:
                        with pytest.raises(ServerError, match="leads to"):
                            await queue.queued(WORKFLOW, [("1.image", tmp_path / "a.png")], url, tmp_path / "out", FAST)

    (tmp_path / "a.png").write_bytes(b"pixels")
    asyncio.run(run())
    assert other.asked == []


def test_texts_are_shown_safely_and_the_last_are_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = [text(f"{number}{ESCAPES}".encode()) for number in range(20)] + [text("ä".encode() * 9000)]
    _, result = queued(Liar({"ws": said(*texts)}), tmp_path)
    kept = [one["text"] for one in result["texts"]]
    assert kept[:4] == [rf"{number}\x1b[2J\x1b]0;owned\x07\u202e" for number in range(16, 20)]
    assert kept[4:] == ["ä" * LIMITS.text_length + "…"]
    shown = capsys.readouterr().err
    assert r"My drawing (node 1): 0\x1b[2J" in shown
    assert "\x1b" not in shown and "\u202e" not in shown


def test_a_quiet_server_that_works_is_waited_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Three times longer than a server may leave it open whether the job runs."""
    asked, began = 0, 0.0

    async def history(liar: Liar, _: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        done = asyncio.get_running_loop().time() > began + 3 * FAST.lost_seconds
        return web.Response(text=liar.about(outputs(X) if done else {}))

    async def quiet(liar: Liar, request: web.Request) -> web.StreamResponse:
        nonlocal began
        began = asyncio.get_running_loop().time()
        return await said(event("executing", node="1"), then="nothing")(liar, request)

    url, result = queued(Liar({"ws": quiet, "history": history, "queue": running()}), tmp_path, ASKING)
    assert not isinstance(result, Exception), result
    assert f"{url} is quiet, but the job runs in My drawing (node 1); waiting" in capsys.readouterr().err
    assert 5 < asked <= 2 * (2 + 3 * FAST.lost_seconds / ASKING.quiet_seconds)


@pytest.mark.parametrize("speaks", [True, False])
def test_a_socket_that_holds_and_speaks_has_its_attempts_counted_anew(speaks: bool, tmp_path: Path) -> None:
    """More losses than there are attempts, each after a steady time."""
    limits = replace(FAST, steady_seconds=0.05, pauses=(0.01,))

    async def losing(liar: Liar, request: web.Request) -> web.StreamResponse:
        if liar.connections == 4:
            liar.lies["history"] = outputs(X)
        socket = await liar.socket(request)
        if speaks:
            await socket.send_str("{}")
        await asyncio.sleep(0.1)
        return socket

    liar = Liar({"ws": losing, "history": {}, "queue": running()})
    _, result = queued(liar, tmp_path, limits)
    if speaks:
        assert not isinstance(result, Exception), result
        assert liar.connections == 5
    else:
        assert isinstance(result, ServerError) and "lost the connection 1 times in a row" in str(result)
        assert liar.connections == 2


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("plain ä 💡 👩\u200d🎨\ttab\nline", "plain ä 💡 👩\u200d🎨\ttab\nline"),
        ("\x1b[31m\r\x07\x7f\x9b", r"\x1b[31m\r\x07\x7f\x9b"),
        ("\u202e\u2066\u2028\ud800\ufeff", r"\u202e\u2066\u2028\ud800\ufeff"),
    ],
)
def test_orders_to_a_terminal_are_written_out(raw: str, shown: str) -> None:
    assert visible(raw) == shown
    assert visible(shown) == shown


RAW = {
    "garbage": b"\x16\x03\x01 garbage \xff\r\n\r\n",
    "nothing": b"",
    "another protocol": b"SSH-2.0-OpenSSH_9.2\r\n",
    "no status": b"HTTP/1.1 abc\r\n\r\n",
    "a long header": b"HTTP/1.1 200 OK\r\nX: " + b"x" * 10**5 + b"\r\n\r\n",
    "many headers": b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 10**5 + b"\r\n",
    "a negative length": b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n{}",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "a wrong chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}",
    "interim answers": b"HTTP/1.1 102 Processing\r\n\r\n" * 10**4,
    "an order": b"HTTP/1.1 500 \x1b[2J\r\n\r\n",
    "a wrong handshake": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
}


@pytest.mark.parametrize("name", RAW)
@pytest.mark.parametrize("upload", [False, True])
def test_what_is_no_http_ends_in_an_error(name: str, upload: bool, tmp_path: Path) -> None:
    """As the answer to the WebSocket's opening, and as one to a request."""
    picture = tmp_path / "a.png"
    picture.write_bytes(b"pixels")

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(2**16)
        writer.write(RAW[name])
        writer.close()

    async def run() -> None:
        async with await asyncio.start_server(answer, "127.0.0.1", 0) as listening:
            url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
            with pytest.raises(ServerError) as error:
                await queue.queued(WORKFLOW, [("1.image", picture)] * upload, url, tmp_path / "out", FAST)
            assert url in str(error.value)
            assert str(error.value).isprintable() and len(str(error.value)) < 1000

    asyncio.run(asyncio.wait_for(run(), 20))
