"""What a file is, told by its keys: the kinds are data, so that a near miss can be explained."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from ..errors import CheckpointError
from .sizes import Layout


@dataclass(frozen=True)
class Kind:
    """A kind of weights file.

    Attributes:
        name: What this package calls it; None if it cannot be read.
        layout: Whose key names it has.
        words: What it is, for messages.
        has_all: Patterns of keys that are all there; the first names the prefix by its `*`.
        has_any: Patterns of keys of which one is there.
        do: What to do with a file that cannot be read.
    """

    name: str | None
    layout: Layout
    words: str
    has_all: tuple[str, ...]
    has_any: tuple[str, ...] = ("*",)
    do: str = "use a ControlNet of Stable Diffusion 1.5, 2.1 or SDXL"


@dataclass(frozen=True)
class Detected:
    """A kind, and what stands before its keys."""

    kind: Kind
    prefix: str


def foreign(words: str, *has_all: str, has_any: tuple[str, ...] = ("*",), do: str | None = None) -> Kind:
    """A kind that is known by name and cannot be read."""
    return Kind(None, "ldm", words, has_all, has_any, do or Kind.do)


LORA_ADVICE = "it changes a base and cannot control by itself; load it with a LoRA loader and give a ControlNet here"

# The first kind that fits is it, so what adds keys to another kind stands before that.
KINDS: tuple[Kind, ...] = (
    foreign("a Control-LoRA", "lora_controlnet", do="it needs its base at run time; use the full ControlNet"),
    foreign("a union ControlNet", "*task_embedding", do="use the ControlNet made for the one kind of hint"),
    foreign("a SparseCtrl net for AnimateDiff", "*motion_modules.*", has_any=("*controlnet_cond_embedding.*",)),
    foreign("a ControlNet for Stable Video Diffusion", "*temporal_res_block.*", "*controlnet_cond_embedding.*"),
    foreign("a ControlNet-XS", has_any=("*control_to_base*", "*base_to_control*", "*ctrl_to_base*")),
    foreign("a BrushNet", "*brushnet_down_blocks.*"),
    foreign(
        "a difference ControlNet, which holds only what to add to a base",
        "*difference",
        has_any=("*zero_convs.*", "*input_hint_block.*"),
        do="use the full ControlNet",
    ),
    foreign("a ControlNet with LoRA layers (CtrLoRA)", "*lora_layer.*"),
    foreign("a ControlNet-LLLite", has_any=("lllite_*",)),
    foreign("an IP-Adapter", has_any=("ip_adapter.*", "*to_k_ip.weight", "image_proj.*", "*to_k_ip_lora.*")),
    foreign(
        "a LoRA",
        has_any=(
            "lora_unet_*",
            "lora_te*_*",
            "*.lora_down.weight",
            "*.lora.down.weight",
            "*.lora_A.weight",
            "*.lora_A.*.weight",
            "*.hada_w1_a",
            "*.lokr_w1*",
            "*.oft_blocks",
            "*.oft_diag",
        ),
        do=LORA_ADVICE,
    ),
    Kind(
        "controlnet",
        "ldm",
        "a ControlNet in the LDM layout",
        ("*zero_convs.0.0.weight", "*input_hint_block.0.weight", "*middle_block_out.0.weight"),
    ),
    Kind(
        "controlnet",
        "diffusers",
        "a ControlNet in the diffusers layout",
        ("*controlnet_cond_embedding.conv_in.weight", "*controlnet_down_blocks.0.weight"),
        ("*controlnet_mid_block.weight",),
    ),
    foreign("a ControlNet for Stable Diffusion 3", "*pos_embed_input.*", "*controlnet_blocks.*"),
    foreign("a ControlNet for Flux", "*controlnet_x_embedder.weight"),
    foreign("a ControlNet for Flux", "*controlnet_blocks.*", "*double_blocks.*"),
    foreign("a ControlNet for Qwen Image", "*controlnet_blocks.*", "*img_mlp.*"),
    foreign("a ControlNet for a diffusion transformer", "*controlnet_blocks.*"),
    foreign("a ControlNet for HunyuanDiT", "*after_proj_list.*"),
    foreign(
        "a T2I-Adapter",
        has_any=(
            "*body.0.block1.weight",
            "*body.0.in_conv.weight",
            "*body.0.resnets.0.block1.weight",
            "style_embedding",
        ),
        do="it is no ControlNet; use one, or a loader for T2I-Adapters",
    ),
    Kind(
        "base",
        "ldm",
        "a Stable Diffusion checkpoint in the LDM layout",
        (
            "*model.diffusion_model.input_blocks.0.0.weight",
            "*model.diffusion_model.output_blocks.0.0.in_layers.2.weight",
        ),
    ),
    foreign("a checkpoint of another architecture than Stable Diffusion's UNet", "*model.diffusion_model.*"),
    Kind(
        "unet",
        "ldm",
        "a Stable Diffusion UNet in the LDM layout",
        ("*input_blocks.0.0.weight", "*output_blocks.0.0.in_layers.2.weight"),
    ),
    Kind(
        "unet",
        "diffusers",
        "a Stable Diffusion UNet in the diffusers layout",
        ("*conv_in.weight", "*down_blocks.0.resnets.0.conv1.weight", "*up_blocks.0.resnets.0.time_emb_proj.weight"),
    ),
    Kind(
        "autoencoder",
        "ldm",
        "a KL autoencoder (VAE) in the LDM layout",
        ("*encoder.down.0.block.0.conv1.weight", "*decoder.up.0.block.0.conv1.weight"),
    ),
    Kind(
        "autoencoder",
        "diffusers",
        "a KL autoencoder (VAE) in the diffusers layout",
        ("*encoder.down_blocks.0.resnets.0.conv1.weight", "*decoder.up_blocks.0.resnets.0.conv1.weight"),
    ),
    foreign("a CLIP image encoder", "*vision_model.*"),
    Kind(
        "text_encoder",
        "diffusers",
        "a CLIP text encoder in the transformers layout",
        ("*embeddings.token_embedding.weight", "*embeddings.position_embedding.weight"),
    ),
    Kind(
        "text_encoder",
        "ldm",
        "a CLIP text encoder in the OpenCLIP layout",
        ("*token_embedding.weight", "*positional_embedding", "*transformer.resblocks.0.ln_1.weight"),
    ),
    foreign("a T5 or other text encoder", has_any=("*encoder.block.0.layer.0.SelfAttention.*", "model.layers.*")),
    foreign("a textual inversion embedding", has_any=("emb_params", "clip_l", "clip_g", "<*>", "string_to_param*")),
    foreign(
        "an upscaler",
        has_any=("*RDB1.conv1.weight", "*rdb1.conv1.weight", "params_ema*", "*residual_group.*", "*upsampler.0.weight"),
    ),
    foreign("a small autoencoder (TAESD)", has_any=("*encoder.1.conv.0.weight", "taesd_*")),
    foreign("a diffusion transformer", has_any=("*double_blocks.0.*", "*joint_blocks.0.*", "*transformer_blocks.0.*")),
)


def detect(keys: Iterable[str]) -> Detected | None:
    """The first of all kinds that a file's keys fit, or None."""
    names = tuple(keys)
    return next((Detected(kind, prefix) for kind in KINDS if (prefix := _fit(kind, names)) is not None), None)


