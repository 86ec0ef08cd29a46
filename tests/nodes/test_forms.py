"""What each node's form says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.extension import Extension

ROOT = Path(__file__).resolve().parents[2]
MOST = 2**32 - 1
"""The largest number of a widget; more is as good as no limit."""
THE_USERS_WORDS = {"LoadControlNet", "ApplyControlNet", "StackControlNets", "TrainControlNet"}


def test_ids_are_the_users_words_or_carry_our_prefix(extension: Extension) -> None:
    assert extension.nodes.keys() >= THE_USERS_WORDS
    assert all(name in THE_USERS_WORDS or name.startswith("ControlNetCore") for name in extension.nodes)


def test_every_part_of_a_form_explains_itself(extension: Extension) -> None:
    for node_id, node in extension.nodes.items():
        schema = node.GET_SCHEMA()
        assert schema.display_name and schema.description and schema.search_aliases, node_id
        assert schema.category.split("/")[0] in ("model", "image"), node_id
        for socket in [*schema.inputs, *schema.outputs]:
            assert socket.tooltip, (node_id, socket.id or socket.display_name)


def test_every_node_has_a_page_of_help(extension: Extension) -> None:
    for node_id, node in extension.nodes.items():
        schema = node.GET_SCHEMA()
        text = (ROOT / "js" / "docs" / f"{node_id}.md").read_text(encoding="utf-8")
        assert text.startswith(f"# {schema.display_name}\n")
        for name in [one.id for one in schema.inputs] + [one.display_name for one in schema.outputs]:
            assert f"| `{name}` |" in text, (node_id, name)


def setting_rows(extension: Extension) -> list[str]:
    """The rows of the settings' widgets, made of the descriptions in the settings' fields."""
    rows = []
    for widget in extension.module("nodes.training_form").setting_inputs():
        told = widget.as_dict()
        values = ", ".join(told["options"]) if "options" in told else f"{told['min']:g} to {told['max']:g}"
        values = values.replace(f"to {MOST:g}", "and more")
        rows.append(f"| `{widget.id}` | {widget.get_io_type()} | {values} | {widget.tooltip} |")
    return rows


def test_the_help_of_training_is_made_of_its_settings(extension: Extension) -> None:
    text = (ROOT / "js" / "docs" / "TrainControlNet.md").read_text(encoding="utf-8")
    rows = setting_rows(extension)
    assert len(rows) >= 15 and "\n".join(rows) in text, "\n".join(["the rows of the settings are:", *rows])


def test_workflows_use_inputs_that_exist(extension: Extension) -> None:
    for path in (ROOT / "workflows" / "api").glob("*.json"):
        for node in json.loads(path.read_text(encoding="utf-8")).values():
            if node["class_type"] in extension.nodes:
                inputs = {one.id: one for one in extension.nodes[node["class_type"]].GET_SCHEMA().inputs}
                given = {name for name in node["inputs"] if "." not in name}  # a dot stands in inputs of a choice
                assert given <= inputs.keys(), path
                assert {name for name, one in inputs.items() if not one.optional} <= node["inputs"].keys(), path


def test_the_editor_leaves_the_seed_of_a_training_as_it_is(extension: Extension) -> None:
    """It changes a number called `seed` behind each run unless it is told not to, and a changed seed is another run."""
    (seed,) = (one for one in extension.nodes["TrainControlNet"].GET_SCHEMA().inputs if one.id == "seed")
    assert seed.control_after_generate is False


def test_an_old_host_gets_one_sentence(extension: Extension, monkeypatch: pytest.MonkeyPatch) -> None:
    version = extension.module("nodes.bridge.host.version")
    import comfyui_version

    for old in ("0.3.64", "0.32.9"):
        monkeypatch.setattr(comfyui_version, "__version__", old)
        with pytest.raises(RuntimeError, match=rf"needs ComfyUI 0\.33\.0 or newer and this is {old}"):
            version.check_host()
    for new in ("0.33.0", "0.34", "1.0.0"):
        monkeypatch.setattr(comfyui_version, "__version__", new)
        version.check_host()
