"""Copies a base out of ComfyUI's MODEL, CLIP and VAE, with its weights as they would act, to train on.

Training never touches ComfyUI's own weights: they may be inference tensors, mapped files, streamed or quantised, and
are replaced whenever a model is loaded. The three are read as if they were one checkpoint file, so that the core finds
the same models in it, names the same faults, and gives the same base as it does for the file on disk.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import comfy.lora
import comfy.model_patcher
import comfy.model_sampling
import comfy.sd1_clip
import torch
from torch import Tensor

from ....controlnet_core.base import Base
from ....controlnet_core.config import FAMILIES, Family, Prediction
from ....controlnet_core.errors import CheckpointError
from ....controlnet_core.schedule import NoiseSchedule
from ....controlnet_core.weights.keymap import Shape
from ....controlnet_core.weights.load_base import TINY_FOLDER, build_base
from ....controlnet_core.weights.parts.base_in_file import base_in_file
from ....controlnet_core.weights.parts.parametrisation import trained_size
from ....controlnet_core.weights.safetensors_file import open_tensor_file
from ....controlnet_core.weights.source import CopiedTensors
from ..host.types import HostClip, HostModel, HostVae
from ..loading.families import WIDTHS
from ..loading.small_base import TinyConfig

PLACE = "the graph's MODEL, CLIP and VAE"
TRAINABLE = f"a MODEL of {', '.join(name for name in FAMILIES if name != 'TINY')} or the small base"
UNET, VAE = ("model.diffusion_model.", "diffusion_model."), ("first_stage_model.", "")
TEXT_NAMES = ("clip_l", "clip_h", "clip_g")
TIMESTEPS = 1000
SAME_SCHEDULE = 1e-6
"""ComfyUI keeps its noise levels in float32."""


@dataclass(frozen=True)
class GraphWeights:
    """What goes through the sockets MODEL, CLIP and VAE: a source of weights, named as a checkpoint in the LDM layout.

    Attributes:
        shapes: The shape of each weight.
        dtypes: The dtype of each, as they are read.
        metadata: The words that the file they come from would hold.
        parameters: For each key ComfyUI's patcher and its name of the parameter.
        place: What messages call it.
    """

    shapes: dict[str, Shape]
    dtypes: dict[str, str]
    metadata: dict[str, str]
    parameters: Mapping[str, tuple[HostModel, str]]
    place: str = PLACE

    @contextmanager
    def tensors(
        self, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Iterator[Mapping[str, Tensor]]:
        """Give copies of the weights, each made when it is asked for: dequantised, with LoRAs and other patches."""

        def acting(key: str) -> Tensor:
            return _merged(*self.parameters[key])

        yield CopiedTensors(tuple(self.parameters), acting, device, dtype)


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
    for patcher, (ours, theirs) in ((model, UNET), (vae.patcher, VAE)):
        names = (name for name in _names(patcher) if name.startswith(theirs))
        sources |= {ours + name.removeprefix(theirs): (patcher, name) for name in names}
    sources |= _text_sources(clip.patcher)
    shapes = {key: tuple(_parameter(*source).shape) for key, source in sources.items()}
    is_tiny = isinstance(model.model.model_config, TinyConfig)
    metadata = open_tensor_file(TINY_FOLDER / "base.safetensors").metadata if is_tiny else {}
    return GraphWeights(shapes, dict.fromkeys(shapes, "float32"), metadata, sources)


def _text_sources(patcher: HostModel) -> dict[str, tuple[HostModel, str]]:
    """The text encoders' parameters."""
    names = list(_names(patcher))
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


def _names(patcher: HostModel) -> Iterator[str]:
    """The parameters that a checkpoint file holds; the scales of a quantised layer are a part of its weight."""
    for place, layer in patcher.model.named_modules():
        quantised = getattr(layer, "quant_format", None) is not None
        for name, _ in layer.named_parameters(recurse=False):
            if not quantised or name in ("weight", "bias"):
                yield f"{place}.{name}" if place else name


def _parameter(patcher: HostModel, name: str) -> Tensor:
    """A parameter before any patch: ComfyUI puts patched weights in place and keeps the original ones."""
    original = patcher.backup.get(name)
    weight: Tensor = comfy.model_patcher.get_key_weight(patcher.model, name)[0] if original is None else original.weight
    return weight


@torch.no_grad()
def _merged(patcher: HostModel, name: str) -> Tensor:
    """A parameter as it acts, in float32: dequantised, and with its patches."""
    weight = _parameter(patcher, name)
    dequantise = comfy.model_patcher.get_key_weight(patcher.model, name)[2]
    if dequantise is not None:
        weight = dequantise(weight)
    copied = weight.detach().to("cpu", torch.float32, copy=True)
    patches = patcher.patches.get(name)
    if not patches:
        return copied
    merged: Tensor = comfy.lora.calculate_weight(patches, copied, name)
    return merged.to("cpu", torch.float32).clone()


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
