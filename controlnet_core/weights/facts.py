"""What shapes cannot say about a model: how files of this package store it, and how it is put to use."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any, TypeVar

from ..config import AutoencoderConfig, Family, TextEncoderConfig, UNetConfig
from ..errors import UNREADABLE, CheckpointError
from .source import WeightSource

Facts = Mapping[str, Any]
Config = TypeVar("Config", UNetConfig, AutoencoderConfig, TextEncoderConfig)

METADATA_KEY = "controlnet_core"
"""Under this key of a file's metadata stand the facts, as JSON."""

REPAIR = "repair or remove it, or fetch the file again"
LONGEST = 60
"""Characters of a value that a message quotes."""


def _whole(low: int, high: int) -> Callable[[Any], bool]:
    """A check for whole numbers from `low` to `high`."""
    return lambda value: type(value) is int and low <= value <= high


def _is_scale(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0


CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "family": (lambda value: isinstance(value, str), "a name"),
    "num_heads": (lambda value: value is None or _whole(1, 1024)(value), "a number of heads or null"),
    "head_channels": (lambda value: value is None or _whole(1, 1024)(value), "a number of channels or null"),
    "float32_attention": (lambda value: isinstance(value, bool), "true or false"),
    "pooled": (lambda value: isinstance(value, bool), "true or false"),
    "latent_scale": (_is_scale, "a number above 0"),
    "layers": (_whole(1, 256), "a number of layers"),
    "activation": (lambda value: value in ("quick_gelu", "gelu"), "quick_gelu or gelu"),
    "skipped_layers": (_whole(0, 255), "a number of layers"),
    "normalise_context": (lambda value: isinstance(value, bool), "true or false"),
    "pad_token": (lambda value: value in ("end", "zero"), "end or zero"),
    "prediction": (lambda value: isinstance(value, str), "eps or v"),
    "image_size": (_whole(8, 2**16), "a number of pixels"),
    "text_encoders": (lambda value: isinstance(value, list), "a list of objects"),
}
"""What shapes cannot say: what each of these may be, and that in words."""


def stored_facts(source: WeightSource) -> Facts:
    """The facts that this package stored with the weights; none in files of other programs.

    Raises:
        CheckpointError: If they are no JSON object, or one of them is impossible.
    """
    place = f"the metadata {METADATA_KEY!r} of {source.place}"
    facts = checked_facts(json_object(source.metadata.get(METADATA_KEY, "{}"), place), place)
    for part in facts.get("text_encoders", ()):
        checked_facts(part, place)
    return facts


def json_object(text: str, place: str) -> dict[str, Any]:
    """The JSON object that a text holds; `place` is where it stands, for messages.

    Raises:
        CheckpointError: If it is none.
    """
    try:
        content = json.loads(text)
    except UNREADABLE:
        content = None
    if isinstance(content, dict):
        return content
    raise CheckpointError(f"{place}, which cannot be read", "a JSON object", REPAIR)


def checked_facts(facts: object, place: str) -> Facts:
    """The facts, if each that is known here is possible; `place` is where they stand, for messages.

    Raises:
        CheckpointError: If one is not.
    """
    if not isinstance(facts, dict):
        raise CheckpointError(f"{shortened(facts)} in {place}", "an object with names and values", REPAIR)
    for name, (is_possible, words) in CHECKS.items():
        if name in facts and not is_possible(facts[name]):
            raise CheckpointError(f"{name} = {shortened(facts[name])} in {place}", words, REPAIR)
    return facts


def shortened(value: object) -> str:
    """A value as it is written, cut to a length that a message can hold."""
    words = repr(value)
    return words if len(words) <= LONGEST else f"{words[:LONGEST]}..."


def as_metadata(facts: Facts) -> dict[str, str]:
    """The metadata that `stored_facts` reads."""
    return {METADATA_KEY: json.dumps(facts)}


def with_facts(config: Config, facts: Facts) -> Config:
    """The config with those of its fields that the facts state and its shapes do not tell."""
    stated = {field.name: facts[field.name] for field in fields(config) if field.name in facts and field.name in CHECKS}
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
