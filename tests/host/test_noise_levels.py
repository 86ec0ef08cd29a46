"""What a base predicts and at which noise levels: a checkpoint is read, drawn and trained on as in ComfyUI."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path

import comfy.model_base
import comfy.model_detection
import comfy.sd1_clip
import folder_paths
import pytest
import torch
from torch import Tensor

from controlnet_core.sampling.generate import SamplingSettings, generate
from controlnet_core.training.job import checked_job
from controlnet_core.training.open_data import open_data
from controlnet_core.training.resume import run_path
from controlnet_core.training.run import train
from controlnet_core.weights.layouts import ldm, ldm_base
from controlnet_core.weights.load_base import load_base
from controlnet_core.weights.parts.base_in_file import find_parts
from controlnet_core.weights.parts.parametrisation import file_parametrisation
from controlnet_core.weights.safetensors_file import open_tensor_file, write_tensor_file
from tests.host.host import Host
from tests.host.models import FAMILIES, ZERO_SNR, random_unet, write_checkpoint
from tests.host.training import Training, weights, write_pairs

TOKENIZER = Path(comfy.sd1_clip.__file__).parent / "sd1_tokenizer"


def told(tensors: Mapping[str, Tensor], folder: Path) -> tuple[tuple[str, Tensor], tuple[str, Tensor]]:
    """What a checkpoint predicts and at which noise levels: by ComfyUI's loader, and by ours."""
    config = comfy.model_detection.model_config_from_unet(dict(tensors), ldm_base.UNET_PREFIX)
    kind = config.model_type(dict(tensors), ldm_base.UNET_PREFIX)
    sampling = comfy.model_base.model_sampling(config, kind)
    write_tensor_file(folder / "unet.safetensors", dict(tensors), {})
    source = open_tensor_file(folder / "unet.safetensors")
    ours = file_parametrisation(source, find_parts(source).unet)
    names = {comfy.model_base.ModelType.EPS: "eps", comfy.model_base.ModelType.V_PREDICTION: "v"}
    return (names[kind], sampling.sigmas), (ours.prediction, ours.schedule.sigmas)


@pytest.mark.parametrize("markers", [(), ("v_pred",), ("ztsnr",), ZERO_SNR])
@pytest.mark.parametrize(
    ("family", "spread"), [("sd15", 0), ("sdxl", 0), ("sd21", 0), ("sd21", 0.0895), ("sd21", 0.0905)]
)
def test_a_file_is_read_as_comfyui_reads_it(
    host: Host, tmp_path: Path, family: str, spread: float, markers: tuple[str, ...]
) -> None:
    keymap = ldm.unet_keymap(FAMILIES[family]).prefixed(ldm_base.UNET_PREFIX)
    tensors = {key: tensor.half() for key, tensor in keymap.to_theirs(random_unet(family).state_dict()).items()}
    tensors |= {marker: torch.tensor([]) for marker in markers}
    if spread:
        bias = spread * torch.tensor([-1.0, 1.0]).repeat(160)
        tensors[f"{ldm_base.UNET_PREFIX}output_blocks.11.1.transformer_blocks.0.norm1.bias"] = bias
    theirs, ours = told(tensors, tmp_path)
    found = ((ours[1] - theirs[1].double()) / theirs[1].double()).abs().max().item()
    print(f"\n{family}, {spread}, {markers}: {ours[0]}, up to {ours[1][-1]:.6g}, {found:.1e} from ComfyUI's")
    assert ours[0] == theirs[0] and found <= 1e-6


def test_the_command_trains_what_the_graph_trains_without_signal_at_the_end(host: Host, tmp_path: Path) -> None:
    folder_paths.add_model_folder_path("checkpoints", str(tmp_path), is_default=True)
    checkpoint = tmp_path / "zero_snr.safetensors"
    write_checkpoint(checkpoint, "sdxl", ZERO_SNR)
    write_pairs(Path(folder_paths.get_input_directory()) / "zero_snr")
    data = {"source": "folder", "source.folder": "input/zero_snr", "source.hint": "files", "source.size": 64}
    training = Training(None, data, steps=2, batch_size=1)
    loader = training.add("CheckpointLoaderSimple", ckpt_name=checkpoint.name)
    links = {name: [loader, slot] for slot, name in enumerate(("model", "clip", "vae"))}
    training.graph[training.node]["inputs"] |= links
    for name, link in links.items():
        training.capture(name, link)
    given = host.run(training.graph)
    job = checked_job({**tomllib.loads(given["settings"]), "out": str(tmp_path)}, "the graph's output")
    base = load_base(job.base.path, dtype=torch.float32, tokenizer=TOKENIZER)
    assert base.prediction == "v" and base.schedule.sigmas[-1] > 4518
    dataset, validation = open_data(job.data, job.settings, base)
    for _ in train(job.settings, base, dataset, validation):
        pass
    path = run_path(job.settings, base, dataset)
    theirs = Path(folder_paths.get_output_directory()) / "controlnet_runs" / path.name
    net, expected = weights(path / "controlnet.safetensors"), weights(theirs / "controlnet.safetensors")
    assert net.keys() == expected.keys() and all(torch.equal(net[key], expected[key]) for key in net)
    of_graph = host.bridge("training.base_from_graph").base_of(given["model"], given["clip"], given["vae"])
    settings = SamplingSettings(steps=3, size=(64, 64))
    drawn, wanted = (generate(one, "a fox", settings=settings) for one in (base, of_graph))
    assert torch.equal(drawn, wanted) and drawn.std() > 0.01
