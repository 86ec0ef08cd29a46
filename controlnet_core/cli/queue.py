"""`controlnet-core queue`: runs a workflow on a ComfyUI server."""

from __future__ import annotations

import argparse
import asyncio
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..comfy_client.limits import LIMITS, MEBIBYTE, Limits
from .output import Interrupted, note, print_result
from .parser import Commands, new_command
from .picture_files import check_writable
from .progress import Bar

if TYPE_CHECKING:
    from ..comfy_client.execution import Job, Report
    from ..comfy_client.workflow import Workflow

DESCRIPTION = """\
Run a workflow on a ComfyUI server, show its progress and fetch its pictures.
The workflow is in the API format: in ComfyUI, choose Workflow > Export (API).
Ctrl-C interrupts the job on the server. A lost connection is opened again.
No answer of the server is believed unseen: what no ComfyUI server sends, or more
than the limits below, is an error or passed over, and it leads to no other host.
Needs aiohttp, which comes with ComfyUI: pip install 'controlnet-core[queue]'."""
EPILOG = f"""\
NODE is a node's id or its title. A text input takes VALUE as it is; others take
JSON: 20, 7.5, true.

limits, far beyond what ComfyUI sends:
  output files  {LIMITS.file_bytes // MEBIBYTE} MiB each, {LIMITS.files} in all
  answers       {LIMITS.answer_bytes // MEBIBYTE} MiB and {LIMITS.answer_values} values
  messages      {LIMITS.message_bytes // MEBIBYTE} MiB
  time          {LIMITS.answer_seconds:.0f} s for an answer, and one more for each {LIMITS.slowest // 1024} KiB
  texts         {LIMITS.text_length} characters; the last {LIMITS.texts} are in the result
  connections   {len(LIMITS.pauses)} attempts in {sum(LIMITS.pauses):.0f} s to open a lost one again
  silence       {LIMITS.lost_seconds:.0f} s in which the server does not say whether the job runs
A job may take any time: a quiet server is asked whether it still runs.

examples:
  controlnet-core queue workflows/api/tiny_apply.json --out pictures
  controlnet-core queue workflows/api/sd15_apply.json --server http://gpu:8188 \\
      --set "Prompt.text=a cat" --set Draw.seed=7 --image Hint.image=cat_canny.png
"""


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = new_command(commands, "queue", "run a workflow on a ComfyUI server", DESCRIPTION, EPILOG)
    add = parser.add_argument
    add("workflow", metavar="WORKFLOW.json", type=Path, help="the workflow, in the API format")
    server = "the server's address (default: %(default)s)"
    add("--server", metavar="URL", default="http://127.0.0.1:8188", help=server)
    value = "give an input another value; may be repeated (default: as in the workflow)"
    add("--set", metavar="NODE.INPUT=VALUE", type=assignment, action="append", default=[], help=value)
    image = "send an image to the server and use it for an input; may be repeated (default: as in the workflow)"
    add("--image", metavar="NODE.INPUT=FILE", type=assignment, action="append", default=[], help=image)
    out = "the folder for the pictures; files already there are kept (default: %(default)s)"
    add("--out", metavar="DIR", type=Path, default=Path("pictures"), help=out)


def assignment(text: str) -> tuple[str, str]:
    """Read NAME=VALUE."""
    name, equals, value = text.partition("=")
    if not equals or "." not in name:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NODE.INPUT=VALUE")
    return name, value


def run(arguments: argparse.Namespace) -> int:
    """Run the command: everything that can be checked here is checked before the server is asked."""
    from ..comfy_client.workflow import WorkflowError, read_workflow
    from ..errors import ControlNetCoreError

    try:
        import aiohttp  # noqa: F401 - reported before anything else if it is missing
    except ImportError as error:
        raise ControlNetCoreError("no aiohttp", "aiohttp", "run `pip install 'controlnet-core[queue]'`") from error
    workflow = read_workflow(arguments.workflow)
    for address, value in arguments.set:
        workflow = workflow.with_text(address, value)
    images = [(address, Path(file)) for address, file in arguments.image]
    for address, file in images:
        workflow.input_named(address)
        if not file.is_file():
            raise WorkflowError(f"no file {file}", f"an image for {address}", "check the path")
    check_writable(arguments.out)
    began = time.monotonic()
    content = asyncio.run(queued(workflow, images, arguments.server, arguments.out))
    content["seconds"] = round(time.monotonic() - began, 3)
    facts = [("picture", output["path"]) for output in content["outputs"]]
    print_result([*facts, ("time", f"{content['seconds']:.1f} s")], content, arguments.json)
    return 0


async def queued(
    workflow: Workflow, images: list[tuple[str, Path]], url: str, out: Path, limits: Limits = LIMITS
) -> dict[str, Any]:
    """Send the images, run the workflow and fetch its files.

    Arguments:
        workflow: What to run.
        images: Inputs, as NODE.INPUT, and the files to send for them.
        url: The server's address.
        out: The folder for the files.
        limits: What the server may send.

    Raises:
        ServerError: If the server cannot be reached, goes away, or answers what no ComfyUI server does.
        ExecutionError: If it refuses the workflow, or a node fails.
        Interrupted: If Ctrl-C was pressed; the job is stopped on the server then.
    """
    import uuid

    from ..comfy_client.connection import new_session
    from ..comfy_client.execution import Job
    from ..comfy_client.server import Server

    async with new_session(limits) as session:
        server = Server(url, session, uuid.uuid4().hex, limits)
        for address, file in images:
            workflow = workflow.with_input(address, await server.upload_image(file))
        job = Job(server, workflow)
        texts = await _watched(job)
        outputs = [
            {"node": workflow.title(node_id), "path": str(await server.fetch(output, out))}
            for node_id, output in job.outputs()
        ]
        return {"prompt_id": job.prompt_id, "outputs": outputs, "texts": texts}


async def _watched(job: Job) -> list[dict[str, str]]:
    """Run a job and show its progress; return what its nodes said."""
    display = Display(job.server.limits.texts)
    try:
        async for report in job.run():
            display.show(report)
    except asyncio.CancelledError:
        await job.cancel()
        raise Interrupted(
            f"the job is stopped on {job.server.url}; the same command queues it again", {"prompt_id": job.prompt_id}
        ) from None
    finally:
        display.close()
    return list(display.texts)


class Display:
    """Shows a job's reports on standard error: a bar for each node that counts.

    Arguments:
        texts: How many texts are kept.

    Attributes:
        texts: What nodes said last.
    """

    def __init__(self, texts: int) -> None:
        self.texts: deque[dict[str, str]] = deque(maxlen=texts)
        self._bar: Bar | None = None
        self._bar_node = ""
        self._said = ""

    def show(self, report: Report) -> None:
        """Show one report."""
        from ..comfy_client.execution import NodeText, Progress, Waiting

        match report:
            case Progress(node=node, done=done, total=total) if total:
                self._bar_of(node).show(done, total)
            case Progress(node=node):
                self._say(node)
            case NodeText(node=node, text=text):
                self.texts.append({"node": node, "text": text})
                note(f"{node}: {text}")
            case Waiting(reason=reason):
                self._say(reason)

    def close(self) -> None:
        """End the bar that is shown."""
        if self._bar is not None:
            self._bar.__exit__()
            self._bar = None

    def _bar_of(self, node: str) -> Bar:
        if self._bar is None or self._bar_node != node:
            self.close()
            self._bar, self._bar_node = Bar(node, "step"), node
        return self._bar

    def _say(self, text: str) -> None:
        """Print a text, unless it is the last one again."""
        if text != self._said:
            self._said = text
            note(text)
