"""Our nets in ComfyUI's memory management: streamed weights, copies for other devices, and nothing left behind."""

from __future__ import annotations

from collections.abc import Iterator

import comfy.memory_management
import comfy.model_management
import pytest
import torch

from tests.host.graphs import Drawing
from tests.host.host import Host, largest_difference


@pytest.fixture
def dynamic_memory() -> Iterator[None]:
    """Layers without weights until a file's are given, as on a GPU with DynamicVRAM."""
    comfy.memory_management.aimdo_enabled = True
    yield
    comfy.memory_management.aimdo_enabled = False


def load(host: Host, name: str) -> torch.nn.Module:
    """A net as our loader gives it, read anew."""
    net = host.bridge("loading.net_file").load_control_net(name).control_net.control_model
    assert isinstance(net, torch.nn.Module)
    return net


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
@pytest.mark.usefixtures("dynamic_memory")
def test_nets_load_where_layers_have_no_weights_yet(host: Host, family: str) -> None:
    comfy.memory_management.aimdo_enabled = False
    reference = load(host, f"{family}_a.safetensors").state_dict()
    comfy.memory_management.aimdo_enabled = True
    state = load(host, f"{family}_a.safetensors").state_dict()
    assert state.keys() == reference.keys()
    assert all(torch.equal(state[key], tensor) for key, tensor in reference.items())


@pytest.mark.usefixtures("dynamic_memory")
def test_an_incomplete_file_is_refused_where_layers_have_no_weights_yet(host: Host, models: object) -> None:
    from safetensors.torch import load_file, save_file

    folder = models.folder / "controlnet"  # type: ignore[attr-defined]
    tensors = load_file(folder / "sd15_a.safetensors")
    key = "input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"
    for name, change in {"short": {}, "misshapen": {key: torch.zeros(3, 3)}}.items():
        rest = {one: tensor for one, tensor in tensors.items() if one != key}
        save_file({**rest, **change}, folder / f"{name}.safetensors")
        with pytest.raises(Exception, match=r"attn1\.to_q\.weight"):
            load(host, f"{name}.safetensors")


def test_a_copy_for_another_device_gives_the_same(host: Host) -> None:
    loading = host.bridge("loading.net_file")
    net = loading.load_control_net("sd15_a.safetensors").control_net
    cloned = net.deepclone_multigpu(torch.device("cpu"), autoregister=True)
    assert net.get_instance_for_device(torch.device("cpu")) is cloned
    assert cloned.control_model is not net.control_model
    assert cloned.get_models_only_self()[0].model is cloned.control_model
    pairs = zip(net.control_model.parameters(), cloned.control_model.parameters(), strict=True)
    assert all(torch.equal(*pair) and pair[0].data_ptr() != pair[1].data_ptr() for pair in pairs)


def test_a_run_leaves_nothing_behind(host: Host) -> None:
    """Not even the interrupted one, whose clean-up ComfyUI skips: the next run starts afresh."""
    drawing = Drawing("sd15", ours=True, size=(64, 64))
    drawing.apply(drawing.net("a"), drawing.images())
    drawing.capture("positive", drawing.positive)
    drawing.sample()
    captured = host.run(drawing.graph)
    control = captured["positive"][0][1]["control"]
    assert control.run is None
    assert control.cond_hint is None


def test_weights_are_as_large_as_the_file_says(host: Host) -> None:
    net = host.bridge("loading.net_file").load_control_net("sd15_a.safetensors").control_net
    expected = sum(parameter.numel() * parameter.element_size() for parameter in net.control_model.parameters())
    assert net.get_models()[0].model_size() == expected


def test_unloading_and_drawing_again_gives_the_same_picture(host: Host) -> None:
    drawing = Drawing("sd15", ours=True)
    drawing.apply(drawing.net("a"), drawing.images())
    drawing.sample()
    before = host.run(drawing.graph)["latent"]["samples"]
    comfy.model_management.unload_all_models()
    after = host.run(drawing.graph)["latent"]["samples"]
    assert largest_difference(after, before) == 0
