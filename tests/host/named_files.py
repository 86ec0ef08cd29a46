"""Whole checkpoints and nets of random weights, under the names that the saved workflows ask for."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import torch
from comfy.taesd.taesd import TAESD
from torch import Tensor

from controlnet_core.config import FAMILIES as REAL
from controlnet_core.config import Family
from controlnet_core.weights.keymap import Shape
from controlnet_core.weights.layouts import ldm, ldm_base
from controlnet_core.weights.safetensors_file import write_tensor_file
from controlnet_core.weights.save import save_controlnet
from tests.host.models import FAMILIES, random_net, random_unet

CHECKPOINTS = {
    "sd15": ("v1-5-pruned-emaonly-fp16.safetensors", "SD1.5"),
    "sdxl": ("sd_xl_base_1.0.safetensors", "SDXL"),
}
NETS = {
    "sd15": (
        "control_v11p_sd15_canny_fp16.safetensors",
        "control_v11f1p_sd15_depth_fp16.safetensors",
        "control_v11p_sd15_openpose_fp16.safetensors",
    ),
    "sdxl": ("diffusers_xl_canny_full.safetensors",),
}


def write_named_files(models: Path) -> None:
    """Write them into ComfyUI's folder of models. The text encoders have their real size: ComfyUI knows no other."""
    for family, (name, real) in CHECKPOINTS.items():
        path = models / "checkpoints" / name
        if not path.exists():
            write_tensor_file(path, checkpoint(family, REAL[real]), {})
        for seed, net in enumerate(NETS[family]):
            save_controlnet(random_net(FAMILIES[family], seed), models / "controlnet" / net, dtype=torch.float16)


def checkpoint(family: str, real: Family) -> dict[str, Tensor]:
    """A reduced UNet and real text encoders; for SD1.5 an autoencoder of its kind, else the smallest that there is."""
    unet = ldm.unet_keymap(FAMILIES[family]).prefixed(ldm_base.UNET_PREFIX)
    tensors = {key: one.half() for key, one in unet.to_theirs(random_unet(family).state_dict()).items()}
    for keymap in ldm_base.text_keymaps(real):
        tensors |= random_tensors(keymap.file_shapes.items())
    if family == "sd15":
        autoencoder = ldm.autoencoder_keymap(real.autoencoder).prefixed(ldm_base.AUTOENCODER_PREFIX)
        return tensors | random_tensors(autoencoder.file_shapes.items())
    vae = TAESD(latent_channels=4)
    return {**tensors, **{f"first_stage_model.{key}": tensor for key, tensor in vae.state_dict().items()}}


def random_tensors(shapes: Iterable[tuple[str, Shape]]) -> dict[str, Tensor]:
    """Tensors that let the variance pass; large ones repeat, which nobody looks at."""
    noise = torch.randn(1 << 16, generator=torch.Generator().manual_seed(0))

    def one(key: str, shape: Shape) -> Tensor:
        count = math.prod(shape)
        if len(shape) < 2:
            return torch.ones(shape).half() if key.endswith("weight") else torch.zeros(shape).half()
        scaled = (noise / math.sqrt(shape[-1])).half()
        return scaled.repeat(-(-count // len(noise)))[:count].reshape(shape)

    return {key: one(key, shape) for key, shape in shapes}
