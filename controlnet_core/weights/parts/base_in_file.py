"""Finds the models of a base in one file of the LDM layout, or in a host's models that are named as that does."""

from __future__ import annotations

from dataclasses import dataclass

from ...config import AutoencoderConfig, TextEncoderConfig, UNetConfig
from ...errors import CheckpointError
from ..detect import locate, refusal
from ..facts import Facts, family_facts, stored_facts
from ..keymap import KeyMap, merged
from ..layouts import ldm, ldm_base
from ..layouts.kinds import AutoencoderLayout, BaseLayout, TextEncoderLayout
from ..layouts.sizes import template_of
from ..quantised import dequantised
from ..source import WeightSource
from .base_parts import BaseParts, family_of
from .parametrisation import file_parametrisation, refuse_continuous
from .part import Part, read_part, without_prefix

EXPECTED = "a Stable Diffusion checkpoint with UNet, autoencoder and text encoder, or a diffusers folder"


@dataclass(frozen=True)
class FoundParts:
    """The models that a file holds, complete or not, before they are compared with their key maps.

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
        """What a whole checkpoint would also hold."""
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
            *(self.prefix + pattern for pattern in ldm_base.BESIDE_A_BASE)
        )


def base_in_file(source: WeightSource) -> BaseParts:
    """Find the models of a base and compare all tensors with the key maps.

    Raises:
        CheckpointError: If a model is missing, or a tensor is missing, unknown or of another shape.
    """
    source = dequantised(source)
    found = find_parts(source)
    if found.autoencoder is None or found.lacking():
        do = "use a whole checkpoint, not one that was stripped to its UNet"
        raise CheckpointError(f"{' and '.join(found.lacking())} in {source.place}", EXPECTED, do)
    unused = found.keymap().require(source.shapes, source.place).unused
    told = file_parametrisation(source, found.unet)
    return BaseParts(
        place=source.place,
        family=family_of(found.unet, found.autoencoder, found.text_encoders, told.prediction),
        unet=found.unet,
        autoencoder=found.autoencoder,
        text_encoders=found.text_encoders,
        metadata=source.metadata,
        schedule=told.schedule,
        unused=unused,
        notes=told.notes,
    )


def find_parts(source: WeightSource) -> FoundParts:
    """Find the models and read their sizes.

    Raises:
        CheckpointError: If there is no UNet, it has continuous noise levels, or sizes cannot be read.
    """
    detected = locate(source.shapes, BaseLayout)
    if detected is None:
        raise refusal(source.shapes, EXPECTED, source.place)
    outer, facts = detected.prefix, stored_facts(source)
    unet = read_part(source, ldm.UNET, facts, outer + ldm_base.UNET_PREFIX)
    refuse_continuous(source, unet)
    autoencoder = _autoencoder(source, outer, unet.config, facts)
    return FoundParts(unet, autoencoder, _text_encoders(source, outer, unet.config, facts), outer)


def _autoencoder(source: WeightSource, outer: str, unet: UNetConfig, facts: Facts) -> Part[AutoencoderConfig] | None:
    prefix = outer + ldm_base.AUTOENCODER_PREFIX
    if locate(without_prefix(source.shapes, prefix), AutoencoderLayout) is None:
        return None
    scale = template_of(unet).autoencoder.latent_scale
    return read_part(source, ldm.AUTOENCODER, {"latent_scale": scale, **facts}, prefix)


def _text_encoders(
    source: WeightSource, outer: str, unet: UNetConfig, facts: Facts
) -> tuple[Part[TextEncoderConfig], ...]:
    prefixes = [outer + prefix for prefix in ldm_base.TEXT_PREFIXES]
    detected = ((prefix, locate(without_prefix(source.shapes, prefix), TextEncoderLayout)) for prefix in prefixes)
    found = [(prefix, one.kind) for prefix, one in detected if one is not None]
    stated = facts.get("text_encoders", [])
    parts = []
    for number, ((prefix, layout), template) in enumerate(zip(found, template_of(unet).text_encoders, strict=False)):
        known = family_facts(template) | (stated[number] if number < len(stated) else {})
        parts.append(read_part(source, layout, known, prefix))
    return tuple(parts)
