"""What shapes cannot say about a model: how files of this package store it, and how it is put to use."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, TypeVar

from ..config import AutoencoderConfig, Family, TextEncoderConfig, UNetConfig
from ..errors import CheckpointError
from .source import WeightSource

Facts = Mapping[str, Any]
Config = TypeVar("Config", UNetConfig, AutoencoderConfig, TextEncoderConfig)

METADATA_KEY = "controlnet_core"
"""Under this key of a file's metadata stand the facts, as JSON."""


def stored_facts(source: WeightSource) -> Facts:
    """The facts that this package stored with the weights; none in files of other programs.

    Raises:
        CheckpointError: If they are no JSON object.
    """
    try:
        facts = json.loads(source.metadata.get(METADATA_KEY, "{}"))
    except json.JSONDecodeError:
        facts = None
    if isinstance(facts, dict):
        return facts
    raise CheckpointError(
        found=f"metadata {METADATA_KEY!r} in {source.place} that cannot be read",
        expected="a JSON object",
        do="remove or repair that metadata entry",
    )


def as_metadata(facts: Facts) -> dict[str, str]:
    """The metadata that `stored_facts` reads."""
    return {METADATA_KEY: json.dumps(facts)}


def with_facts(config: Config, facts: Facts) -> Config:
    """The config with those of its fields that the facts state."""
    stated = {field.name: facts[field.name] for field in fields(config) if field.name in facts}
    return replace(config, **stated)


def base_facts(family: Family) -> dict[str, Any]:
    """What the shapes of a base's file cannot say."""
    return {
        **unet_facts(family.unet),
        "prediction": family.prediction,
        "image_size": family.image_size,
        "latent_scale": family.autoencoder.latent_scale,
        "text_encoders": [text_facts(config) for config in family.text_encoders],
    }


def unet_facts(config: UNetConfig) -> dict[str, Any]:
    """What the shapes of a UNet or ControlNet cannot say."""
    names = ("family", "num_heads", "head_channels", "float32_attention")
    return {name: getattr(config, name) for name in names}


def text_facts(config: TextEncoderConfig) -> dict[str, Any]:
    """What the shapes of a text encoder cannot say."""
    names = ("layers", "num_heads", "activation", "skipped_layers", "normalise_context", "pad_token")
    return {name: getattr(config, name) for name in names}


def family_facts(template: TextEncoderConfig) -> dict[str, Any]:
    """What its family says about a text encoder whose file states nothing.

    "projected" is no field of the config: it says whether the family uses the projection that a file may hold.
    """
    names = ("activation", "skipped_layers", "normalise_context", "pad_token")
    return {name: getattr(template, name) for name in names} | {"projected": template.projection_dim is not None}
