"""A layout is one entry of the registry: whatever reads and writes files knows it from there."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from controlnet_core.config import TINY
from controlnet_core.errors import CheckpointError
from controlnet_core.model.controlnet import ControlNet
from controlnet_core.weights.facts import Facts
from controlnet_core.weights.inspection import inspect_checkpoint
from controlnet_core.weights.keymap import KeyMap, Shapes
from controlnet_core.weights.layouts import ldm, registry
from controlnet_core.weights.layouts.kinds import ControlNetConfig, Layout
from controlnet_core.weights.load import load_controlnet
from controlnet_core.weights.save import save_controlnet
from tests.support.reduced import randomised


def third_keymap(config: ControlNetConfig) -> KeyMap:
    """The map of the LDM layout, with `/` for each `.` of its keys."""
    keymap = ldm.controlnet_keymap(config)
    entries = tuple(replace(entry, theirs=entry.theirs.replace(".", "/")) for entry in keymap.entries)
    return replace(keymap, entries=entries, name="ControlNet in the third layout")


def third_sizes(shapes: Shapes, facts: Facts) -> ControlNetConfig:
    return ldm.CONTROLNET.sizes({key.replace("/", "."): shape for key, shape in shapes.items()}, facts)


THIRD = replace(
    ldm.CONTROLNET,
    description="a ControlNet in the third layout",
    has_all=("*input_hint_block/0/weight",),
    name="third",
    sizes=third_sizes,
    keymap=third_keymap,
)


def test_a_third_layout_is_one_entry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    net, path = randomised(ControlNet(TINY)), tmp_path / "net.safetensors"
    with pytest.raises(CheckpointError, match="the layout 'third'"):
        save_controlnet(net, path, "third")
    monkeypatch.setattr(registry, "KINDS", (*registry.KINDS, THIRD))
    save_controlnet(net, path, "third")
    loaded = load_controlnet(path)
    assert all(torch.equal(loaded.state_dict()[key], tensor) for key, tensor in net.state_dict().items())
    report = inspect_checkpoint(path)
    assert (report.layout, report.description, report.usable) == ("third", THIRD.description, True)


def test_a_layout_that_is_only_read_is_not_saved(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(registry, "KINDS", (*registry.KINDS, replace(THIRD, saves=())))
    with pytest.raises(CheckpointError, match="'ldm' or 'diffusers'"):
        save_controlnet(randomised(ControlNet(TINY)), tmp_path / "net.safetensors", "third")


def test_each_model_has_each_layout_once() -> None:
    named = Counter((kind.model, kind.name) for kind in registry.KINDS if isinstance(kind, Layout))
    assert set(named.values()) == {1}, named
