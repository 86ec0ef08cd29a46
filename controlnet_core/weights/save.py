"""Saves a ControlNet in any layout that can be written, and a base in the LDM layout."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..config import Family
from ..errors import CheckpointError
from ..model.controlnet import ControlNet
from ..model.hint import HintEncoderKind
from .facts import as_metadata, base_facts, unet_facts
from .layouts import ldm_base, registry
from .layouts.kinds import ControlNetConfig, ControlNetLayout
from .safetensors_file import write_tensor_file

State = Mapping[str, Tensor]


def save_controlnet(
    net: ControlNet,
    path: str | os.PathLike[str],
    layout: str = "ldm",
    dtype: torch.dtype | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Save a ControlNet to a safetensors file.

    Arguments:
        net: The net to save.
        path: Where to; a file there is replaced once the new one is whole.
        layout: "ldm", which ComfyUI and most programs read, or "diffusers".
        dtype: The file's dtype; None keeps the net's.
        metadata: More metadata to store in the file, as texts by name.

    Raises:
        CheckpointError: If it cannot be written, or no net with such a hint encoder is saved in that layout.
    """
    keymap = _saving_layout(layout, net.hint_encoder_kind).keymap(
        ControlNetConfig(net.config, net.hint_channels, net.hint_encoder_kind)
    )
    facts = {**unet_facts(net.config), "hint_encoder": net.hint_encoder_kind}
    facts |= {"pooled": True} if net.pooled else {}
    tensors = _cast(keymap.to_theirs(net.state_dict()), dtype)
    write_tensor_file(path, tensors, {**as_metadata(facts), **(metadata or {})})


def _saving_layout(name: str, hint_encoder: HintEncoderKind) -> ControlNetLayout:
    """The layout of that name, if a net with that hint encoder can be saved in it."""
    layouts = [kind for kind in registry.KINDS if isinstance(kind, ControlNetLayout) and kind.saves]
    named = next((layout for layout in layouts if layout.name == name), None)
    if named is None:
        names = " or ".join(repr(layout.name) for layout in layouts)
        raise CheckpointError(f"the layout {name!r}", names, "save the net in one of these")
    if hint_encoder in named.saves:
        return named
    known = " or ".join(map(repr, named.saves))
    others = " or ".join(layout.description for layout in layouts if hint_encoder in layout.saves)
    raise CheckpointError(
        found=f"a net with the hint encoder {hint_encoder!r}",
        expected=f"the hint encoder {known} for {named.description}, which knows no other",
        do=f"save it as {others}, which this package can read again",
    )


def save_base(
    path: str | os.PathLike[str],
    family: Family,
    *,
    unet: State,
    autoencoder: State,
    text_encoders: Sequence[State],
    dtype: torch.dtype | None = torch.float16,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Save a whole base to one safetensors file in the LDM layout.

    Arguments:
        path: Where to; a file there is replaced once the new one is whole.
        family: All its sizes and what it predicts; what shapes cannot say is stored in the metadata.
        unet: The UNet's state dict.
        autoencoder: The autoencoder's state dict.
        text_encoders: Their state dicts, in the family's order.
        dtype: The file's dtype; None keeps that of the tensors.
        metadata: More metadata to store in the file, as texts by name.

    Raises:
        CheckpointError: If a state dict does not fit its config, or the file cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    for keymap, state in zip(ldm_base.keymaps(family), (unet, autoencoder, *text_encoders), strict=True):
        tensors.update(keymap.to_theirs(state))
    write_tensor_file(path, _cast(tensors, dtype), {**as_metadata(base_facts(family)), **(metadata or {})})


def _cast(tensors: State, dtype: torch.dtype | None) -> dict[str, Tensor]:
    return {key: tensor.to(dtype or tensor.dtype) for key, tensor in tensors.items()}
