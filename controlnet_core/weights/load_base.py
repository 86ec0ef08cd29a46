"""Loads a base, ready for sampling and training."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from ..base import Base
from ..model.autoencoder import Autoencoder
from ..model.text_encoder import TextEncoder
from ..model.unet import UNet
from ..schedule import NoiseSchedule
from ..tokenizer import PromptTokenizer, find_tokenizer
from .base_parts import load_base_parts
from .part import Config, Part

TINY_FOLDER = Path(__file__).parent.parent / "tiny"
HASHED_BLOCK = 1 << 20

Module = TypeVar("Module", bound=nn.Module)


def load_base(
    path: str | os.PathLike[str],
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    tokenizer: str | os.PathLike[str] | None = None,
) -> Base:
    """Load a base.

    Arguments:
        path: A safetensors file in the LDM layout or a diffusers folder; "tiny" is the small base of this package.
        device: Where to put it; the CPU by default.
        dtype: Its dtype; None keeps the file's, but float32 for the small base.
        tokenizer: A folder with CLIP's vocab.json and merges.txt; None looks beside the file and in the hub's cache.

    Raises:
        CheckpointError: If the file is missing, broken or no such base.
        TokenizerError: If there is no tokenizer.
    """
    if path == "tiny":
        path, tokenizer, dtype = TINY_FOLDER / "base.safetensors", TINY_FOLDER, dtype or torch.float32
    parts = load_base_parts(path)
    family = parts.family
    folder = find_tokenizer(parts.path, None if tokenizer is None else Path(tokenizer))

    def loaded(module: Module, part: Part[Config]) -> Module:
        module.load_state_dict(part.state_dict(device=device, dtype=dtype), assign=True)
        module.requires_grad_(False)
        return module.eval()

    text_encoders = zip(family.text_encoders, parts.text_encoders, strict=True)
    return Base(
        family=family,
        unet=loaded(UNet(family.unet, device="meta"), parts.unet),
        autoencoder=loaded(Autoencoder(family.autoencoder, device="meta"), parts.autoencoder),
        text_encoders=tuple(loaded(TextEncoder(config, device="meta"), part) for config, part in text_encoders),
        tokenizers=tuple(PromptTokenizer(folder, config) for config in family.text_encoders),
        schedule=NoiseSchedule.scaled_linear(),
        prediction=family.prediction,
        fingerprint=_fingerprint(parts.path),
    )


def _fingerprint(path: Path) -> str:
    """Hash the weights of a file, or of all files of a folder; the words in their headers have no say."""
    digest = hashlib.blake2b(digest_size=16)
    for file in [path] if path.is_file() else sorted(path.rglob("*.safetensors")):
        with file.open("rb") as opened:
            header = json.loads(opened.read(int.from_bytes(opened.read(8), "little")))
            header.pop("__metadata__", None)
            digest.update(json.dumps(header, sort_keys=True).encode())
            while block := opened.read(HASHED_BLOCK):
                digest.update(block)
    return digest.hexdigest()
