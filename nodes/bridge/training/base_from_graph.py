"""Copies a base out of ComfyUI's MODEL, CLIP and VAE, with its weights as they would act, to train on.

Training never touches ComfyUI's own weights. The three are read as if they were one checkpoint file, so that the core
finds the same models in it, names the same faults, and gives the same base as it does for the file on disk.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import comfy.lora
import comfy.model_patcher
import comfy.model_sampling
import comfy.sd1_clip
import torch

from ....controlnet_core.base import Base
from ....controlnet_core.config import FAMILIES, Family, Prediction
from ....controlnet_core.errors import CheckpointError
from ....controlnet_core.schedule import NoiseSchedule
from ....controlnet_core.weights.load_base import TINY_FOLDER, build_base
from ....controlnet_core.weights.parts.base_in_file import base_in_file
from ....controlnet_core.weights.parts.parametrisation import trained_size
from ....controlnet_core.weights.safetensors_file import open_tensor_file
from ..host.types import HostClip, HostModel, HostVae
from ..loading.families import WIDTHS
from ..loading.graph_weights import UNET, GraphWeights, parameter_names, parameters, shapes_of
from ..loading.small_base import TinyConfig

PLACE = "the graph's MODEL, CLIP and VAE"
TRAINABLE = f"a MODEL of {', '.join(name for name in FAMILIES if name != 'TINY')} or the small base"
VAE = ("first_stage_model.", "")
TEXT_NAMES = ("clip_l", "clip_h", "clip_g")
TIMESTEPS = 1000
SAME_SCHEDULE = 1e-6
"""ComfyUI keeps its noise levels in float32."""


def base_of(model: HostModel, clip: HostClip, vae: HostVae) -> Base:
    """Copy a base out of the graph, in float32 on the CPU.

    Arguments:
        model: The MODEL, whose LoRAs are merged.
        clip: The CLIP, whose LoRAs are merged and whose "clip skip" is kept.
        vae: The VAE.

    Raises:
        CheckpointError: If no ControlNet can be trained on it; the message names the bases that can be used.
    """
    _check_trainable(model)
    _check_mergeable("MODEL", model)
    _check_mergeable("CLIP", clip.patcher)
    parts = base_in_file(_as_one_file(model, clip, vae))
    sampling = model.get_model_object("model_sampling")
    prediction = _prediction(sampling)
    size = trained_size(parts.family.unet, prediction)
    family = replace(_with_clip_skip(parts.family, clip), prediction=prediction, image_size=size)
    return build_base(replace(parts, family=family, schedule=_schedule(sampling)), _tokenizer(family))


def _check_trainable(model: HostModel) -> None:
    """Check that a MODEL is of a family that the core trains on."""
    config = model.model.model_config
    sizes = config.unet_config
    kind = type(config).__name__
    if sizes.get("context_dim") not in WIDTHS or "channel_mult" not in sizes:
        raise CheckpointError(f"a MODEL of the kind {kind}", TRAINABLE, "connect one of these")
    if sizes.get("in_channels") != 4:
        found = f"a MODEL ({kind}) that reads {sizes.get('in_channels')} channels, as for inpainting"
        raise CheckpointError(found, f"{TRAINABLE}, which reads the 4 channels of a latent", "connect the plain model")
    if sizes.get("adm_in_channels") not in (None, FAMILIES["SDXL"].unet.vector_dim):
        raise CheckpointError(f"a MODEL of the kind {kind} with a further condition", TRAINABLE, "connect one of these")


def _check_mergeable(socket: str, patcher: HostModel) -> None:
    """Check that nothing acts outside the weights: what is added while a model runs is not in a copy of them."""
    if patcher.injections or patcher.weight_wrapper_patches:
        added = ", ".join([*patcher.injections, *patcher.weight_wrapper_patches][:3])
        raise CheckpointError(
            found=f"a {socket} with additions that act while it runs and are not in its weights: {added}",
            expected="weights, and LoRAs that can be merged into them",
            do="attach a LoRA with an ordinary loader, not in bypass mode, and leave out motion modules",
        )
    acting = patcher.model_options.get("transformer_options", {})
    if acting.get("patches") or acting.get("patches_replace"):
        message = f"training ignores the {socket}'s patches that act while sampling, such as FreeU or IPAdapter"
        warnings.warn(message, stacklevel=2)


def _as_one_file(model: HostModel, clip: HostClip, vae: HostVae) -> GraphWeights:
    """Name all parameters as a checkpoint file of the family does."""
    sources: dict[str, tuple[HostModel, str]] = {}
    for patcher, prefixes in ((model, UNET), (vae.patcher, VAE)):
        sources |= parameters(patcher, *prefixes)
    sources |= _text_sources(clip.patcher)
    shapes = shapes_of(sources)
    is_tiny = isinstance(model.model.model_config, TinyConfig)
    metadata = open_tensor_file(TINY_FOLDER / "base.safetensors").metadata if is_tiny else {}
    return GraphWeights(shapes, dict.fromkeys(shapes, "float32"), metadata, sources, PLACE)


def _text_sources(patcher: HostModel) -> dict[str, tuple[HostModel, str]]:
    """The text encoders' parameters."""
    names = list(parameter_names(patcher))
    prefixes = [f"{text}.transformer." for text in TEXT_NAMES if any(name.startswith(f"{text}.") for name in names)]
    places = [f"conditioner.embedders.{number}.transformer." for number in range(len(prefixes))]
    if len(prefixes) == 1:
        places = ["cond_stage_model.transformer."]
    found = {
        place + name.removeprefix(theirs): (patcher, name)
        for place, theirs in zip(places, prefixes, strict=True)
        for name in names
        if name.startswith(theirs)
    }
    if prefixes == ["clip_h.transformer."]:  # SD2 never runs the last layer, and its files in this layout lack it
        last = max(int(key.split(".layers.")[1].split(".")[0]) for key in found if ".layers." in key)
        found = {key: source for key, source in found.items() if f".layers.{last}." not in key}
    return found


