"""Weights out of ComfyUI's models: of each family, in each kind of number, and what cannot be trained on."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import comfy.memory_management
import comfy.sd1_clip
import comfy.supported_models
import comfy.utils
import folder_paths
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from controlnet_core.training.run import train
from controlnet_core.training.settings import TrainSettings
from controlnet_core.weights.load_base import load_base
from controlnet_core.weights.safetensors_file import write_tensor_file
from tests.host.graphs import Builder, Link
from tests.host.host import Host, largest_difference
from tests.host.models import ZERO_SNR, write_checkpoint
from tests.host.training import SETTINGS

TOKENIZER = Path(comfy.sd1_clip.__file__).parent / "sd1_tokenizer"
UNET = "model.diffusion_model."
BLOCK = "input_blocks.1.1.transformer_blocks.0"
LAYERS = [f"{BLOCK}.{name}" for name in ("attn1.to_q", "attn2.to_v", "ff.net.0.proj", "ff.net.2")]
"""Linear layers that are quantised."""


@pytest.fixture(scope="module")
def checkpoints(host: Host, models: object, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Reduced bases in ComfyUI's folders, by family."""
    folder = tmp_path_factory.mktemp("bases")
    for kind in ("checkpoints", "diffusion_models", "loras"):
        (folder / kind).mkdir()
        folder_paths.add_model_folder_path(kind, str(folder / kind), is_default=True)
    return {name: folder / "checkpoints" / f"whole_{name}.safetensors" for name in ("sd15", "sd21", "sdxl")}


@pytest.fixture(scope="module")
def sd15(checkpoints: dict[str, Path]) -> dict[str, Tensor]:
    """The tensors of the reduced SD1.5."""
    return write_checkpoint(checkpoints["sd15"], "sd15")


class Bases(Builder):
    """A graph that loads a base.

    Arguments:
        checkpoint: The file of MODEL, CLIP and VAE.
    """

    def __init__(self, checkpoint: Path) -> None:
        super().__init__()
        loader = self.add("CheckpointLoaderSimple", ckpt_name=checkpoint.name)
        self.sockets: dict[str, Link] = {name: [loader, slot] for slot, name in enumerate(("model", "clip", "vae"))}

    def loaded(self, host: Host) -> tuple[Any, Any, Any]:
        """Run it: MODEL, CLIP and VAE."""
        for name, link in self.sockets.items():
            self.capture(name, link)
        given = host.run(self.graph)
        return given["model"], given["clip"], given["vae"]


@pytest.mark.parametrize(
    ("family", "dynamic", "markers"),
    [
        ("sd15", False, ZERO_SNR),
        ("sd15", True, ()),
        ("sd21", False, ()),
        ("sdxl", False, ZERO_SNR),
        ("sdxl", True, ()),
    ],
)
@pytest.mark.filterwarnings("ignore:.*ignores in such a file")
def test_a_base_of_the_graph_is_that_of_its_file(
    host: Host,
    checkpoints: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    family: str,
    dynamic: bool,
    markers: tuple[str, ...],
) -> None:
    """Also where ComfyUI's layers have no weights until a file's are mapped into them, as on a GPU with DynamicVRAM."""
    monkeypatch.setattr(comfy.memory_management, "aimdo_enabled", dynamic)
    # Its own reader of mapped files wants a GPU.
    monkeypatch.setattr(comfy.utils, "load_safetensors", lambda path: (load_file(path), {}))
    host.executor.reset()
    write_checkpoint(checkpoints[family], family, markers)
    ours = host.bridge("training.base_from_graph").base_of(*Bases(checkpoints[family]).loaded(host))
    theirs = load_base(checkpoints[family], dtype=torch.float32, tokenizer=TOKENIZER)
    for one, other in zip(
        (ours.unet, ours.autoencoder, *ours.text_encoders),
        (theirs.unet, theirs.autoencoder, *theirs.text_encoders),
        strict=True,
    ):
        weights, expected = one.state_dict(), other.state_dict()
        assert weights.keys() == expected.keys()
        assert all(torch.equal(weights[name], expected[name]) for name in expected)
    prompts = ["a red fox", ""]
    given, wanted = ours.encode_text(prompts, (64, 64)), theirs.encode_text(prompts, (64, 64))
    assert torch.equal(given.context, wanted.context)
    assert (given.y is None) == (family != "sdxl")
    assert given.y is None or (wanted.y is not None and torch.equal(given.y, wanted.y))
    zero_snr = family == "sdxl" and markers == ZERO_SNR
    assert theirs.prediction == ("v" if zero_snr else "eps") and (theirs.schedule.sigmas[-1] > 4518) == zero_snr
    assert ours.fingerprint == theirs.fingerprint, "weights, prediction and noise levels are the same, bit for bit"


