"""Files are read whole and by copy, written whole or not at all, and say what is wrong with them."""

from __future__ import annotations

import errno
import json
import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from controlnet_core.config import FAMILIES, TINY, Family
from controlnet_core.errors import CheckpointError, WriteError
from controlnet_core.model.autoencoder import Autoencoder
from controlnet_core.model.controlnet import ControlNet
from controlnet_core.model.hint import HintEncoderKind
from controlnet_core.model.layers import Operations
from controlnet_core.model.text_encoder import TextEncoder
from controlnet_core.model.unet import UNet
from controlnet_core.weights import safetensors_file as files
from controlnet_core.weights.inspection import inspect_checkpoint
from controlnet_core.weights.layouts import diffusers, transformers
from controlnet_core.weights.load import load_controlnet
from controlnet_core.weights.load_base import load_base_parts
from controlnet_core.weights.parts.base_parts import BaseParts
from controlnet_core.weights.save import save_base, save_controlnet
from tests.support.reduced import REDUCED, randomised

State = dict[str, Tensor]


def net_of(kind: HintEncoderKind = "reference", hint_channels: int = 3) -> ControlNet:
    return randomised(ControlNet(TINY, hint_channels, kind))


def same(a: State, b: State) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) and a[key].dtype == b[key].dtype for key in a)


def states(family: Family) -> tuple[State, State, list[State]]:
    """Random weights for a whole base."""
    texts = [randomised(TextEncoder(config), seed=3).state_dict() for config in family.text_encoders]
    autoencoder = randomised(Autoencoder(family.autoencoder), seed=2)
    return randomised(UNet(family.unet), seed=1).state_dict(), autoencoder.state_dict(), texts


def assert_parts(parts: BaseParts, unet: State, autoencoder: State, texts: list[State]) -> None:
    assert same(parts.unet.state_dict(), unet)
    assert same(parts.autoencoder.state_dict(), autoencoder)
    assert [same(part.state_dict(), state) for part, state in zip(parts.text_encoders, texts, strict=True)]


@pytest.mark.parametrize("layout", ["ldm", "diffusers"])
@pytest.mark.parametrize("hint_channels", [1, 3])
def test_controlnet_there_and_back(layout: str, hint_channels: int, tmp_path: Path) -> None:
    net, path = net_of(hint_channels=hint_channels), tmp_path / "net.safetensors"
    save_controlnet(net, path, layout, metadata={"trained on": "shapes"})
    loaded = load_controlnet(path)
    assert same(loaded.state_dict(), net.state_dict()) and loaded.config == net.config and not loaded.training
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    assert same(load_controlnet(path, dtype=torch.float16).state_dict(), net.half().state_dict())
    report = inspect_checkpoint(path)
    expected = ("controlnet", layout, "TINY", len(net.state_dict()), "float32", hint_channels, "reference")
    found = (report.kind, report.layout, report.family, report.tensors, report.dtype)
    assert (*found, report.hint_channels, report.hint_encoder) == expected
    assert report.usable and report.metadata["trained on"] == "shapes"
    assert json.loads(report.to_json())["parameters"] == sum(tensor.numel() for tensor in net.state_dict().values())


def test_the_hint_encoder_of_the_paper_has_one_layout(tmp_path: Path) -> None:
    net, path = net_of("paper"), tmp_path / "net.safetensors"
    save_controlnet(net, path, dtype=torch.bfloat16)
    loaded = load_controlnet(path)
    assert same(loaded.state_dict(), net.bfloat16().state_dict()) and loaded.hint_encoder_kind == "paper"
    with pytest.raises(CheckpointError, match="LDM layout"):
        save_controlnet(net, tmp_path / "other.safetensors", "diffusers")


