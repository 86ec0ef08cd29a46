"""Every saved workflow opens whole in ComfyUI's editor: no error, nothing missing, each link and each value kept."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.node_info import PACK
from tests.web.conftest import Editor

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))
PROMPT = "app.graphToPrompt().then((made) => made.output)"
SHOWN = "[...document.querySelectorAll('[data-node-id]')].map((node) => node.dataset.nodeId)"
ODD = """\
app.graph._nodes.flatMap((node) => (node.widgets ?? []).flatMap((widget) => {
  const { values, min, max } = widget.options ?? {}, value = widget.value;
  const odd = Array.isArray(values) ? !values.includes(value) : value < min || value > max;
  return odd ? [`${node.title}: ${widget.name} = ${value}`] : [];
}))
"""
"""Widgets that hold what their form does not offer."""
OURS = f"[...document.querySelectorAll('[role=dialog] nav *')].findLast((one) => one.innerText === '{PACK}')"
"""The entry of our templates in the list at the side of the templates."""


@dataclass(frozen=True)
class Opened:
    """A workflow in the editor.

    Attributes:
        name: Its name.
        saved: The file.
        kept: What the editor would save now.
        prompt: What it would queue.
        complaints: What it complained of.
        odd: The widgets that hold a value that they do not offer.
        shown: The ids of the nodes that are elements of the page.
    """

    name: str
    saved: dict[str, Any]
    kept: dict[str, Any]
    prompt: dict[str, Any]
    complaints: list[str]
    odd: list[str]
    shown: list[str]


@pytest.fixture(scope="module", params=WORKFLOWS, ids=lambda path: path.stem)
def opened(editor: Editor, request: pytest.FixtureRequest) -> Opened:
    """The workflow, opened."""
    path: Path = request.param
    text = path.read_text(encoding="utf-8")
    editor.run(f"app.loadGraphData({text})")
    editor.until("new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(() => drawn(true))))")
    kept, prompt, odd, shown = (editor.run(script) for script in ("app.graph.serialize()", PROMPT, ODD, SHOWN))
    return Opened(path.stem, json.loads(text), kept, prompt, editor.complaints(), odd, shown)


def queued(prompt: dict[str, Any]) -> dict[str, Any]:
    """What of a prompt is computed with."""
    return {node_id: (node.get("class_type"), node["inputs"]) for node_id, node in prompt.items()}


def api_workflow(name: str) -> dict[str, Any]:
    """The workflow for a server, of the same name."""
    nodes: dict[str, Any] = json.loads((ROOT / "workflows" / "api" / f"{name}.json").read_text(encoding="utf-8"))
    return nodes


def test_it_opens_without_a_complaint(opened: Opened) -> None:
    """Neither an error in the console nor a node, a model or a picture that is missing."""
    assert not opened.complaints


def test_it_queues_what_the_api_workflow_says(opened: Opened) -> None:
    made, said = queued(opened.prompt), queued(api_workflow(opened.name))
    assert made.keys() == said.keys()
    for node_id, node in said.items():
        assert made[node_id] == node, node_id


def test_every_link_and_value_is_kept(opened: Opened) -> None:
    assert opened.kept["links"] == opened.saved["links"]
    kept, saved = ({node["id"]: node for node in graph["nodes"]} for graph in (opened.kept, opened.saved))
    assert kept.keys() == saved.keys()
    for node_id, node in saved.items():
        for name in ("type", "title", "widgets_values", "mode"):
            assert kept[node_id].get(name) == node.get(name), (node["type"], name)


def test_every_widget_holds_what_it_offers(opened: Opened) -> None:
    assert not opened.odd


def test_the_chosen_renderer_draws_every_node(opened: Opened, editor: Editor) -> None:
    expected = {str(node["id"]) for node in opened.saved["nodes"]} if editor.vue else set()
    assert set(opened.shown) == expected


def test_there_is_one_for_each_api_workflow() -> None:
    api = sorted((ROOT / "workflows" / "api").glob("*.json"))
    assert [path.name for path in WORKFLOWS] == [path.name for path in api]


def test_a_template_is_opened_and_run_as_a_user_does(editor: Editor) -> None:
    name = "tiny_apply"
    editor.run("app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    editor.until(f"!!{OURS}")
    editor.run(f"{OURS}.click()")
    for path in WORKFLOWS:
        editor.until(f"!!document.querySelector('[data-testid=template-workflow-{path.stem}] img')?.naturalWidth")
    editor.run(f"document.querySelector('[data-testid=template-workflow-{name}]').click()")
    editor.until(f"app.extensionManager.workflow.activeWorkflow.filename.startsWith('{name}')")
    editor.server.queued.clear()
    editor.run("document.querySelector('[data-testid=queue-button]').click()")
    editor.until("!!document.querySelector('[data-testid=queue-notification-banner]')")
    assert not editor.complaints()
    assert [queued(one["prompt"]) for one in editor.server.queued] == [queued(api_workflow(name))]
