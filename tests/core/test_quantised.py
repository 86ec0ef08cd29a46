"""Weights with scales are multiplied out, shards are one file, and what is neither is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from controlnet_core.config import TINY
from controlnet_core.errors import CheckpointError
from controlnet_core.weights.inspection import inspect_checkpoint
from controlnet_core.weights.layouts import ldm
from controlnet_core.weights.layouts.kinds import ControlNetConfig
from controlnet_core.weights.load import load_controlnet
from controlnet_core.weights.safetensors_file import is_tensor_file, open_tensor_file

FLOAT8 = torch.float8_e4m3fn
Tensors = dict[str, Tensor]


@pytest.fixture(scope="module")
def net() -> Tensors:
    generator = torch.Generator().manual_seed(0)
    shapes = ldm.controlnet_keymap(ControlNetConfig(TINY)).file_shapes
    return {key: torch.randn(shape, generator=generator) for key, shape in shapes.items()}


def loaded(path: Path) -> Tensors:
    """The weights of a file as the core reads them, under the file's names."""
    state = load_controlnet(path).state_dict()
    return ldm.controlnet_keymap(ControlNetConfig(TINY)).to_theirs(state)


def linear(net: Tensors) -> list[str]:
    return [key for key, tensor in net.items() if key.endswith(".weight") and tensor.ndim == 2]


def described(words: object) -> Tensor:
    return torch.tensor(list(json.dumps(words).encode()), dtype=torch.uint8)


def scaled(weight: Tensor, dtype: torch.dtype, rows: bool) -> tuple[Tensor, Tensor]:
    largest = 448.0 if dtype == FLOAT8 else 127.0
    scale = (weight.abs().amax(dim=1, keepdim=True) if rows else weight.abs().max()) / largest
    stored = weight / scale
    return (stored if dtype == FLOAT8 else stored.round()).to(dtype), scale


@pytest.mark.parametrize("rows", [False, True], ids=["layer", "row"])
@pytest.mark.parametrize("dtype", [FLOAT8, torch.int8], ids=["float8", "int8"])
@pytest.mark.parametrize("name", ["scale_weight", "weight_scale"])
def test_scaled_weights_are_multiplied_out(
    name: str, dtype: torch.dtype, rows: bool, net: Tensors, tmp_path: Path
) -> None:
    tensors, expected = {**net, "scaled_fp8": torch.empty(2, dtype=FLOAT8)}, dict(net)
    for key in linear(net):
        weight, scale = scaled(net[key], dtype, rows)
        tensors |= {key: weight, key.removesuffix("weight") + name: scale}
        tensors[key.removesuffix("weight") + "input_scale"] = torch.ones(())
        expected[key] = weight.float() * scale
    save_file(tensors, tmp_path / "net.safetensors")
    found = loaded(tmp_path / "net.safetensors")
    assert all(torch.equal(found[key], expected[key]) for key in net)
    difference = max((found[key] - net[key]).abs().max().item() for key in net)
    assert difference < 0.2, difference
    assert inspect_checkpoint(tmp_path / "net.safetensors").usable


@pytest.mark.parametrize("stated", ["beside", "metadata"])
def test_formats_are_read_where_they_are_stated(stated: str, net: Tensors, tmp_path: Path) -> None:
    key, layer = linear(net)[0], linear(net)[0].removesuffix(".weight")
    weight, scale = scaled(net[key], FLOAT8, rows=False)
    words = {"format": "float8_e4m3fn"}
    tensors = {**net, key: weight.view(torch.uint8), f"{layer}.weight_scale": scale}
    beside = {f"{layer}.comfy_quant": described(words)} if stated == "beside" else {}
    metadata = {"_quantization_metadata": json.dumps({"layers": {layer: words}})} if stated == "metadata" else {}
    save_file({**tensors, **beside}, tmp_path / "net.safetensors", metadata=metadata)
    assert torch.equal(loaded(tmp_path / "net.safetensors")[key], weight.float() * scale)
    save_file(tensors, tmp_path / "net.safetensors")
    with pytest.raises(CheckpointError, match="bytes of an unknown format"):
        load_controlnet(tmp_path / "net.safetensors")


def test_scaled_weights_get_the_dtype_of_the_others(net: Tensors, tmp_path: Path) -> None:
    key = linear(net)[0]
    weight, scale = scaled(net[key], FLOAT8, rows=False)
    half = {name: tensor.half() for name, tensor in net.items()}
    save_file({**half, key: weight, key.removesuffix("weight") + "scale_weight": scale}, tmp_path / "net.safetensors")
    found = loaded(tmp_path / "net.safetensors")
    assert {tensor.dtype for tensor in found.values()} == {torch.float16}
    assert torch.equal(found[key], (weight.float() * scale).half())