@pytest.mark.parametrize("prefix", ["control_model.", "state_dict.control_model."])
def test_a_controlnet_inside_its_training_checkpoint(prefix: str, tmp_path: Path) -> None:
    net, path = net_of(), tmp_path / "net.safetensors"
    save_controlnet(net, path)
    outer = prefix.removesuffix("control_model.")
    beside = {"model.diffusion_model.out.2.bias", "first_stage_model.quant_conv.bias", "model_ema.decay", "betas"}
    extra = {outer + key: torch.zeros(1) for key in beside}
    save_file({**{prefix + key: tensor for key, tensor in load_file(path).items()}, **extra}, path)
    assert same(load_controlnet(path).state_dict(), net.state_dict())
    assert set(inspect_checkpoint(path).unused) == set(extra)
    save_file({**load_file(path), "stranger": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match=r"1 unknown \(stranger\)"):
        load_controlnet(path)


def test_a_host_makes_the_layers(tmp_path: Path) -> None:
    made = []

    class Host:
        """Layers of a host, which notes that they were asked for."""

        Conv2d, GroupNorm, LayerNorm, Embedding = nn.Conv2d, nn.GroupNorm, nn.LayerNorm, nn.Embedding

        class Linear(nn.Linear):
            def __init__(
                self, inputs: int, outputs: int, *, bias: bool, device: str, dtype: torch.dtype | None
            ) -> None:
                super().__init__(inputs, outputs, bias=bias, device=device, dtype=dtype)
                made.append(device)

    net, path = net_of(), tmp_path / "net.safetensors"
    save_controlnet(net, path)
    assert same(load_controlnet(path, operations=cast(Operations, Host)).state_dict(), net.state_dict())
    assert set(made) == {"meta"}, "no layer is made twice"


def test_a_loaded_net_does_not_hold_its_file(tmp_path: Path) -> None:
    net, path = net_of(), tmp_path / "net.safetensors"
    save_controlnet(net, path)
    loaded = load_controlnet(path)
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.write(bytes(size))
    assert same(loaded.state_dict(), net.state_dict())


@pytest.mark.parametrize("name", REDUCED)
def test_base_there_and_back(name: str, tmp_path: Path) -> None:
    family, path = REDUCED[name], tmp_path / "base.safetensors"
    unet, autoencoder, texts = states(family)
    save_base(path, family, unet=unet, autoencoder=autoencoder, text_encoders=texts, dtype=None)
    parts = load_base_parts(path)
    assert parts.family == family
    assert_parts(parts, unet, autoencoder, texts)
    assert same(parts.unet.state_dict(dtype=torch.float16), {key: tensor.half() for key, tensor in unet.items()})
    assert inspect_checkpoint(path).usable


def test_the_tiny_base_is_stored_in_half_precision(tmp_path: Path) -> None:
    family, path = FAMILIES["TINY"], tmp_path / "tiny.safetensors"
    unet, autoencoder, texts = states(family)
    save_base(path, family, unet=unet, autoencoder=autoencoder, text_encoders=texts)
    parts = load_base_parts(path)
    assert parts.family == family
    assert same(parts.autoencoder.state_dict(), {key: tensor.half() for key, tensor in autoencoder.items()})
    with safe_open(path, framework="pt") as file:
        assert json.loads(file.metadata()["controlnet_core"])["head_channels"] == 64
        assert "cond_stage_model.transformer.text_model.final_layer_norm.bias" in file.keys()  # noqa: SIM118


@pytest.mark.parametrize(("spread", "prediction", "size"), [(0.05, "eps", 512), (0.2, "v", 768)])
def test_what_an_sd2_unet_predicts_is_measured(spread: float, prediction: str, size: int, tmp_path: Path) -> None:
    config = replace(REDUCED["SD2.1"].unet, context_dim=1024, head_channels=64)
    family, path = replace(REDUCED["SD2.1"], unet=config), tmp_path / "base.safetensors"
    unet, autoencoder, texts = states(family)
    key = "decoder.stages.3.blocks.2.attention.blocks.0.norm1.bias"
    unet[key] = torch.linspace(-1, 1, 32) * spread * 3**0.5
    save_base(path, family, unet=unet, autoencoder=autoencoder, text_encoders=texts, dtype=None)
    unused_layer = "cond_stage_model.model.transformer.resblocks.3.ln_1.bias"
    save_file({**load_file(path), unused_layer: torch.zeros(64)}, path)  # as published: without our metadata
    parts = load_base_parts(path)
    assert (parts.family.prediction, parts.family.image_size) == (prediction, size)
    assert parts.unused == (unused_layer,) and parts.unet.config == config
    save_file(load_file(path), path, metadata={"modelspec.prediction_type": "v"})
    assert load_base_parts(path).family.prediction == "v"


def diffusers_folder(folder: Path, family: Family, *, unet: State, autoencoder: State, text: State) -> None:
    """Write a base as diffusers does, its autoencoder under the early attention names."""
    tensors = {
        "unet/diffusion_pytorch_model": diffusers.unet_keymap(family.unet).to_theirs(unet),
        "vae/diffusion_pytorch_model": diffusers.autoencoder_keymap(
            family.autoencoder, diffusers.OLD_PIXEL_ATTENTION
        ).to_theirs(autoencoder),
        "text_encoder/model.fp16": transformers.text_encoder_keymap(family.text_encoders[0]).to_theirs(text),
    }
    settings = {
        "model_index.json": {},
        "scheduler/scheduler_config.json": {"prediction_type": "v_prediction"},
        "vae/config.json": {"scaling_factor": 0.5},
        "text_encoder/config.json": {"num_attention_heads": 4, "hidden_act": "quick_gelu"},
    }
    for name, part in tensors.items():
        (folder / name).parent.mkdir(parents=True)
        save_file(part, folder / f"{name}.safetensors")
    for name, content in settings.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content))


