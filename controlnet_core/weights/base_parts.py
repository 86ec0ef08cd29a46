"""Finds the models of a text-to-image base in one LDM file or in a diffusers folder."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..config import AutoencoderConfig, Family, Prediction, TextEncoderConfig, UNetConfig
from ..errors import CheckpointError
from . import diffusers_keys, ldm_keys
from .detect import locate, refusal
from .keymap import KeyMap, merged
from .load import TRAINING_LEFTOVERS
from .part import Part
from .sizes import (
    has_old_attention,
    read_autoencoder_config,
    read_text_config,
    read_unet_config,
    strip,
    template_of,
    transformers_inner,
)
from .source import TensorFile, open_tensor_file
from .text_keys import openclip_keymap, transformers_keymap

TEXT_PLACES = (
    "cond_stage_model.transformer.",
    "cond_stage_model.model.",
    "conditioner.embedders.0.transformer.",
    "conditioner.embedders.0.model.",
    "conditioner.embedders.1.transformer.",
    "conditioner.embedders.1.model.",
)
BESIDE_A_BASE = (
    *TRAINING_LEFTOVERS,
    "control_model.*",
    "cond_stage_model.logit_scale",
    "cond_stage_model.text_projection",
    "conditioner.embedders.*.logit_scale",
    "conditioner.embedders.0.text_projection",
)
EXPECTED = "a Stable Diffusion checkpoint with UNet, autoencoder and text encoder, or a diffusers folder"
PREDICTIONS: dict[str, Prediction] = {
    "eps": "eps",
    "epsilon": "eps",
    "v": "v",
    "v_prediction": "v",
    "v-prediction": "v",
}
STATED_BY_TRANSFORMERS = {"num_heads": "num_attention_heads", "activation": "hidden_act"}
V_SPREAD = 0.09
"""Above this standard deviation of the last self-attention's norm bias, an SD2 UNet was trained to predict v."""


@dataclass(frozen=True)
class BaseParts:
    """The models of a base, and what is known about it.

    Attributes:
        path: Where it was found.
        family: All sizes, and what the UNet predicts.
        unet: The UNet's weights.
        autoencoder: The autoencoder's weights.
        text_encoders: The text encoders' weights, in the family's order.
        metadata: The words stored in the file.
        unused: Keys of the file that are known and not needed.
    """

    path: Path
    family: Family
    unet: Part[UNetConfig]
    autoencoder: Part[AutoencoderConfig]
    text_encoders: tuple[Part[TextEncoderConfig], ...]
    metadata: dict[str, str]
    unused: tuple[str, ...] = ()


@dataclass(frozen=True)
class FoundParts:
    """The models that an LDM file holds, complete or not, before they are compared with their key maps.

    Attributes:
        unet: The UNet.
        autoencoder: The autoencoder, if there is any.
        text_encoders: The text encoders that were found.
        prefix: What stands before all keys, mostly nothing.
    """

    unet: Part[UNetConfig]
    autoencoder: Part[AutoencoderConfig] | None
    text_encoders: tuple[Part[TextEncoderConfig], ...]
    prefix: str = ""

    def lacking(self) -> tuple[str, ...]:
        """What a whole checkpoint would hold beside this, in words."""
        wanted, texts = len(template_of(self.unet.config).text_encoders), len(self.text_encoders)
        autoencoder = () if self.autoencoder else ("no KL autoencoder (VAE)",)
        return autoencoder + (() if texts == wanted else (f"{texts} text encoders instead of {wanted}",))

    def keymap(self) -> KeyMap:
        """One map for the whole file."""
        maps = {"unet": self.unet.keymap}
        if self.autoencoder is not None:
            maps["autoencoder"] = self.autoencoder.keymap
        maps |= {f"text_encoders.{number}": part.keymap for number, part in enumerate(self.text_encoders)}
        return merged(f"{self.unet.config.family} in the LDM layout", maps).ignoring(
            *(self.prefix + pattern for pattern in BESIDE_A_BASE)
        )


