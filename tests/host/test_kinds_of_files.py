"""Files of every kind through Load ControlNet: read as they are meant, or refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.host.graphs import Drawing
from tests.host.host import GraphError, Host, largest_difference
from tests.host.models import Models

BOUND = 3e-5
Tensors = dict[str, Tensor]
OWN = ("zero_convs.", "input_hint_block.", "middle_block_out.")


def unet_of(models: Models, family: str = "sd15") -> Tensors:
    prefix = "model.diffusion_model."
    tensors = load_file(models.folder / "diffusion_models" / f"{family}.safetensors")
    return {key.removeprefix(prefix): tensor for key, tensor in tensors.items()}


@pytest.fixture(scope="module")
def files(models: Models) -> Path:
    """One net of SD1.5 in files of many kinds."""
    folder = models.folder / "controlnet"
    net, unet = load_file(folder / "sd15_a.safetensors"), unet_of(models)

    def put(name: str, tensors: Tensors) -> None:
        save_file({key: tensor.contiguous().clone() for key, tensor in tensors.items()}, folder / name)

    differences = {key: tensor if key.startswith(OWN) else tensor - unet[key] for key, tensor in net.items()}
    marked = {**{f"control_model.{key}": tensor for key, tensor in differences.items()}, "difference": torch.ones(1)}
    put("sd15_difference.safetensors", marked)
    torch.save(marked, folder / "sd15_difference.pth")
    put("sd15_content.pth", net)
    items = list(net.items())
    for number in (0, 1):
        put(f"sd15_part-0000{number + 1}-of-00002.safetensors", dict(items[number::2]))
    put("sd15_alone-00001-of-00002.safetensors", dict(items[::2]))
    put("sd15_int8.safetensors", {key: (tensor * 10).to(torch.int8) for key, tensor in net.items()})
    linear = [key for key, tensor in net.items() if tensor.ndim == 2 and key.endswith(".weight")]
    scales = {key: net[key].abs().max() / 448 for key in linear}
    scaled = {key: (net[key] / scales[key]).to(torch.float8_e4m3fn) for key in linear}
    put("sd15_scaled.safetensors", {**net, **scaled, **{f"{key[:-6]}scale_weight": scales[key] for key in linear}})
    put("sd15_multiplied.safetensors", {**net, **{key: scaled[key].float() * scales[key] for key in linear}})
    put("sd15_lora_layers.safetensors", {**net, "input_blocks.1.1.lora_layer.weight": torch.ones(2, 2)})
    whole = load_file(folder / "sd15_diffusers.safetensors")
    put("sd15_sparse.safetensors", {**whole, "down_blocks.0.motion_modules.0.norm.weight": torch.ones(2)})
    put("sd15_cut.safetensors", {key: tensor for key, tensor in net.items() if not key.startswith("middle_block_out")})
    put("sd15_shuffle.safetensors", net)
    (folder / "pooled").mkdir()
    put("pooled/diffusion_pytorch_model.safetensors", net)
    (folder / "pooled" / "config.json").write_text('{"global_pool_conditions": true}')
    torch.save([torch.ones(3), torch.ones(3)], folder / "sd15_list.pth")
    return folder


def drawn(host: Host, name: str, kind: str = "ours") -> Tensor:
    """Latents with a net applied by our nodes or by the native ones."""
    drawing = Drawing("sd15", ours=kind == "ours")
    link = drawing.net(name)
    if "difference" in name:
        loader = "LoadControlNet" if kind == "ours" else "DiffControlNetLoader"
        suffix = "" if "." in name else ".safetensors"
        node = drawing.add(loader, control_net_name=f"sd15_{name}{suffix}", model=drawing.model)
        link = [node, 0]
    drawing.apply(link, drawing.images())
    drawing.sample(steps=2)
    latents: Tensor = host.run(drawing.graph)["latent"]["samples"]
    return latents


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize("name", ["difference", "difference.pth"])
def test_a_difference_net_with_its_model_is_the_whole_net(host: Host, name: str) -> None:
    whole, native = drawn(host, "a"), drawn(host, name, "native")
    ours = drawn(host, name)
    largest = whole.abs().max().item()
    figures = [largest_difference(ours, other) / largest for other in (native, whole)]
    print(f"\n{name}: {figures[0]:.1e} from the native loader for differences, {figures[1]:.1e} from the whole net")
    assert max(figures) < BOUND


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(
    ("name", "like"),
    [
        ("content.pth", "a"),
        ("part-00001-of-00002", "a"),
        ("part-00002-of-00002", "a"),
        ("scaled", "multiplied"),
    ],
)
def test_a_file_is_read_whatever_its_form(host: Host, name: str, like: str) -> None:
    expected, found = drawn(host, like), drawn(host, name)
    difference = largest_difference(found, expected) / expected.abs().max().item()
    print(f"\n{name}: {difference:.1e}")
    assert difference < BOUND


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("difference", "found a difference ControlNet.*sd15_difference.safetensors.*connect the model"),
        ("alone-00001-of-00002", "without sd15_alone-00002-of-00002.safetensors"),
        ("int8", "int8 weights without a scale in .*sd15_int8.safetensors"),
        ("lora_layers", "CtrLoRA.*sd15_lora_layers.safetensors.*no place for 1 of the file's weights"),
        ("sparse", "SparseCtrl.*sd15_sparse.safetensors"),
        ("cut", "without middle_block_out.0.weight.*sd15_cut.safetensors.*no value for 2 of the net's weights"),
        ("list.pth", "a list in .*sd15_list.pth"),
    ],
)
def test_a_file_that_would_be_misread_is_refused(host: Host, name: str, message: str) -> None:
    drawing = Drawing("sd15", ours=True)
    drawing.capture("net", drawing.net(name))
    with pytest.raises(GraphError, match=message) as error:
        host.run(drawing.graph)
    assert str(error.value).count("\n") == 0


@pytest.mark.usefixtures("files")
def test_a_difference_net_does_not_go_with_another_model(host: Host) -> None:
    drawing = Drawing("sd21", ours=True)
    node = drawing.add("LoadControlNet", control_net_name="sd15_difference.safetensors", model=drawing.model)
    drawing.capture("net", [node, 0])
    with pytest.raises(GraphError, match=r"a difference ControlNet.*the base that it was made for"):
        host.run(drawing.graph)


def drawn_pooled(host: Host, name: str, average: str = "automatic", side: str = "curve's own") -> Tensor:
    """Latents with a net of our loader."""
    drawing = Drawing("sd15", ours=True)
    node = drawing.add("LoadControlNet", control_net_name=name, average_residuals=average)
    drawing.apply([node, 0], drawing.images(), side=side)
    drawing.sample(steps=2)
    latents: Tensor = host.run(drawing.graph)["latent"]["samples"]
    return latents


def drawn_native_shuffle(host: Host, both: bool) -> Tensor:
    """Latents with ComfyUI's own shuffle net, on both sides or on the positive one."""
    drawing = Drawing("sd15", ours=False)
    negative = drawing.negative
    drawing.apply(drawing.net("shuffle"), drawing.images())
    drawing.negative = drawing.negative if both else negative
    drawing.sample(steps=2)
    latents: Tensor = host.run(drawing.graph)["latent"]["samples"]
    return latents


@pytest.mark.usefixtures("files")
def test_a_shuffle_net_gives_means_on_the_positive_side(host: Host) -> None:
    positive, both = (drawn_native_shuffle(host, both) for both in (False, True))
    plain = drawn(host, "a")
    figures = {
        "by name": largest_difference(drawn_pooled(host, "sd15_shuffle.safetensors"), positive),
        "by config.json": largest_difference(
            drawn_pooled(host, "pooled/diffusion_pytorch_model.safetensors"), positive
        ),
        "by the user": largest_difference(drawn_pooled(host, "sd15_a.safetensors", "yes"), positive),
        "on both sides": largest_difference(drawn_pooled(host, "sd15_shuffle.safetensors", side="both"), both),
        "not, by the user": largest_difference(drawn_pooled(host, "sd15_shuffle.safetensors", "no"), plain),
    }
    largest = plain.abs().max().item()
    print("\nshuffle: " + ", ".join(f"{words} {figure / largest:.1e}" for words, figure in figures.items()))
    assert max(figures.values()) / largest < BOUND
    assert min(largest_difference(positive, other) for other in (both, plain)) / largest > 10 * BOUND
