"""Puts nets into conditionings, as ComfyUI's own Apply node does, and configures them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ....controlnet_core.control.application import Application
from ....controlnet_core.errors import SettingError
from ..host.types import Conditioning, HostControlNet, HostStack, HostVae
from ..loading.families import check_conditioning
from .foreign_net import WeightedControl
from .residual_hook import CoreControlNet

OURS = (CoreControlNet, WeightedControl)
StackEntry = tuple[HostControlNet, Tensor, float, float, float]
"""A CONTROL_NET, its hints, strength, start and end: what extensions exchange as CONTROL_NET_STACK."""


def configured(net: HostControlNet, application: Application, node_id: str | None) -> HostControlNet:
    """A copy of a CONTROL_NET with the curve and side of an application; a native net that needs neither is returned.

    Arguments:
        net: The net, from any loader.
        application: How it will be applied; strength and window are set when it is.
        node_id: The node to show warnings on.

    Raises:
        SettingError: If there are custom weights for another number of blocks than the net has.
    """
    if isinstance(net, CoreControlNet):
        copied = net.copy()
        application.block_factors(net.net.block_levels, latent_height=1)
        copied.curve, copied.side, copied.node_id = application.curve, application.side, node_id
        return copied
    if application.curve == "flat" and application.acting_side == "both":
        return net
    return WeightedControl(net.copy(), application, node_id)


def apply_stack(
    conditionings: Sequence[Conditioning], stack: Sequence[StackEntry], vae: HostVae, node_id: str | None
) -> list[Conditioning]:
    """Add nets after those that the conditionings already have; no argument is changed.

    A net applied to several conditionings is one object in all of them, so that ComfyUI runs them in one batch.

    Arguments:
        conditionings: Positive and negative, or one of them.
        stack: The nets in their order; one of strength 0 is left out.
        vae: For nets that read latents, or None.
        node_id: The node to show warnings on, of nets that are not ours.

    Raises:
        FamilyMismatchError: If a net does not fit a conditioning.
        SettingError: If a strength is not finite or a window is impossible.
    """
    for net, hints, strength, start, end in stack:
        application = Application(strength, start, end)
        if strength:
            wrapped = net if isinstance(net, OURS) else WeightedControl(net.copy(), application, node_id)
            conditionings = _applied(conditionings, wrapped, hints, strength, (start, end), vae)
    return list(conditionings)


def _applied(
    conditionings: Sequence[Conditioning],
    net: HostControlNet,
    hints: Tensor,
    strength: float,
    window: tuple[float, float],
    vae: HostVae,
) -> list[Conditioning]:
    """Apply one net."""
    copies: dict[Any, Any] = {}
    pixels = hints.movedim(-1, 1)

    def controlled(embedding: Tensor, options: dict[str, Any]) -> list[Any]:
        check_conditioning(net, embedding, options)
        previous = options.get("control")
        if previous not in copies:
            copied = net.copy().set_cond_hint(pixels, strength, window, vae=vae)
            copies[previous] = copied.set_previous_controlnet(previous)
        return [embedding, {**options, "control": copies[previous], "control_apply_to_uncond": False}]

    return [[controlled(*entry) for entry in conditioning] for conditioning in conditionings]


def read_stack(stack: HostStack) -> list[StackEntry]:
    """Read a CONTROL_NET_STACK of any extension; one that is not connected is empty.

    Raises:
        SettingError: If an entry is not (CONTROL_NET, IMAGE, strength, start, end), the last two optional.
    """
    entries: list[StackEntry] = []
    for number, entry in enumerate(stack or (), start=1):
        if not isinstance(entry, Sequence) or len(entry) not in (3, 5) or not isinstance(entry[1], Tensor):
            kinds = [type(part).__name__ for part in entry] if isinstance(entry, Sequence) else type(entry).__name__
            raise SettingError(
                found=f"entry {number} of the stack with {kinds}",
                expected="(CONTROL_NET, IMAGE, strength, start, end)",
                do="connect a CONTROL_NET_STACK of a node that makes such entries",
            )
        net, hints, strength, start, end = (*entry, 0.0, 1.0)[:5]
        entries.append((net, hints, float(strength), float(start), float(end)))
    return entries