@pytest.mark.parametrize(
    ("family", "sampling"), [("sd21", ("v_prediction", False)), ("sdxl", None), ("sd15", ("v_prediction", True))]
)
def test_every_family_is_trained_in_the_graph(
    host: Host, checkpoints: dict[str, Path], family: str, sampling: tuple[str, bool] | None
) -> None:
    write_checkpoint(checkpoints[family], family)
    graph = Bases(checkpoints[family])
    model = graph.sockets["model"]
    if sampling is not None:
        patched = graph.add("ModelSamplingDiscrete", model=model, sampling=sampling[0], zsnr=sampling[1])
        model = [patched, 0]
    images = [graph.add("RandomImages", seed=3, width=64, height=64, count=4), 0]
    data = {"source": "images", "source.images": images, "source.captions": "noise", "source.hint": "blur"}
    dataset = [graph.add("ControlNetCoreDataset", **data), 0]
    links = {**graph.sockets, "model": model, "dataset": dataset}
    settings = {**SETTINGS, "steps": 2, "batch_size": 1}
    node = graph.add("TrainControlNet", name=family, settings_toml="", **links, **settings)
    for slot, name in ((0, "control_net"), (2, "loss_map")):
        graph.capture(name, [node, slot])
    graph.capture("model", model)
    for name in ("clip", "vae"):
        graph.capture(name, graph.sockets[name])
    given = host.run(graph.graph)
    assert len(given["loss_map"]["loss"]) == 2 and all(0 < loss < 100 for loss in given["loss_map"]["loss"])
    assert any(parameter.any() for parameter in given["control_net"].net.middle_zero_convolution.parameters())
    base = host.bridge("training.base_from_graph").base_of(given["model"], given["clip"], given["vae"])
    assert base.prediction == ("eps" if sampling is None else "v")
    sigmas = given["model"].get_model_object("model_sampling").sigmas
    found = largest_difference(base.schedule.sigmas.float(), sigmas)
    print(f"\n{family}: losses {given['loss_map']['loss']}, sigmas {found:.1e} from ComfyUI's")
    assert found <= 1e-6