def load_base_parts(path: str | os.PathLike[str]) -> BaseParts:
    """Find the models of a base and compare all its tensors with the key maps; weights are read later, part by part.

    Arguments:
        path: A safetensors file in the LDM layout, or a diffusers folder.

    Raises:
        CheckpointError: If a model is missing, or a tensor is missing, unknown or of another shape.
    """
    path = Path(path)
    if (path / "model_index.json").is_file():
        return _parts_in_folder(path)
    return base_parts_in_file(open_tensor_file(path))


def base_parts_in_file(file: TensorFile) -> BaseParts:
    """Find the models of a base in an LDM file and compare all its tensors with the key maps.

    Raises:
        CheckpointError: As `load_base_parts` does.
    """
    path = file.path
    found = find_parts(file)
    if found.autoencoder is None or found.lacking():
        do = "use a whole checkpoint, not one that was stripped to its UNet"
        raise CheckpointError(f"{' and '.join(found.lacking())} in {path}", EXPECTED, do)
    unused = found.keymap().require(file.shapes, str(path)).unused
    family = _family(found.unet, found.autoencoder, found.text_encoders, _stated_prediction(file))
    return BaseParts(path, family, found.unet, found.autoencoder, found.text_encoders, file.metadata, unused)


def find_parts(file: TensorFile) -> FoundParts:
    """Find the models in an LDM file and read their sizes.

    Raises:
        CheckpointError: If there is no UNet, or sizes cannot be read.
    """
    detected = locate(file.shapes, "base")
    if detected is None:
        raise refusal(file.shapes, EXPECTED, str(file.path))
    facts = file.stored_facts()
    prefix = detected.prefix + ldm_keys.UNET_PREFIX
    config = read_unet_config(strip(file.shapes, prefix), "ldm", facts)
    unet = Part(config, ldm_keys.unet_keymap(config).prefixed(prefix), file)
    return FoundParts(
        unet,
        _autoencoder_in_file(file, detected.prefix, config, facts),
        _text_encoders_in_file(file, detected.prefix, config, facts),
        detected.prefix,
    )


def _autoencoder_in_file(
    file: TensorFile, outer: str, unet: UNetConfig, facts: Mapping[str, Any]
) -> Part[AutoencoderConfig] | None:
    prefix = outer + ldm_keys.AUTOENCODER_PREFIX
    shapes = strip(file.shapes, prefix)
    if locate(shapes, "autoencoder") is None:
        return None
    scale = template_of(unet).autoencoder.latent_scale
    config = read_autoencoder_config(shapes, "ldm", {"latent_scale": scale, **facts})
    return Part(config, ldm_keys.autoencoder_keymap(config).prefixed(prefix), file)


def _text_encoders_in_file(
    file: TensorFile, outer: str, unet: UNetConfig, facts: Mapping[str, Any]
) -> tuple[Part[TextEncoderConfig], ...]:
    places = [(outer + place, strip(file.shapes, outer + place)) for place in TEXT_PLACES]
    found = [(prefix, shapes) for prefix, shapes in places if locate(shapes, "text_encoder") is not None]
    stated = facts.get("text_encoders", [])
    parts = []
    for number, ((prefix, shapes), template) in enumerate(zip(found, template_of(unet).text_encoders, strict=False)):
        config = read_text_config(shapes, template, stated[number] if number < len(stated) else {})
        openclip = "positional_embedding" in shapes
        keymap = openclip_keymap(config) if openclip else transformers_keymap(config, transformers_inner(shapes))
        parts.append(Part(config, keymap.prefixed(prefix), file))
    return tuple(parts)


