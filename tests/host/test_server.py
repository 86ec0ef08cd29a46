"""The real server, as a process: what it lists, that every saved workflow runs, and the command that queues them."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.host.named_files import write_named_files
from tests.host.running_server import ROOT, RunningServer, restarted, start_server
from tests.host.running_server import mortal as mortal
from tests.host.training import write_pairs
from tools.browser import new_page
from tools.make_workflows import open_editor

API = sorted((ROOT / "workflows" / "api").glob("*.json"))
NODES = (
    "LoadControlNet",
    "ApplyControlNet",
    "StackControlNets",
    "TrainControlNet",
    "ControlNetCoreDataset",
    "ControlNetCoreTinyBase",
    "ControlNetCoreShapes",
)
SMALLER = {
    "sd15_apply": ("Draw.steps=2", "Size and number.width=128", "Size and number.height=192"),
    "sd15_stack": ("Draw.steps=2", "Size and number.width=128", "Size and number.height=128"),
    "tiny_train": ("Train.steps=4", "Train.evaluation_every=2", "Pairs to learn from.source.count=48"),
    "sd15_train": ("Train.steps=1", "Train.batch_size=1", "Pairs to learn from.source.size=64"),
    "sdxl_apply": ("Draw.steps=2", "Size and number.width=128", "Size and number.height=128"),
}
"""What is changed so that a CPU runs the reduced models to their end in seconds."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server with models under the names that the saved workflows ask for."""
    folder = tmp_path_factory.mktemp("server")
    write_named_files(folder / "models")
    write_pairs(folder / "input" / "fill50k", count=24)
    running = start_server(folder)
    yield running
    running.process.kill()
    running.process.wait()


def test_the_pack_loads_at_once_and_without_a_warning(server: RunningServer) -> None:
    version = server.get("/system_stats")["system"]["comfyui_version"]
    found = re.search(r"([\d.]+) seconds(.*): \S*controlnet-core", server.log)
    assert found is not None, server.log
    print(f"\nComfyUI {version}: the pack is imported in {found[1]} s")
    assert "FAILED" not in found[2]
    assert float(found[1]) < 1
    lines = [line for line in server.log.splitlines() if "controlnet" in line.lower() and "WARNING" in line]
    assert not lines


def test_the_nodes_are_listed_with_help_for_everything(server: RunningServer) -> None:
    info = server.get("/object_info")
    for name in NODES:
        node = info[name]
        assert "controlnet" in node["python_module"]
        assert node["description"] and node["search_aliases"]
        inputs = {**node["input"].get("required", {}), **node["input"].get("optional", {})}
        assert all(options[1].get("tooltip") for options in inputs.values()), name
        assert all(node["output_tooltips"]), name
        assert len(node["output_tooltips"]) == len(node["output"])
    assert info["LoadControlNet"]["category"] == info["ControlNetLoader"]["category"]
    assert info["ApplyControlNet"]["category"] == info["ControlNetApplyAdvanced"]["category"]
    names = info["LoadControlNet"]["input"]["required"]["control_net_name"][1]["options"]
    assert {"tiny_outline.safetensors", "tiny_colour_map.safetensors"} <= set(names)
    assert set(names) == set(info["ControlNetLoader"]["input"]["required"]["control_net_name"][0])


def test_the_stand_in_says_of_nodes_what_the_server_says(server: RunningServer) -> None:
    """What `tests/web` tells the editor, from the double of ComfyUI and from a list, holds of ComfyUI."""
    words = [sys.executable, "-m", "tests.support.node_info"]
    said = json.loads(subprocess.run(words, cwd=ROOT, capture_output=True, check=True).stdout)
    assert not differences(said, server.get("/object_info"), "")


def differences(said: Any, real: Any, place: str) -> list[str]:  # noqa: ANN401 - JSON
    """Where what is said is not real. Less may be said: of choices and of a node's properties."""
    if isinstance(said, dict) and isinstance(real, dict):
        return [one for key in said for one in differences(said[key], real.get(key), f"{place}/{key}")]
    if isinstance(said, list) and isinstance(real, list):
        if all(isinstance(one, str) for one in said):
            holds = said == real or (len(said) < len(real) and set(said) <= set(real))
            return [] if holds else [f"{place}: {said} is not in {real}"]
        pairs = enumerate(zip_longest(said, real))
        return [one for index, pair in pairs for one in differences(*pair, f"{place}/{index}")]
    return [] if said in (real, "") else [f"{place}: {said} is not {real}"]