@pytest.mark.parametrize(
    ("family", "dtype", "markers"),
    [
        ("sd15", torch.float32, ()),
        ("sd15", torch.bfloat16, ()),
        ("sd21", torch.bfloat16, ()),
        ("sdxl", torch.bfloat16, ()),
        ("sdxl", torch.float16, ZERO_SNR),
    ],
)
def test_a_checkpoint_of_any_dtype_is_trained_as_in_python(
    host: Host, checkpoints: dict[str, Path], family: str, dtype: torch.dtype, markers: tuple[str, ...], tmp_path: Path
) -> None:
    write_checkpoint(checkpoints[family], family, markers, dtype)
    host.executor.reset()
    graph = Bases(checkpoints[family])
    images = [graph.add("RandomImages", seed=5, width=64, height=64, count=4), 0]
    data = {"source": "images", "source.images": images, "source.captions": "noise", "source.hint": "blur"}
    dataset = [graph.add("ControlNetCoreDataset", **data), 0]
    settings = {**SETTINGS, "steps": 3, "batch_size": 1, "evaluation_hints": 1, "evaluation_sampling_steps": 1}
    node = graph.add("TrainControlNet", name=family, settings_toml="", **graph.sockets, dataset=dataset, **settings)
    for name, link in {"net": [node, 0], "losses": [node, 2], "settings": [node, 4], "dataset": dataset}.items():
        graph.capture(name, link)
    given = host.run(graph.graph)
    base = load_base(checkpoints[family], dtype=torch.float32, tokenizer=TOKENIZER)
    for encoder in base.text_encoders:
        encoder.half().float()  # in which ComfyUI holds them on a CPU
    values = {name: value for name, value in tomllib.loads(given["settings"]).items() if name not in ("base", "data")}
    own = TrainSettings(**values | {"out": tmp_path, "device": "cpu"})
    reports = list(train(own, base, *given["dataset"].open(own, base)))
    losses = [report.loss for report in reports if report.loss is not None]
    worst = max(abs(one / other - 1) for one, other in zip(given["losses"]["loss"], losses, strict=True))
    print(f"\n{family} in {dtype}, {'v' if markers else 'eps'}: losses {losses}, the graph's {worst:.1e} from them")
    assert len(losses) == 3 and worst <= 1e-5
    assert any(parameter.any() for parameter in given["net"].net.middle_zero_convolution.parameters())


