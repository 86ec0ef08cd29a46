"""What a base predicts and at which noise levels, as its file or folder says; else as ComfyUI's loader takes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ...config import FAMILIES, Prediction, UNetConfig
from ...errors import CheckpointError, SettingError
from ...schedule import NoiseSchedule
from ..facts import stored_facts
from ..layouts.sizes import template_of
from ..source import WeightSource
from .part import Part

PREDICTIONS: dict[str, Prediction] = {
    "eps": "eps",
    "epsilon": "eps",
    "v": "v",
    "v_prediction": "v",
    "v-prediction": "v",
}
WORDS: Mapping[Prediction, str] = {"eps": "the noise", "v": "v"}
V_MARKER, ZERO_SNR_MARKER = "v_pred", "ztsnr"
"""Empty tensors in SDXL's files: the UNet predicts v; it was trained with no signal left at the last timestep."""
EDM_MARKERS = ({"edm_mean", "edm_std"}, {"edm_vpred.sigma_max"})
MEASURED = "output_blocks.11.1.transformer_blocks.0.norm1.bias"
V_SPREAD = 0.09
"""Above this standard deviation of the last self-attention's norm bias, an SD2 UNet was trained to predict v."""
MOST_TIMESTEPS = 2**16
"""No base was trained with more: a config that says so is damaged or made up."""
OTHER_SCHEDULERS = ("EDM", "Flow")
"""In the name of a diffusers scheduler: it does not step along a table of betas."""


@dataclass(frozen=True, eq=False)
class Parametrisation:
    """What a base predicts and at which noise levels.

    Attributes:
        prediction: What its UNet predicts.
        schedule: The noise schedule it was trained with.
        notes: What a user should know about how they were told.
    """

    prediction: Prediction
    schedule: NoiseSchedule
    notes: tuple[str, ...] = ()


def file_parametrisation(source: WeightSource, unet: Part[UNetConfig]) -> Parametrisation:
    """Tell it from one file of the LDM layout: by its metadata, by marker keys, or by the weights.

    Raises:
        CheckpointError: If the file says that it predicts neither the noise nor v.
    """
    is_sdxl = template_of(unet.config) is FAMILIES["SDXL"]
    marked = is_sdxl and V_MARKER in source.shapes
    assumed: Prediction = "v" if marked or _measures_v(unet) else "eps"
    stated = stored_facts(source).get("prediction") or source.metadata.get("modelspec.prediction_type")
    prediction = assumed if stated is None else known_prediction(stated, source.place)
    schedule = NoiseSchedule.scaled_linear()
    rescaled = is_sdxl and prediction == "v" and ZERO_SNR_MARKER in source.shapes
    read = {V_MARKER: prediction == "v", ZERO_SNR_MARKER: rescaled}
    unread = [marker for marker, is_read in read.items() if marker in source.shapes and not is_read]
    notes = []
    if prediction != assumed:
        notes.append(
            f"{source.place} says that it predicts {WORDS[prediction]}, but ComfyUI's loader takes it for one that "
            f"predicts {WORDS[assumed]}: in a graph, put ModelSamplingDiscrete after the loader"
        )
    if unread:
        notes.append(
            f"{source.place} holds {' and '.join(unread)}, which ComfyUI's loader ignores in such a file, as this "
            f"package does: the base is taken to predict {WORDS[prediction]}, with Stable Diffusion's own noise levels"
        )
    return Parametrisation(prediction, schedule.with_zero_terminal_snr() if rescaled else schedule, tuple(notes))


def refuse_continuous(source: WeightSource, unet: Part[UNetConfig]) -> None:
    """Refuse an SDXL that was trained at EDM's continuous noise levels, such as Playground 2.5 and CosXL.

    Raises:
        CheckpointError: If the file's markers say so.
    """
    keys = [key for markers in EDM_MARKERS if markers <= source.shapes.keys() for key in sorted(markers)]
    if keys and template_of(unet.config) is FAMILIES["SDXL"]:
        raise _other_levels(f"a base in {source.place} with EDM's continuous noise levels ({', '.join(keys)})")


def folder_parametrisation(scheduler: Mapping[str, Any], place: str) -> Parametrisation:
    """Tell it from the `scheduler_config.json` of a diffusers folder; what it leaves out is Stable Diffusion's own.

    Raises:
        CheckpointError: If no training with it is possible here.
    """
    name = str(scheduler.get("_class_name", ""))
    if any(part in name for part in OTHER_SCHEDULERS):
        raise _other_levels(f"a base in {place} with the scheduler {name}")
    prediction = known_prediction(scheduler.get("prediction_type", "epsilon"), place)
    try:
        schedule = _schedule(scheduler)
        if scheduler.get("rescale_betas_zero_snr"):
            schedule = schedule.with_zero_terminal_snr()
    except (TypeError, ValueError, OverflowError, RuntimeError, SettingError) as error:
        raise CheckpointError(
            found=f"a scheduler in {place} that cannot be used: {error}",
            expected="betas that are scaled_linear, linear or listed",
            do="correct scheduler/scheduler_config.json",
        ) from error
    return Parametrisation(prediction, schedule)


def known_prediction(stated: object, place: str) -> Prediction:
    """What a base predicts, as files word it; raises CheckpointError if it is something else."""
    known = PREDICTIONS.get(str(stated))
    if known is not None:
        return known
    raise CheckpointError(
        found=f"a base in {place} that predicts {stated!r}",
        expected=" or ".join(sorted(PREDICTIONS)),
        do="use a base that predicts the noise or v",
    )


def trained_size(unet: UNetConfig, prediction: Prediction) -> int:
    """The side in pixels that bases of a family are trained at: SD2's that predict the noise saw smaller pictures."""
    template = template_of(unet)
    return 512 if (template.prediction, prediction) == ("v", "eps") else template.image_size


def _measures_v(unet: Part[UNetConfig]) -> bool:
    """SD2 UNets of both kinds have the same shapes and are told apart by one tensor; the other families predict eps."""
    key = unet.prefix + MEASURED
    if unet.config.context_dim != 1024 or unet.config.in_channels != 4 or key not in unet.source.shapes:
        return False
    with unet.source.tensors() as tensors:
        return bool(tensors[key].float().std(unbiased=False) > V_SPREAD)


def _schedule(scheduler: Mapping[str, Any]) -> NoiseSchedule:
    """The schedule of the betas that a scheduler lists or describes."""
    listed = scheduler.get("trained_betas")
    if listed is not None:
        return NoiseSchedule.of_betas(torch.tensor(listed, dtype=torch.float64))
    kind, steps = scheduler.get("beta_schedule", "scaled_linear"), int(scheduler.get("num_train_timesteps", 1000))
    if steps > MOST_TIMESTEPS:
        raise ValueError(f"num_train_timesteps is {steps}")
    start, end = (float(scheduler.get(name, own)) for name, own in (("beta_start", 0.00085), ("beta_end", 0.012)))
    if kind == "scaled_linear":
        return NoiseSchedule.scaled_linear(steps, start, end)
    if kind == "linear":
        return NoiseSchedule.of_betas(torch.linspace(start, end, steps, dtype=torch.float64))
    raise ValueError(f"beta_schedule is {kind!r}")


def _other_levels(found: str) -> CheckpointError:
    return CheckpointError(
        found=found,
        expected="a base that was trained at Stable Diffusion's discrete timesteps",
        do="use one that is no EDM or flow model",
    )