@pytest.mark.parametrize(
    ("added", "message"),
    [
        ({}, "int8 weights without a scale in .*net.safetensors"),
        ({"weight_scale": torch.ones(3)}, r"weight_scale of shape \(3,\) for a weight of shape"),
        (
            {"weight_scale": torch.ones(()), "comfy_quant": described({"format": "convrot_w4a4"})},
            "format 'convrot_w4a4'",
        ),
        (
            {"weight_scale": torch.ones(()), "comfy_quant": described({"format": "int8_tensorwise", "convrot": True})},
            "int8_tensorwise, rotated",
        ),
        (
            {"weight_scale": torch.ones(()), "comfy_quant": described({"format": "float8_e4m3fn"})},
            "int8 numbers for weights in the format float8_e4m3fn",
        ),
        ({"weight_scale": torch.ones(()), "comfy_quant": described([1])}, "cannot be read"),
        ({"weight_scale": torch.ones(()), "weight_scale_2": torch.ones(())}, "nvfp4"),
        ({"weight.absmax": torch.ones(4)}, "as bitsandbytes stores them"),
        ({"SCB": torch.ones(4)}, "in 8 bits, as bitsandbytes"),
    ],
)
def test_other_quantised_weights_are_named(
    added: Tensors, message: str, net: Tensors, tmp_path: Path
) -> None:
    key = linear(net)[0]
    layer = key.removesuffix("weight")
    tensors = {**net, key: net[key].to(torch.int8), **{layer + name: tensor for name, tensor in added.items()}}
    save_file(tensors, tmp_path / "net.safetensors")
    with pytest.raises(CheckpointError, match=message):
        load_controlnet(tmp_path / "net.safetensors")
    assert not inspect_checkpoint(tmp_path / "net.safetensors").usable


@pytest.mark.parametrize("name", ["time_embed.0.bias", "input_blocks.1.0.in_layers.0.weight"])
def test_whole_numbers_of_one_dimension_are_named(name: str, net: Tensors, tmp_path: Path) -> None:
    save_file({**net, name: net[name].to(torch.int32)}, tmp_path / "net.safetensors")
    with pytest.raises(CheckpointError, match=rf"int32 weights without a scale in .*net.safetensors \({name}\)"):
        load_controlnet(tmp_path / "net.safetensors")
    assert not inspect_checkpoint(tmp_path / "net.safetensors").usable


def shard(net: Tensors, folder: Path) -> list[Path]:
    paths = [folder / f"diffusion_pytorch_model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]
    for number, path in enumerate(paths):
        save_file(dict(list(net.items())[number::3]), path, metadata={f"from {number}": "x"})
    return paths


def test_shards_are_one_file(net: Tensors, tmp_path: Path) -> None:
    for path in (*shard(net, tmp_path), tmp_path):
        found = loaded(path)
        assert all(torch.equal(found[key], net[key]) for key in net)
        assert inspect_checkpoint(path).usable
    assert set(open_tensor_file(tmp_path).metadata) == {"from 0", "from 1", "from 2"}


def test_a_missing_shard_is_named(net: Tensors, tmp_path: Path) -> None:
    paths = shard(net, tmp_path)
    paths[1].unlink()
    for path in (paths[0], paths[2], tmp_path):
        with pytest.raises(CheckpointError, match=r"without diffusion_pytorch_model-00002-of-00003.safetensors"):
            load_controlnet(path)


def test_a_tensor_in_two_shards_is_refused(net: Tensors, tmp_path: Path) -> None:
    paths = shard(net, tmp_path)
    save_file(net, paths[2])
    with pytest.raises(CheckpointError, match="and in another shard"):
        load_controlnet(paths[0])


def test_a_safetensors_file_is_known_whatever_its_name(net: Tensors, tmp_path: Path) -> None:
    paths = {name: tmp_path / name for name in ("net.pth", "pickle.safetensors", "empty.pth", "words.pth")}
    save_file(net, paths["net.pth"])
    torch.save(net, paths["pickle.safetensors"])
    paths["empty.pth"].write_bytes(b"")
    paths["words.pth"].write_bytes(b"12345678{")
    assert [name for name, path in paths.items() if is_tensor_file(path)] == ["net.pth"]
    assert torch.equal(loaded(paths["net.pth"])["time_embed.0.bias"], net["time_embed.0.bias"])
