"""Which net fits which model, by the width of the text embedding and by the model's own sizes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ....controlnet_core.config import FAMILIES
from ....controlnet_core.control.controller import Controller
from ....controlnet_core.errors import CheckpointError, FamilyMismatchError
from ....controlnet_core.weights.parts.controlnet_part import find_controlnet
from ....controlnet_core.weights.safetensors_file import open_tensor_file
from ..host.folders import controlnet_names, controlnet_path
from ..host.types import HostControlNet, HostModel

WIDTHS = {family.unet.context_dim: name for name, family in FAMILIES.items()}
LISTED = 5
"""How many fitting nets an error names."""


def context_width(net: HostControlNet) -> int | None:
    """The width of the text embedding that a CONTROL_NET reads, ours or ComfyUI's; None if it does not say."""
    model = getattr(net, "control_model", None)
    joints = getattr(model, "joints", None)
    if isinstance(joints, Mapping):
        return int(joints["context_dim"])
    modules = () if model is None or not hasattr(model, "named_modules") else model.named_modules()
    return next((module.in_features for name, module in modules if name.endswith("attn2.to_k")), None)


def check_conditioning(net: HostControlNet, embedding: Tensor, options: Mapping[str, Any]) -> None:
    """Check that the net can read the text embedding of a conditioning.

    Raises:
        FamilyMismatchError: If it has another width.
    """
    width = context_width(net)
    given = options.get("crossattn_controlnet", embedding)
    if width is None or given is None or given.shape[-1] == width:
        return
    name = getattr(net, "name", "this ControlNet")
    raise FamilyMismatchError(
        found=f"{name}, a net {_for_width(width)}",
        expected=f"a net {_for_width(given.shape[-1])}, which the prompt was encoded for",
        do=_advice(given.shape[-1]),
    )


def check_model(net: Controller, name: str, model: HostModel) -> None:
    """Check that ComfyUI's model has the sizes that a net's residuals are for.

    Raises:
        FamilyMismatchError: If it does not.
    """
    sizes = model.model_config.unet_config
    joints = dict(net.joints)
    fits_vector = joints.pop("vector_dim") in (None, sizes.get("adm_in_channels"))  # a net without one needs none
    # A UNet whose input was widened, for inpainting or a light, has the latents that the net reads in front.
    fits_latents = joints.pop("in_channels") in range(1 + (sizes.get("in_channels") or 0))
    if fits_vector and fits_latents and joints == _host_joints(sizes):
        return
    width = sizes.get("context_dim")
    raise FamilyMismatchError(
        found=f"{name}, a net for {net.family}",
        expected=f"one for the model, {_model_name(model)}",
        do=_advice(width),
    )


def _host_joints(sizes: Mapping[str, Any]) -> dict[str, object]:
    """The same sizes of ComfyUI's UNet."""
    blocks = sizes.get("num_res_blocks") or [None]
    each = {blocks} if isinstance(blocks, int) else set(blocks)
    return {
        "model_channels": sizes.get("model_channels"),
        "channel_mult": tuple(sizes.get("channel_mult") or ()),
        "num_res_blocks": each.pop() if len(each) == 1 else None,
        "context_dim": sizes.get("context_dim"),
    }


def _model_name(model: HostModel) -> str:
    """ComfyUI's name of a model's kind."""
    sizes = model.model_config.unet_config
    known = WIDTHS.get(sizes.get("context_dim"))
    kind = type(model.model_config).__name__
    return f"{known} ({kind})" if known and "channel_mult" in sizes else kind


def _for_width(width: int) -> str:
    """A phrase for the family with this width of the text embedding."""
    return f"for {WIDTHS.get(width, 'another model')} (text width {width})"


def _advice(width: int | None) -> str:
    """Which of the installed nets fit."""
    fitting = [] if width is None else fitting_nets(width)
    if not fitting:
        return "load a net of the model's family; no installed net is known to be one"
    more = f" or {len(fitting) - LISTED} more" if len(fitting) > LISTED else ""
    return f"load one that fits, such as {', '.join(fitting[:LISTED])}{more}"


def fitting_nets(width: int) -> list[str]:
    """The installed nets that read a text embedding of this width, according to their headers."""

    def fits(name: str) -> bool:
        try:
            found = find_controlnet(open_tensor_file(controlnet_path(name)))
        except CheckpointError:
            return False  # not a net that the core reads, so it is not suggested
        return found is not None and found.config.unet.context_dim == width

    return [name for name in controlnet_names() if name.endswith((".safetensors", ".sft")) and fits(name)]
