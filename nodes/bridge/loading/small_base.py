"""The small base as ComfyUI's own MODEL, CLIP and VAE."""

from __future__ import annotations

from typing import Any, ClassVar

import comfy.model_detection
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models
import comfy.supported_models_base
import comfy.utils
import torch

from ....controlnet_core.config import FAMILIES
from ....controlnet_core.weights.layouts import ldm
from ....controlnet_core.weights.load_base import TINY_FOLDER
from ..host.types import HostClip, HostModel, HostVae

TINY = FAMILIES["TINY"]
TEXT = TINY.text_encoders[0]
UNET_PREFIX, VAE_PREFIX, TEXT_PREFIX = "model.diffusion_model.", "first_stage_model.", "cond_stage_model."
START, END = TEXT.vocabulary - 2, TEXT.vocabulary - 1


class TinyConfig(comfy.supported_models.SD15):
    """ComfyUI's SD1.5 with the small base's sizes; the same latents, noise schedule and prediction."""

    unet_config: ClassVar = {"context_dim": TINY.unet.context_dim, "model_channels": TINY.unet.model_channels}
    unet_extra_config: ClassVar = {"num_heads": -1, "num_head_channels": TINY.unet.head_channels}


Options = dict[str, Any]


class TinyTokenizer(comfy.sd1_clip.SDTokenizer):
    """ComfyUI's tokenizer, prompt weights included, with the small base's vocabulary."""

    def __init__(self, embedding_directory: str | None = None, tokenizer_data: Options | None = None) -> None:
        super().__init__(
            str(TINY_FOLDER),
            max_length=TEXT.context_length,
            embedding_directory=embedding_directory,
            embedding_size=TEXT.width,
            tokenizer_data=tokenizer_data or {},
        )


class TinyPromptTokenizer(comfy.sd1_clip.SD1Tokenizer):
    """What ComfyUI's CLIP asks for tokens."""

    def __init__(self, embedding_directory: str | None = None, tokenizer_data: Options | None = None) -> None:
        super().__init__(embedding_directory, tokenizer_data or {}, tokenizer=TinyTokenizer)


class TinyTextEncoder(comfy.sd1_clip.SDClipModel):
    """ComfyUI's CLIP text transformer with the small base's sizes."""

    def __init__(
        self, device: torch.device | str = "cpu", dtype: torch.dtype | None = None, model_options: Options | None = None
    ) -> None:
        config = {
            "hidden_size": TEXT.width,
            "num_hidden_layers": TEXT.layers,
            "num_attention_heads": TEXT.num_heads,
            "intermediate_size": 4 * TEXT.width,
            "max_position_embeddings": TEXT.context_length,
            "hidden_act": TEXT.activation,
            "eos_token_id": END,
        }
        super().__init__(
            device=device,
            dtype=dtype,
            max_length=TEXT.context_length,
            textmodel_json_config=config,
            special_tokens={"start": START, "end": END, "pad": END},
            return_projected_pooled=False,
            model_options=model_options or {},
        )
        # ComfyUI's table always has CLIP-L's 49,408 tokens.
        table = self.operations.Embedding(TEXT.vocabulary, TEXT.width, device=device, dtype=dtype)
        self.transformer.set_input_embeddings(table)


class TinyTextModel(comfy.sd1_clip.SD1ClipModel):
    """What ComfyUI's CLIP asks for embeddings."""

    def __init__(
        self, device: torch.device | str = "cpu", dtype: torch.dtype | None = None, model_options: Options | None = None
    ) -> None:
        super().__init__(device, dtype, model_options or {}, clip_model=TinyTextEncoder)


def load_tiny_base() -> tuple[HostModel, HostClip, HostVae]:
    """Load the small base: MODEL, CLIP and VAE."""
    weights = _weights()
    return load_tiny_model(), _clip(_below(weights, TEXT_PREFIX)), _vae(_below(weights, VAE_PREFIX))


def load_tiny_model(disable_dynamic: bool = False) -> HostModel:
    """Load the UNet in ComfyUI's model and patcher, in the dtype that it would choose.

    ComfyUI calls this again for clones on other devices, and for one without dynamic memory.
    """
    weights = _weights()
    load_device = comfy.model_management.get_torch_device()
    offload_device = comfy.model_management.unet_offload_device()
    config = TinyConfig(comfy.model_detection.detect_unet_config(weights, UNET_PREFIX))
    supported = list(config.supported_inference_dtypes)
    dtype = comfy.model_management.unet_dtype(
        model_params=comfy.utils.calculate_parameters(weights, UNET_PREFIX),
        supported_dtypes=supported.copy(),
        weight_dtype=comfy.utils.weight_dtype(weights, UNET_PREFIX),
    )
    config.set_inference_dtype(dtype, comfy.model_management.unet_manual_cast(dtype, load_device, supported))
    model = config.get_model(weights, UNET_PREFIX, device=offload_device)
    patchers = comfy.model_patcher
    kind = patchers.ModelPatcher if disable_dynamic else patchers.CoreModelPatcher
    patcher = kind(model, load_device=load_device, offload_device=offload_device)
    model.load_model_weights(weights, UNET_PREFIX, assign=patcher.is_dynamic())
    patcher.cached_patcher_init = (load_tiny_model, ())
    return patcher


def _weights() -> dict[str, Any]:
    """All weights of the small base."""
    weights: dict[str, Any] = comfy.utils.load_torch_file(str(TINY_FOLDER / "base.safetensors"))
    return weights


def _below(weights: dict[str, Any], prefix: str) -> dict[str, Any]:
    """The part of a checkpoint under a prefix, without it."""
    return {key.removeprefix(prefix): tensor for key, tensor in weights.items() if key.startswith(prefix)}


def _clip(weights: dict[str, Any]) -> HostClip:
    """The text encoder and its tokenizer."""
    target = comfy.supported_models_base.ClipTarget(TinyPromptTokenizer, TinyTextModel)
    named = {f"clip_l.{key}": tensor for key, tensor in weights.items()}
    return comfy.sd.CLIP(target, parameters=comfy.utils.calculate_parameters(named), state_dict=named)


def _vae(weights: dict[str, Any]) -> HostVae:
    """The autoencoder."""
    sizes = ldm.AUTOENCODER.sizes({key: tuple(tensor.shape) for key, tensor in weights.items()}, {})
    params = {
        "ddconfig": {
            "double_z": True,
            "z_channels": sizes.latent_channels,
            "resolution": 256,
            "in_channels": 3,
            "out_ch": 3,
            "ch": sizes.base_channels,
            "ch_mult": list(sizes.channel_mult),
            "num_res_blocks": sizes.num_res_blocks,
            "attn_resolutions": [],
            "dropout": 0.0,
        },
        "embed_dim": sizes.latent_channels,
    }
    return comfy.sd.VAE(sd=weights, config={"params": params})