def test_a_diffusers_folder(tmp_path: Path) -> None:
    family = REDUCED["SD1.5"]
    unet, autoencoder, texts = states(family)
    diffusers_folder(tmp_path, family, unet=unet, autoencoder=autoencoder, text=texts[0])
    parts = load_base_parts(tmp_path)
    assert_parts(parts, unet, autoencoder, texts)
    assert parts.family == replace(
        family,
        unet=replace(family.unet, family="unknown"),
        autoencoder=replace(family.autoencoder, latent_scale=0.5),
        prediction="v",
    )
    report = inspect_checkpoint(tmp_path)
    assert (report.kind, report.layout, report.tensors, report.usable) == ("base", "diffusers", 686 + 248 + 52, True)
    (tmp_path / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    assert "vae" in inspect_checkpoint(tmp_path).notes[0]


class Payload:
    """Something that writes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, int]]:
        return os.open, (str(self.marker), os.O_CREAT)


BROKEN = {
    "an empty file": b"",
    "damaged or truncated": b"\x10\x00\x00\x00\x00\x00\x00\x00{}",
    "GGUF": b"GGUF\x03\x00\x00\x00",
    "ONNX": b"\x08\x07\x12\x07pytorch",
    "Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0",
    "a web page": b"<!DOCTYPE html>",
}


@pytest.mark.parametrize("words", BROKEN)
def test_other_files_are_named(words: str, tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    path.write_bytes(BROKEN[words])
    for read in (load_controlnet, load_base_parts, inspect_checkpoint):
        with pytest.raises(CheckpointError, match=words):
            read(path)


def test_a_truncated_file_a_folder_and_nothing(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    save_controlnet(net_of(), path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="damaged or truncated"):
        load_controlnet(path)
    with pytest.raises(CheckpointError, match=r"a folder, .* holding net.safetensors"):
        load_controlnet(tmp_path)
    with pytest.raises(CheckpointError, match="no file"):
        load_controlnet(tmp_path / "other.safetensors")


@pytest.mark.parametrize("writer", ["torch", "pickle"])
def test_a_pickle_is_never_opened(writer: str, tmp_path: Path) -> None:
    path, marker = tmp_path / "net.pth", tmp_path / "marker"
    if writer == "torch":
        torch.save(Payload(marker), path)
    else:
        path.write_bytes(pickle.dumps(Payload(marker)))
    for read in (load_controlnet, load_base_parts, inspect_checkpoint):
        with pytest.raises(CheckpointError, match="a pickled PyTorch checkpoint"):
            read(path)
    assert not marker.exists()


def test_saving_the_same_net_again_gives_the_same_bytes(tmp_path: Path) -> None:
    net, path = net_of(), tmp_path / "net.safetensors"
    metadata = {name: f'"{name}" ü\n\x7f\x01' for name in ("e", "b", "ä", "c", "A")}
    files = set()
    for order in (sorted(metadata), sorted(metadata, reverse=True)):
        for _ in range(4):
            save_controlnet(net, path, metadata={name: metadata[name] for name in order})
            files.add(path.read_bytes())
    assert len(files) == 1
    with safe_open(path, framework="pt") as file:
        assert file.metadata().items() >= metadata.items()
    assert same(load_controlnet(path).state_dict(), net.state_dict())


def test_a_failed_write_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net, path = net_of(), tmp_path / "net.safetensors"
    save_controlnet(net, path)
    before = path.read_bytes()

    def full_disk(tensors: State, temporary: Path, metadata: dict[str, str]) -> None:
        temporary.write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "save_file", full_disk)
    with pytest.raises(WriteError, match="No space left on device"):
        save_controlnet(net, path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_a_file_that_another_program_holds_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def held(source: Path, target: Path) -> None:
        raise PermissionError(errno.EACCES, "The process cannot access the file", str(target))

    monkeypatch.setattr(os, "replace", held)
    with pytest.raises(WriteError, match=r"cannot be written .*close the program"):
        save_controlnet(net_of(), tmp_path / "net.safetensors")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match="cannot be written"):
        save_controlnet(net_of(), tmp_path / "file" / "net.safetensors")


# Who may read a file is no part of its mode on Windows.
@pytest.mark.skipif(os.name == "nt", reason="Windows keeps no such bits")
def test_a_saved_file_can_be_read_by_whom_the_system_lets(tmp_path: Path) -> None:
    path, plain = tmp_path / "net.safetensors", tmp_path / "plain"
    plain.touch()
    save_controlnet(net_of(), path)
    assert path.stat().st_mode == plain.stat().st_mode
