"""Checkpoint files of reduced families, as they are downloaded: in one dtype or several, with SDXL's marker keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from controlnet_core.config import Family
from controlnet_core.model.autoencoder import Autoencoder
from controlnet_core.model.text_encoder import TextEncoder
from controlnet_core.model.unet import UNet
from controlnet_core.weights.safetensors_file import open_tensor_file, write_tensor_file
from controlnet_core.weights.save import save_base
from tests.support.base_files import TEXT, write_tokenizer
from tests.support.reduced import REDUCED, randomised

ZERO_SNR = "SDXL, v, zero SNR"
MARKERS = ("v_pred", "ztsnr")
FAMILIES: Mapping[str, Family] = {**REDUCED, ZERO_SNR: replace(REDUCED["SDXL"], prediction="v")}


def write_reduced_base(folder: Path, name: str, dtype: torch.dtype) -> Path:
    """Write a random base of a family, and its tokenizer beside it; the path of the base.

    Arguments:
        folder: Where to.
        name: One of `FAMILIES`.
        dtype: The file's dtype.
    """
    texts = tuple(replace(config, vocabulary=TEXT.vocabulary) for config in FAMILIES[name].text_encoders)
    family, path = replace(FAMILIES[name], text_encoders=texts), folder / "base.safetensors"
    save_base(
        path,
        family,
        unet=randomised(UNet(family.unet), 1).state_dict(),
        autoencoder=randomised(Autoencoder(family.autoencoder), 2).state_dict(),
        text_encoders=[randomised(TextEncoder(config), seed).state_dict() for seed, config in enumerate(texts, 3)],
        dtype=dtype,
    )
    if name == ZERO_SNR:
        rewrite(path, {marker: torch.tensor([]) for marker in MARKERS})
    write_tokenizer(folder)
    return path


def rewrite(path: Path, changed: Mapping[str, Tensor]) -> None:
    """Replace tensors of a file, or add some; its metadata is kept."""
    write_tensor_file(path, load_file(path) | dict(changed), open_tensor_file(path).metadata)
