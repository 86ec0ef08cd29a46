"""The models of a text-to-image base, and the family that they make."""

from __future__ import annotations

from dataclasses import dataclass

from ...config import AutoencoderConfig, Family, Prediction, TextEncoderConfig, UNetConfig
from ...schedule import NoiseSchedule
from ..facts import stored_facts
from .parametrisation import trained_size
from .part import Part


@dataclass(frozen=True)
class BaseParts:
    """The models of a base, and what is known about it.

    Attributes:
        place: Where it was found: the path of a file or folder, unless a host gave it.
        family: All sizes, and what the UNet predicts.
        unet: The UNet's weights.
        autoencoder: The autoencoder's weights.
        text_encoders: The text encoders' weights, in the family's order.
        metadata: The metadata stored in the file, as texts by name.
        schedule: The noise schedule it was trained with.
        unused: Keys of the file that are known and not needed.
        notes: What a user should know about how it is read.
    """

    place: str
    family: Family
    unet: Part[UNetConfig]
    autoencoder: Part[AutoencoderConfig]
    text_encoders: tuple[Part[TextEncoderConfig], ...]
    metadata: dict[str, str]
    schedule: NoiseSchedule
    unused: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def family_of(
    unet: Part[UNetConfig],
    autoencoder: Part[AutoencoderConfig],
    texts: tuple[Part[TextEncoderConfig], ...],
    prediction: Prediction,
) -> Family:
    """The whole family."""
    size = stored_facts(unet.source).get("image_size", trained_size(unet.config, prediction))
    return Family(unet.config, autoencoder.config, tuple(text.config for text in texts), prediction, size)
