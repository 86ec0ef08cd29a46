"""Kinds of files that are known by name and cannot be read, in groups that the registry puts in their places."""

from __future__ import annotations

from .kinds import ForeignKind

DIFFERENCE = ForeignKind(
    "a difference ControlNet, which holds only what to add to a base",
    ("*difference",),
    ("*zero_convs.*", "*input_hint_block.*"),
    do="in ComfyUI connect the model that it was made for to Load ControlNet; here use the full ControlNet",
)
ADDING_TO_A_CONTROLNET = (
    ForeignKind("a Control-LoRA", ("lora_controlnet",), do="it needs its base at run time; use the full ControlNet"),
    ForeignKind("a union ControlNet", ("*task_embedding",), do="use the ControlNet made for the one kind of hint"),
    ForeignKind("a SparseCtrl net for AnimateDiff", ("*motion_modules.*",), ("*controlnet_cond_embedding.*",)),
    ForeignKind("a ControlNet for Stable Video Diffusion", ("*temporal_res_block.*", "*controlnet_cond_embedding.*")),
    ForeignKind("a ControlNet-XS", has_any=("*control_to_base*", "*base_to_control*", "*ctrl_to_base*")),
    ForeignKind("a BrushNet", ("*brushnet_down_blocks.*",)),
    DIFFERENCE,
    ForeignKind("a ControlNet with LoRA layers (CtrLoRA)", ("*lora_layer.*",)),
    ForeignKind("a ControlNet-LLLite", has_any=("lllite_*",)),
    ForeignKind("an IP-Adapter", has_any=("ip_adapter.*", "*to_k_ip.weight", "image_proj.*", "*to_k_ip_lora.*")),
    ForeignKind(
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
        do="it changes a base and cannot control by itself; load it with a LoRA loader and give a ControlNet here",
    ),
)
OTHER_CONTROLNETS = (
    ForeignKind("a ControlNet for Stable Diffusion 3", ("*pos_embed_input.*", "*controlnet_blocks.*")),
    ForeignKind("a ControlNet for Flux", ("*controlnet_x_embedder.weight",)),
    ForeignKind("a ControlNet for Flux", ("*controlnet_blocks.*", "*double_blocks.*")),
    ForeignKind("a ControlNet for Qwen Image", ("*controlnet_blocks.*", "*img_mlp.*")),
    ForeignKind("a ControlNet for a diffusion transformer", ("*controlnet_blocks.*",)),
    ForeignKind("a ControlNet for HunyuanDiT", ("*after_proj_list.*",)),
    ForeignKind(
        "a T2I-Adapter",
        has_any=(
            "*body.0.block1.weight",
            "*body.0.in_conv.weight",
            "*body.0.resnets.0.block1.weight",
            "style_embedding",
        ),
        do="it is no ControlNet; use one, or a loader for T2I-Adapters",
    ),
)
OTHER_CHECKPOINTS = (
    ForeignKind("a checkpoint of another architecture than Stable Diffusion's UNet", ("*model.diffusion_model.*",)),
)
IMAGE_ENCODERS = (ForeignKind("a CLIP image encoder", ("*vision_model.*",)),)
OTHERS = (
    ForeignKind("a T5 or other text encoder", has_any=("*encoder.block.0.layer.0.SelfAttention.*", "model.layers.*")),
    ForeignKind("a textual inversion embedding", has_any=("emb_params", "clip_l", "clip_g", "<*>", "string_to_param*")),
    ForeignKind(
        "an upscaler",
        has_any=("*RDB1.conv1.weight", "*rdb1.conv1.weight", "params_ema*", "*residual_group.*", "*upsampler.0.weight"),
    ),
    ForeignKind("a small autoencoder (TAESD)", has_any=("*encoder.1.conv.0.weight", "taesd_*")),
    ForeignKind(
        "a diffusion transformer",
        has_any=(
            *("*double_blocks.0.*", "*joint_blocks.0.*"),
            *("transformer_blocks.0.*", "transformer.transformer_blocks.0.*"),
        ),
    ),
)
