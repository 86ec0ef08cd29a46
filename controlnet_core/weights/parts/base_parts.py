"""The models of a text-to-image base, and the family that they make."""

from __future__ import annotations

from dataclasses import dataclass

from ...config import AutoencoderConfig, Family, Prediction, TextEncoderConfig, UNetConfig
from ...errors import CheckpointError
from ..facts import stored_facts
from ..layouts.sizes import template_of
from .part import Part

PREDICTIONS: dict[str, Prediction] = {
    "eps": "eps",
    "epsilon": "eps",
    "v": "v",
    "v_prediction": "v",
    "v-prediction": "v",
}
V_SPREAD = 0.09
"""Above this standard deviation of the last self-attention's norm bias, an SD2 UNet was trained to predict v."""


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
        unused: Keys of the file that are known and not needed.
    """

    place: str
    family: Family
    unet: Part[UNetConfig]
    autoencoder: Part[AutoencoderConfig]
    text_encoders: tuple[Part[TextEncoderConfig], ...]
    metadata: dict[str, str]
    unused: tuple[str, ...] = ()


def family_of(
    unet: Part[UNetConfig],
    autoencoder: Part[AutoencoderConfig],
    texts: tuple[Part[TextEncoderConfig], ...],
    stated: Prediction | None,
) -> Family:
    """The whole family, with what the UNet predicts as stated or as its weights show."""
    prediction = stated or _measured_prediction(unet)
    template = template_of(unet.config)
    size = template.image_size
    if template.prediction == "v" and prediction == "eps":
        size = 512  # SD2 base models were trained on smaller images than those that predict v
    size = stored_facts(unet.source).get("image_size", size)
    return Family(unet.config, autoencoder.config, tuple(text.config for text in texts), prediction, size)


def known_prediction(stated: object, place: str) -> Prediction:
    """What a base predicts, as files word it; raises CheckpointError if it is something else."""
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
    with unet.source.tensors() as tensors:
        return "v" if tensors[theirs].float().std() > V_SPREAD else "eps"