def locate(keys: Iterable[str], name: str) -> Detected | None:
    """A kind of that name in a file that may hold other kinds beside it, or None."""
    names = tuple(keys)
    for kind in KINDS:
        prefix = _fit(kind, names) if kind.name in (name, None) else None
        if prefix is not None:
            return Detected(kind, prefix) if kind.name == name else None
    return None


def refusal(keys: Iterable[str], expected: str, place: str) -> CheckpointError:
    """The error for a file that is another kind than asked for, saying what it is or what it comes near to."""
    names = tuple(keys)
    detected = detect(names)
    if detected is not None:
        kind = detected.kind
        do = kind.do if kind.name is None else "give it where that kind is asked for"
        return CheckpointError(f"{kind.words}, {place}", expected, do)
    return CheckpointError(f"{near_miss(names)}, {place}", expected, "see what it is with `controlnet-core inspect`")


def near_miss(keys: Iterable[str]) -> str:
    """What an unknown file comes nearest to, and the keys it lacks for that."""
    names = tuple(keys)
    lacking = {
        kind: [pattern for pattern in kind.has_all if not _any(pattern, names)]
        for kind in KINDS
        if kind.name is not None
    }
    nearest = min(lacking, key=lambda kind: len(lacking[kind]) / len(kind.has_all))
    if len(lacking[nearest]) == len(nearest.has_all):
        return f"tensors of no known kind ({', '.join(names[:3]) or 'none at all'})"
    gone = lacking[nearest] or list(nearest.has_any)
    return f"what looks like {nearest.words}, but without {', '.join(pattern.lstrip('*') for pattern in gone)}"


def _fit(kind: Kind, keys: tuple[str, ...]) -> str | None:
    """The prefix of a kind's keys, or None if they are not that kind's."""
    if not all(_any(pattern, keys) for pattern in kind.has_all):
        return None
    if not any(_any(pattern, keys) for pattern in kind.has_any):
        return None
    if not kind.has_all or not kind.has_all[0].startswith("*"):
        return ""
    tail = kind.has_all[0][1:]
    return min((key[: -len(tail)] for key in keys if key.endswith(tail)), key=len, default="")


def _any(pattern: str, keys: tuple[str, ...]) -> bool:
    return any(fnmatchcase(key, pattern) for key in keys)