def quantised(tensors: Mapping[str, Tensor], kind: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A UNet with some layers quantised as ComfyUI stores them, and what their weights are in float32."""
    unet = {key.removeprefix(UNET): tensor for key, tensor in tensors.items() if key.startswith(UNET)}
    expected = {}
    for layer in LAYERS:
        weight = unet[f"{layer}.weight"].float()
        most = 448.0 if kind == "float8_e4m3fn" else 127.0
        scale = weight.abs().max() / most
        number = torch.float8_e4m3fn if kind == "float8_e4m3fn" else torch.int8
        stored = (weight / scale).clamp(-most, most)
        unet[f"{layer}.weight"] = stored.round().to(number) if number == torch.int8 else stored.to(number)
        unet[f"{layer}.weight_scale"] = scale
        if kind == "float8_e4m3fn":
            unet[f"{layer}.input_scale"] = torch.tensor(0.5)
        unet[f"{layer}.comfy_quant"] = torch.tensor(list(json.dumps({"format": kind}).encode()), dtype=torch.uint8)
        expected[layer] = unet[f"{layer}.weight"].float() * scale
    return unet, expected


@pytest.mark.parametrize("kind", ["float8_e4m3fn", "int8_tensorwise"])
def test_quantised_weights_are_dequantised(
    host: Host, checkpoints: dict[str, Path], sd15: dict[str, Tensor], kind: str
) -> None:
    unet, expected = quantised(sd15, kind)
    write_tensor_file(checkpoints["sd15"].parent.parent / "diffusion_models" / f"{kind}.safetensors", unet, {})
    graph = Bases(checkpoints["sd15"])
    loader = graph.add("UNETLoader", unet_name=f"{kind}.safetensors", weight_dtype="default")
    graph.sockets["model"] = [loader, 0]
    model, clip, vae = graph.loaded(host)
    kinds = {type(model.model.get_submodule(f"diffusion_model.{layer}").weight.data).__name__ for layer in LAYERS}
    assert kinds == {"QuantizedTensor"}, "ComfyUI holds them quantised"
    base = host.bridge("training.base_from_graph").base_of(model, clip, vae)
    found = base.unet.encoder.stages[0].blocks[0].attention.blocks[0].self_attention.query.weight
    difference = largest_difference(found, expected[LAYERS[0]])
    print(f"\n{kind}: {difference:.1e} of the largest weight, from a dequantisation in half precision")
    assert difference <= 2**-10


def test_weights_in_eight_bits_are_read(host: Host, checkpoints: dict[str, Path], sd15: dict[str, Tensor]) -> None:
    unet = {key.removeprefix(UNET): tensor for key, tensor in sd15.items() if key.startswith(UNET)}
    write_tensor_file(checkpoints["sd15"].parent.parent / "diffusion_models" / "plain.safetensors", unet, {})
    graph = Bases(checkpoints["sd15"])
    graph.sockets["model"] = [graph.add("UNETLoader", unet_name="plain.safetensors", weight_dtype="fp8_e4m3fn"), 0]
    model, clip, vae = graph.loaded(host)
    held = model.model.get_submodule(f"diffusion_model.{LAYERS[0]}").weight
    assert held.dtype == torch.float8_e4m3fn
    base = host.bridge("training.base_from_graph").base_of(model, clip, vae)
    found = base.unet.encoder.stages[0].blocks[0].attention.blocks[0].self_attention.query.weight
    assert torch.equal(found, unet[f"{LAYERS[0]}.weight"].to(torch.float8_e4m3fn).float())


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (comfy.supported_models.Flux.unet_config, "Flux|kind"),
        (comfy.supported_models.SDXLRefiner.unet_config, "kind"),
        ({"in_channels": 9}, "9 channels, as for inpainting"),
        ({"adm_in_channels": 768}, "further condition"),
    ],
)
def test_models_of_other_kinds_are_refused(
    host: Host,
    checkpoints: dict[str, Path],
    sd15: dict[str, Tensor],
    monkeypatch: pytest.MonkeyPatch,
    sizes: dict[str, Any],
    message: str,
) -> None:
    model, clip, vae = Bases(checkpoints["sd15"]).loaded(host)
    own = {} if "image_model" in sizes else model.model.model_config.unet_config
    monkeypatch.setattr(model.model.model_config, "unet_config", {**own, **sizes})
    with pytest.raises(Exception, match=message) as raised:
        host.bridge("training.base_from_graph").base_of(model, clip, vae)
    print(f"\n{raised.value}")
    assert "SD1.5, SD2.1, SDXL or the small base" in str(raised.value)


@pytest.mark.usefixtures("sd15")
def test_loras_that_are_not_in_the_weights_are_refused(host: Host, checkpoints: dict[str, Path]) -> None:
    name = "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q"
    factors = {f"{name}.lora_up.weight": torch.ones(320, 1), f"{name}.lora_down.weight": torch.ones(1, 320)}
    write_tensor_file(checkpoints["sd15"].parent.parent / "loras" / "bypass.safetensors", factors, {})
    graph = Bases(checkpoints["sd15"])
    node = graph.add(
        "LoraLoaderBypass", model=graph.sockets["model"], clip=graph.sockets["clip"], lora_name="bypass.safetensors",
        strength_model=1.0, strength_clip=1.0,
    )  # fmt: skip
    graph.sockets |= {"model": [node, 0], "clip": [node, 1]}
    loaded = graph.loaded(host)
    with pytest.raises(Exception, match="bypass_lora") as raised:
        host.bridge("training.base_from_graph").base_of(*loaded)
    print(f"\n{raised.value}")


@pytest.mark.parametrize("sampling", ["lcm", "x0"])
@pytest.mark.usefixtures("sd15")
def test_other_samplings_are_refused(host: Host, checkpoints: dict[str, Path], sampling: str) -> None:
    graph = Bases(checkpoints["sd15"])
    node = graph.add("ModelSamplingDiscrete", model=graph.sockets["model"], sampling=sampling, zsnr=False)
    graph.sockets["model"] = [node, 0]
    loaded = graph.loaded(host)
    with pytest.raises(Exception, match="without a ModelSampling node") as raised:
        host.bridge("training.base_from_graph").base_of(*loaded)
    print(f"\n{raised.value}")


@pytest.mark.usefixtures("sd15")
def test_what_acts_while_sampling_is_told(host: Host, checkpoints: dict[str, Path]) -> None:
    graph = Bases(checkpoints["sd15"])
    graph.sockets["model"] = [graph.add("FreeU", model=graph.sockets["model"], b1=1.1, b2=1.2, s1=0.9, s2=0.2), 0]
    loaded = graph.loaded(host)
    with pytest.warns(UserWarning, match="FreeU"):
        host.bridge("training.base_from_graph").base_of(*loaded)
