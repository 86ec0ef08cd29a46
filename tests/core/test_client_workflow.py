"""Workflows in the API format: reading them and changing their inputs by id or title."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from controlnet_core.comfy_client.workflow import Workflow, WorkflowError, read_workflow

ROOT = Path(__file__).resolve().parents[2]
NODES: dict[str, Any] = {
    "1": {"class_type": "Load", "inputs": {"name": "a.png", "nets.net0": ["2", 0]}, "_meta": {"title": "Mr. Hint"}},
    "2": {"class_type": "Draw", "inputs": {"steps": 20, "cfg": 7.0, "on": True, "model": ["1", 0]}},
    "3": {"class_type": "Text", "inputs": {"text": "7"}, "_meta": {"title": "Prompt"}},
    "4": {"class_type": "Text", "inputs": {"text": ""}, "_meta": {"title": "Twice"}},
    "5": {"class_type": "Text", "inputs": {"text": ""}, "_meta": {"title": "Twice"}},
}


@pytest.mark.parametrize(
    ("address", "text", "expected"),
    [
        ("2.steps", "30", 30),
        ("2.cfg", "7.5", 7.5),
        ("2.cfg", "7", 7),
        ("2.on", "false", False),
        ("3.text", "42", "42"),
        ("Prompt.text", 'say "hello", [now]', 'say "hello", [now]'),
        ("Mr. Hint.name", "b.png", "b.png"),
        ("Mr. Hint.nets.net0", '["3", 1]', ["3", 1]),
        ("2.model", "a name in place of a link", "a name in place of a link"),
    ],
)
def test_an_input_is_changed_by_id_or_title(address: str, text: str, expected: object) -> None:
    before = json.dumps(NODES)
    changed = Workflow(NODES).with_text(address, text)
    node_id, key = changed.input_named(address)
    assert changed.nodes[node_id]["inputs"][key] == expected
    assert type(changed.nodes[node_id]["inputs"][key]) is type(expected)
    assert json.dumps(NODES) == before


@pytest.mark.parametrize(
    ("address", "text", "parts"),
    [
        ("2.step", "30", ["2.step", "2.steps"]),
        ("Promt.text", "x", ["Promt.text", "Prompt.text"]),
        ("9.text", "x", ["9.text", "NODE.INPUT"]),
        ("Twice.text", "x", ["2 nodes", "4.text", "5.text"]),
        ("2.steps", "many", ["2.steps=many", "20"]),
        ("2.on", "1", ["2.on=1", "true"]),
        ("2.steps", "true", ["2.steps=true", "20"]),
    ],
)
def test_what_cannot_be_changed_is_said(address: str, text: str, parts: list[str]) -> None:
    with pytest.raises(WorkflowError) as error:
        Workflow(NODES).with_text(address, text)
    assert all(part in str(error.value) for part in parts), error.value


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (None, ["cannot be read"]),
        ("", ["not JSON"]),
        ("{", ["not JSON"]),
        ("[]", ["not a workflow"]),
        ("{}", ["not a workflow"]),
        ('{"1": {"inputs": {}}}', ["not a workflow"]),
        ('{"1": {"class_type": 5}}', ["not a workflow"]),
        ('{"1": {"class_type": "Draw", "inputs": [1]}}', ["not a workflow"]),
        ('{"1": {"class_type": "Draw", "_meta": "x"}}', ["not a workflow"]),
        ('{"1": {"class_type": "Draw", "_meta": {"title": [1]}}}', ["not a workflow"]),
        ('{"nodes": [], "links": [], "version": 0.4}', ["as the editor saves it", "Export (API)"]),
        ("\xff", ["not JSON"]),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: str | None, parts: list[str]) -> None:
    path = tmp_path / "workflow.json"
    if content is not None:
        path.write_bytes(content.encode("latin-1"))
    with pytest.raises(WorkflowError) as error:
        read_workflow(path)
    assert all(part in str(error.value) for part in ["workflow.json", *parts]), error.value


def test_a_submission_is_read_as_well(tmp_path: Path) -> None:
    path = tmp_path / "workflow.json"
    path.write_text(json.dumps({"prompt": NODES, "client_id": "x"}), encoding="utf-8")
    assert read_workflow(path).nodes == NODES


@pytest.mark.parametrize("path", sorted((ROOT / "workflows" / "api").glob("*.json")), ids=lambda path: path.stem)
def test_the_saved_workflows_have_a_title_on_every_node_and_an_editors_twin(path: Path) -> None:
    workflow = read_workflow(path)
    titles = [node["_meta"]["title"] for node in workflow.nodes.values()]
    assert len(set(titles)) == len(titles)
    twin = json.loads((ROOT / "workflows" / path.name).read_text(encoding="utf-8"))
    assert twin["version"] == 0.4
    kinds = {str(node["id"]): (node["type"], node.get("title")) for node in twin["nodes"]}
    for node_id, node in workflow.nodes.items():
        assert kinds[node_id] == (node["class_type"], node["_meta"]["title"])
    assert (ROOT / "workflows" / f"{path.stem}.jpg").is_file()


def test_a_title_gives_no_orders_to_a_terminal() -> None:
    node = {"class_type": "Draw", "inputs": {}, "_meta": {"title": "\x1b[2JMy\u202e drawing" + "!" * 500}}
    workflow = Workflow({"1\x07": node})
    assert workflow.title("1\x07").startswith(r"\x1b[2JMy\u202e drawing!!!")
    assert workflow.title("1\x07").endswith(r"!… (node 1\x07)")
    assert workflow.title("\x1b" * 9) == "node " + r"\x1b" * 9
    assert workflow.title("") == "a node"
