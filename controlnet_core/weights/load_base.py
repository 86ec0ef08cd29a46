"""Loads a base, ready for sampling and training."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from ..base import Base
from ..config import Family, UNetConfig
from ..keyed import add_weights
from ..model.autoencoder import Autoencoder
from ..model.text_encoder import TextEncoder
from ..model.unet import UNet
from ..schedule import NoiseSchedule
from ..tokenizer import PromptTokenizer, find_tokenizer
from .facts import base_facts
from .parts.base_in_file import base_in_file
from .parts.base_in_folder import base_in_folder, is_base_folder
from .parts.base_parts import BaseParts
from .parts.part import Config, Part
from .safetensors_file import open_tensor_file
from .source import numbers_by_dtype

COMPUTED = ("float32", "float16", "bfloat16")
"""The dtypes that a base computes in."""
TINY_FOLDER = Path(__file__).parent.parent / "toy"

Module = TypeVar("Module", bound=nn.Module)


class BaseWarning(UserWarning):
    """A base that is read otherwise than its file or another program suggests."""


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
        dtype: The dtype of UNet and text encoders; None takes that of most of the file's UNet, but float32 for the
            small base. The autoencoder is always in float32.
        tokenizer: A folder with CLIP's vocab.json and merges.txt; None looks beside the file and in the hub's cache.

    Raises:
        CheckpointError: If the file is missing, broken or no such base.
        TokenizerError: If there is no tokenizer.
    """
    if path == "tiny":
        path, tokenizer, dtype = TINY_FOLDER / "base.safetensors", TINY_FOLDER, dtype or torch.float32
    parts = load_base_parts(path)
    for note in parts.notes:
        warnings.warn(note, BaseWarning, stacklevel=2)
    folder = find_tokenizer(Path(parts.place), None if tokenizer is None else Path(tokenizer))
    return build_base(parts, folder, device=device, dtype=dtype)


def load_base_parts(path: str | os.PathLike[str]) -> BaseParts:
    """Find the models of a base and compare all its tensors with the key maps; weights are read later, part by part.

    Arguments:
        path: A safetensors file in the LDM layout, or a diffusers folder.

    Raises:
        CheckpointError: If a model is missing, or a tensor is missing, unknown or of another shape.
    """
    path = Path(path)
    return base_in_folder(path) if is_base_folder(path) else base_in_file(open_tensor_file(path))


def build_base(
    parts: BaseParts,
    tokenizer: Path,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Base:
    """Build a base of models that were found.

    Arguments:
        parts: The models.
        tokenizer: A folder with CLIP's vocab.json and merges.txt.
        device: Where to put it; the CPU by default.
        dtype: The dtype of UNet and text encoders; None takes that of most of the UNet's part.

    Raises:
        TokenizerError: If there is no tokenizer, or another one than the text encoders'.
    """
    family = parts.family
    tokenizers = tuple(PromptTokenizer(tokenizer, config) for config in family.text_encoders)
    computed = dtype or _main_dtype(parts.unet)

    def loaded(module: Module, part: Part[Config], dtype: torch.dtype = computed) -> Module:
        module.load_state_dict(part.state_dict(device=device, dtype=dtype), assign=True)
        module.requires_grad_(False)
        return module.train(False)

    text_encoders = zip(family.text_encoders, parts.text_encoders, strict=True)
    unet = loaded(UNet(family.unet, device="meta"), parts.unet)
    autoencoder = loaded(Autoencoder(family.autoencoder, device="meta"), parts.autoencoder, torch.float32)
    texts = tuple(loaded(TextEncoder(config, device="meta"), part) for config, part in text_encoders)
    return Base(
        family=family,
        unet=unet,
        autoencoder=autoencoder,
        text_encoders=texts,
        tokenizers=tokenizers,
        schedule=parts.schedule,
        prediction=family.prediction,
        fingerprint=_fingerprint(family, parts.schedule, (unet, autoencoder, *texts)),
        place=parts.place,
    )


def _main_dtype(unet: Part[UNetConfig]) -> torch.dtype:
    """The dtype of most of a UNet's numbers: files mix several, and layers of different ones do not fit each other."""
    counts = numbers_by_dtype(unet.source, unet.prefix)
    dtype: torch.dtype = getattr(torch, max(COMPUTED, key=lambda name: counts[name]))
    return dtype


def _fingerprint(family: Family, schedule: NoiseSchedule, modules: tuple[nn.Module, ...]) -> str:
    """Hash weights under our names, schedule, and what neither says: one base in files of any layout has one name.

    Sizes are the shapes of the weights, so a field that a config gains later renames no base.
    """
    digest = hashlib.blake2b(json.dumps(base_facts(family), sort_keys=True).encode(), digest_size=16)
    digest.update(schedule.alphas_cumprod.numpy().data)
    for module in modules:
        add_weights(digest, module)
    return digest.hexdigest()