def test_the_template_browser_lists_the_workflows(server: RunningServer) -> None:
    templates = server.get("/api/workflow_templates")["controlnet-core"]
    assert sorted(templates) == [path.stem for path in API]
    for name in templates:
        address = f"{server.url}/api/workflow_templates/controlnet-core/{name}"
        assert server.get(f"/api/workflow_templates/controlnet-core/{name}.json")["version"] == 0.4
        with urllib.request.urlopen(f"{address}.jpg") as picture:
            assert Image.open(picture).size[0] > 200


@pytest.mark.parametrize("name", NODES)
def test_each_node_has_a_page_of_help(server: RunningServer, name: str) -> None:
    with urllib.request.urlopen(f"{server.url}/extensions/controlnet-core/docs/{name}.md") as answer:
        text = answer.read().decode()
        assert "html" not in answer.headers["Content-Type"]
    info = server.get(f"/object_info/{name}")[name]
    inputs = {**info["input"].get("required", {}), **info["input"].get("optional", {})}
    assert text.startswith(f"# {info['display_name']}")
    assert all(f"`{one}`" in text for one in [*inputs, *info["output_name"]]), [*inputs, *info["output_name"]]


@pytest.mark.parametrize("path", API, ids=lambda path: path.stem)
def test_every_saved_workflow_runs_to_its_end(server: RunningServer, path: Path) -> None:
    changes = [option for change in SMALLER.get(path.stem, ()) for option in ("--set", change)]
    command = server.queue(path, *changes, "--json")
    output, errors = command.communicate()
    assert command.returncode == 0, errors
    result = json.loads(output)
    assert result["outputs"]
    for one in result["outputs"]:
        with Image.open(one["path"]) as picture:
            assert picture.size[0] >= 128
    reports = [one["text"] for one in result["texts"] if "read by" in one["text"]]
    assert all("read by ControlNet Core" in report for report in reports)
    assert bool(reports) != path.stem.endswith("_train")


def test_the_editor_queues_what_the_api_workflows_say(server: RunningServer) -> None:
    """In ComfyUI's own frontend, in Chromium."""

    async def prompts() -> tuple[dict[str, Any], list[str]]:
        async with new_page() as page:
            await open_editor(page, server.url)
            made = {}
            for path in API:
                graph = (ROOT / "workflows" / path.name).read_text(encoding="utf-8")
                await page.run(f"app.loadGraphData({graph})")
                made[path.stem] = await page.run("app.graphToPrompt().then((made) => made.output)")
            return made, page.console

    made, console = asyncio.run(prompts())
    for path in API:
        nodes = json.loads(path.read_text(encoding="utf-8"))
        for node_id, node in nodes.items():
            assert made[path.stem][node_id]["class_type"] == node["class_type"]
            assert made[path.stem][node_id]["inputs"] == node["inputs"], (path.stem, node_id)
        assert made[path.stem].keys() == nodes.keys()
    assert not [line for line in console if "controlnet" in line.lower()]


def test_an_image_and_other_values_are_sent(server: RunningServer, tmp_path: Path) -> None:
    Image.new("RGB", (96, 64), "white").save(tmp_path / "my hint.png")
    smaller = [option for change in SMALLER["sd15_stack"] for option in ("--set", change)]
    image = ("--image", f"Pose.image={tmp_path / 'my hint.png'}", "--set", "No prompt.text=a cat, sitting")
    command = server.queue(ROOT / "workflows/api/sd15_stack.json", *smaller, *image, "--json")
    output, errors = command.communicate()
    assert command.returncode == 0, errors
    result = json.loads(output)
    prompt = server.get(f"/history/{result['prompt_id']}")[result["prompt_id"]]["prompt"][2]
    titled = {node["_meta"]["title"]: node["inputs"] for node in prompt.values()}
    assert titled["Pose"]["image"] == "my hint.png"
    assert titled["No prompt"]["text"] == "a cat, sitting"
    assert any("another aspect" in one["text"] and one["node"].startswith("Second net") for one in result["texts"])