def _with_clip_skip(family: Family, clip: HostClip) -> Family:
    """A family whose text encoders leave out as many of their last layers as the graph's "clip skip" says."""
    if clip.layer_idx is None:
        return family
    never_run = 1 if family.text_encoders[0].width == FAMILIES["SD2.1"].text_encoders[0].width else 0
    skipped = max(0, -clip.layer_idx - 1 - never_run)
    encoders = tuple(replace(encoder, skipped_layers=skipped) for encoder in family.text_encoders)
    return replace(family, text_encoders=encoders)


def _prediction(sampling: object) -> Prediction:
    """What the UNet predicts, by how ComfyUI turns it into the denoised latents."""
    kinds = comfy.model_sampling
    predictions: Mapping[object, Prediction] = {
        kinds.EPS.calculate_denoised: "eps",
        kinds.V_PREDICTION.calculate_denoised: "v",
    }
    found = predictions.get(getattr(type(sampling), "calculate_denoised", None))
    if found is None or not isinstance(sampling, kinds.ModelSamplingDiscrete) or len(sampling.sigmas) != TIMESTEPS:
        raise CheckpointError(
            found=f"a MODEL whose sampling is {' and '.join(kind.__name__ for kind in type(sampling).__mro__[1:3])}",
            expected=f"a MODEL that predicts the noise or v at the {TIMESTEPS} timesteps of Stable Diffusion",
            do="train on the model without a ModelSampling node",
        )
    return found


def _schedule(sampling: Any) -> NoiseSchedule:  # noqa: ANN401 - ComfyUI's
    """The noise schedule; that of the files, in full precision, if both agree in float32."""
    plain = NoiseSchedule.scaled_linear()
    sigmas = sampling.sigmas.detach().cpu().double().clone()
    for known in (plain, plain.with_zero_terminal_snr()):
        if torch.allclose(sigmas, known.sigmas, rtol=SAME_SCHEDULE, atol=0):
            return known
    return NoiseSchedule(1 / (1 + sigmas**2))


def _tokenizer(family: Family) -> Path:
    """CLIP's tokenizer, which comes with ComfyUI, or the small base's."""
    if family.unet.family == "TINY":
        return TINY_FOLDER
    return Path(comfy.sd1_clip.__file__).parent / "sd1_tokenizer"


def checkpoint_path(model: HostModel, clip: HostClip, vae: HostVae) -> str | None:
    """The file that all three come from, unchanged, for a run in a terminal; None if there is none."""
    if isinstance(model.model.model_config, TinyConfig):
        return "tiny" if not model.patches and not clip.patcher.patches else None
    patchers = (model, clip.patcher, vae.patcher)
    origins = {_origin(patcher) for patcher in patchers}
    if len(origins) != 1 or clip.layer_idx is not None or any(patcher.patches for patcher in patchers):
        return None
    return origins.pop()


def _origin(patcher: HostModel) -> str | None:
    """The checkpoint file that ComfyUI would load a model from again."""
    loader = getattr(patcher, "cached_patcher_init", None)
    path = loader[1][0] if loader and loader[1] else None
    return path if isinstance(path, str) else None
