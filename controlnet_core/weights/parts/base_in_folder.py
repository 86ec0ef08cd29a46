"""Finds the models of a base in a diffusers folder, each in a folder of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...config import AutoencoderConfig, TextEncoderConfig
from ..facts import checked_facts, family_facts, json_object, stored_facts
from ..layouts import diffusers, transformers
from ..layouts.sizes import template_of
from ..safetensors_file import open_tensor_file
from .base_parts import BaseParts, family_of
from .parametrisation import folder_parametrisation
from .part import Part, read_part

STATED_BY_TRANSFORMERS = {"num_heads": "num_attention_heads", "activation": "hidden_act"}


def is_base_folder(path: Path) -> bool:
    """Whether a path is a diffusers folder of a whole base."""
    return (path / "model_index.json").is_file()


def base_in_folder(folder: Path) -> BaseParts:
    """Find the models of a base and compare all tensors with the key maps.

    Raises:
        CheckpointError: If a model is missing, or a tensor is missing, unknown or of another shape.
    """
    file = open_tensor_file(folder / "unet")
    unet = read_part(file, diffusers.UNET, stored_facts(file))
    template = template_of(unet.config)
    autoencoder = _autoencoder(folder / "vae", template.autoencoder)
    texts = tuple(
        _text_encoder(folder / f"text_encoder{'' if number == 0 else f'_{number + 1}'}", config)
        for number, config in enumerate(template.text_encoders)
    )
    parts: list[Part[Any]] = [unet, autoencoder, *texts]
    unused = [part.require().unused for part in parts]
    told = folder_parametrisation(_json(folder / "scheduler" / "scheduler_config.json"), str(folder))
    family = family_of(unet, autoencoder, texts, told.prediction)
    return BaseParts(str(folder), family, unet, autoencoder, texts, file.metadata, told.schedule, sum(unused, ()))


def _autoencoder(folder: Path, template: AutoencoderConfig) -> Part[AutoencoderConfig]:
    file = open_tensor_file(folder)
    scale = _json(folder / "config.json").get("scaling_factor", template.latent_scale)
    return read_part(file, diffusers.AUTOENCODER, checked_facts({"latent_scale": scale}, str(folder)))


def _text_encoder(folder: Path, template: TextEncoderConfig) -> Part[TextEncoderConfig]:
    file, stated = open_tensor_file(folder), _json(folder / "config.json")
    facts = {ours: stated[theirs] for ours, theirs in STATED_BY_TRANSFORMERS.items() if theirs in stated}
    known = family_facts(template) | dict(checked_facts(facts, str(folder)))
    return read_part(file, transformers.TEXT_ENCODER, known)


def _json(path: Path) -> dict[str, Any]:
    """A JSON object from the folder; empty if the file is not there."""
    return json_object(path.read_text(encoding="utf-8", errors="replace"), str(path)) if path.is_file() else {}