def _parts_in_folder(folder: Path) -> BaseParts:
    """The models of a diffusers folder, each in a folder of its own."""
    unet = _unet_in_folder(folder / "unet")
    template = template_of(unet.config)
    autoencoder = _autoencoder_in_folder(folder / "vae", template.autoencoder)
    texts = tuple(
        _text_encoder_in_folder(folder / f"text_encoder{'' if number == 0 else f'_{number + 1}'}", config)
        for number, config in enumerate(template.text_encoders)
    )
    parts: list[Part[Any]] = [unet, autoencoder, *texts]
    unused = [part.keymap.require(part.file.shapes, str(part.file.path)).unused for part in parts]
    stated = _json(folder / "scheduler" / "scheduler_config.json").get("prediction_type", "epsilon")
    family = _family(unet, autoencoder, texts, _known_prediction(stated, folder))
    return BaseParts(folder, family, unet, autoencoder, texts, unet.file.metadata, sum(unused, ()))


def _unet_in_folder(folder: Path) -> Part[UNetConfig]:
    file = open_tensor_file(folder)
    config = read_unet_config(file.shapes, "diffusers", file.stored_facts())
    return Part(config, diffusers_keys.unet_keymap(config), file)


def _autoencoder_in_folder(folder: Path, template: AutoencoderConfig) -> Part[AutoencoderConfig]:
    file = open_tensor_file(folder)
    scale = _json(folder / "config.json").get("scaling_factor", template.latent_scale)
    config = read_autoencoder_config(file.shapes, "diffusers", {"latent_scale": scale})
    return Part(config, diffusers_keys.autoencoder_keymap(config, has_old_attention(file.shapes)), file)


def _text_encoder_in_folder(folder: Path, template: TextEncoderConfig) -> Part[TextEncoderConfig]:
    file, stated = open_tensor_file(folder), _json(folder / "config.json")
    facts = {ours: stated[theirs] for ours, theirs in STATED_BY_TRANSFORMERS.items() if theirs in stated}
    config = read_text_config(file.shapes, template, facts)
    return Part(config, transformers_keymap(config, transformers_inner(file.shapes)), file)


def _family(
    unet: Part[UNetConfig],
    autoencoder: Part[AutoencoderConfig],
    texts: tuple[Part[TextEncoderConfig], ...],
    stated: Prediction | None,
) -> Family:
    """The whole family, with what the UNet predicts as stated or as its weights show."""
    prediction = stated or _measured_prediction(unet)
    size = template_of(unet.config).image_size
    if template_of(unet.config).prediction == "v" and prediction == "eps":
        size = 512  # SD2 base models were trained on smaller images than those that predict v
    family = Family(unet.config, autoencoder.config, tuple(text.config for text in texts), prediction, size)
    return replace(family, image_size=unet.file.stored_facts().get("image_size", size))


def _stated_prediction(file: TensorFile) -> Prediction | None:
    """What a file says that its UNet predicts, if it says anything."""
    stated = file.stored_facts().get("prediction") or file.metadata.get("modelspec.prediction_type")
    if stated is not None:
        return _known_prediction(stated, file.path)
    return "v" if "v_pred" in file.shapes else None


def _known_prediction(stated: object, place: Path) -> Prediction:
    if stated in PREDICTIONS:
        return PREDICTIONS[str(stated)]
    raise CheckpointError(
        found=f"a base in {place} that predicts {stated!r}",
        expected=" or ".join(sorted(PREDICTIONS)),
        do="use a base that predicts the noise or v",
    )


def _measured_prediction(unet: Part[UNetConfig]) -> Prediction:
    """SD2 UNets of both kinds have the same shapes and are told apart by one tensor; the other families predict eps."""
    config = unet.config
    if config.context_dim != 1024 or not config.transformer_depth[0]:
        return "eps"
    stage, block = len(config.channel_mult) - 1, config.num_res_blocks
    key = f"decoder.stages.{stage}.blocks.{block}.attention.blocks.0.norm1.bias"
    theirs = next(entry.theirs for entry in unet.keymap.entries if entry.ours == (key,))
    with unet.file.tensors() as tensors:
        return "v" if tensors[theirs].float().std() > V_SPREAD else "eps"


def _json(path: Path) -> dict[str, Any]:
    """A JSON object from a diffusers folder; empty if the file is not there."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        content = None
    if isinstance(content, dict):
        return content
    raise CheckpointError(f"{path}, which cannot be read", "a JSON object", "fetch the folder again")