def changed(tmp_path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """A copy of the first workflow with a change."""
    nodes = json.loads((ROOT / "workflows/api/tiny_apply.json").read_text())
    change(nodes)
    path = tmp_path / "changed.json"
    path.write_text(json.dumps(nodes))
    return path


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (lambda nodes: nodes["2"].update(class_type="NoSuchNode"), ["NoSuchNode", "Outline net"]),
        (lambda nodes: nodes["6"]["inputs"].update(strength=99), ["Apply", "strength", "10"]),
        (lambda nodes: nodes["2"]["inputs"].update(control_net_name="none.safetensors"), ["Outline net", "none"]),
        (lambda nodes: nodes["6"]["inputs"].pop("image"), ["Apply", "image"]),
        (lambda nodes: nodes["6"]["inputs"].update(start_percent=0.9, end_percent=0.1), ["Apply", "start = 0.9"]),
    ],
    ids=["unknown node", "out of range", "no such file", "input missing", "fails while it runs"],
)
def test_what_the_server_refuses_is_said_with_the_nodes_title(
    server: RunningServer, tmp_path: Path, change: Callable[[dict[str, Any]], object], parts: list[str]
) -> None:
    command = server.queue(changed(tmp_path, change))
    output, errors = command.communicate()
    print(f"\n{errors.strip()}")
    assert command.returncode == 1
    message = errors.strip().splitlines()[-1]
    assert message.startswith("error: ") and all(part in message for part in parts)
    assert not output


def long_workflow(tmp_path: Path) -> Path:
    """A workflow of minutes."""
    return changed(tmp_path, lambda nodes: nodes["8"]["inputs"].update(steps=5000))


def wait_for(command: subprocess.Popen[str], text: str) -> None:
    """Read what a command prints until it prints a text."""
    assert command.stderr is not None
    for line in command.stderr:
        if text in line:
            return
    raise AssertionError(f"it never printed {text!r}")


def test_ctrl_c_interrupts_the_job_on_the_server(server: RunningServer, tmp_path: Path) -> None:
    command = server.queue(long_workflow(tmp_path), "--json")
    wait_for(command, "Draw")
    command.send_signal(signal.SIGINT)
    output, errors = command.communicate()
    print(f"\n{errors.strip()}")
    assert command.returncode == 130
    prompt_id = json.loads(output)["interrupted"]["prompt_id"]
    deadline = time.monotonic() + 60
    while prompt_id not in server.get("/history") and time.monotonic() < deadline:
        time.sleep(0.2)
    events = [event for event, _ in server.get("/history")[prompt_id]["status"]["messages"]]
    assert "execution_interrupted" in events
    assert not server.get("/queue")["queue_running"]


def test_a_server_that_is_down(server: RunningServer) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}"
    command = server.queue(API[0], server=nobody)
    _, errors = command.communicate()
    print(f"\n{errors.strip()}")
    assert command.returncode == 1
    assert nobody in errors and "start it" in errors


def test_a_server_that_is_killed_in_the_middle(mortal: RunningServer, tmp_path: Path) -> None:
    command = mortal.queue(long_workflow(tmp_path))
    wait_for(command, "Draw")
    mortal.process.kill()
    mortal.process.wait()
    _, errors = command.communicate()
    print(f"\n{errors.strip()}")
    assert command.returncode == 1
    assert "was lost" in errors and "no server at" in errors


def test_a_server_that_was_started_again_no_longer_knows_the_job(mortal: RunningServer, tmp_path: Path) -> None:
    command = mortal.queue(long_workflow(tmp_path))
    wait_for(command, "Draw")
    mortal.process.kill()
    mortal.process.wait()
    again = restarted(mortal)
    _, errors = command.communicate()
    again.kill()
    again.wait()
    print(f"\n{errors.strip()}")
    assert command.returncode == 1
    assert "no longer knows the job" in errors
