"""Puts nets into conditionings, as ComfyUI's own Apply node does, and configures them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ....controlnet_core.control.curves import (
    Sides,
    Weights,
    block_weights,
    check_application,
    check_weights,
    default_sides,
)
from ....controlnet_core.errors import SettingError
from ..host.types import Conditioning, HostControlNet, HostStack, HostVae
from ..loading.families import check_conditioning
from .core_net import CoreControlNet
from .foreign_net import WeightedControl

OURS = (CoreControlNet, WeightedControl)
StackEntry = tuple[HostControlNet, Tensor, float, float, float]
"""A CONTROL_NET, its hints, strength, start and end: what extensions exchange as CONTROL_NET_STACK."""


def configured(net: HostControlNet, weights: Weights, sides: Sides | None, node_id: str | None) -> HostControlNet:
    """A copy of a CONTROL_NET that acts by a curve and on the sides given; a native one stays as it is where it can.

    Arguments:
        net: The net, from any loader.
        weights: The curve of block weights, or the weights.
        sides: The sides of guidance it acts on; None is the curve's own.
        node_id: The node to show warnings on.

    Raises:
        SettingError: If the weights are no curve and no numbers, or not as many as the net has blocks.
    """
    weights = check_weights(weights)
    if isinstance(net, CoreControlNet):
        copied = net.copy()
        config = net.net.config
        block_weights(weights, config.skip_levels, config.middle_level, latent_height=1)
        copied.weights, copied.sides, copied.node_id = weights, sides, node_id
        return copied
    if weights == "flat" and (sides or "both") == "both":
        return net
    return WeightedControl(net.copy(), weights, sides or default_sides(weights), node_id)


def apply_stack(
    conditionings: Sequence[Conditioning], stack: Sequence[StackEntry], vae: HostVae, node_id: str | None
) -> list[Conditioning]:
    """Put nets behind those that the conditionings have already; nothing that was given is changed.

    A net applied to several conditionings is one object in all of them, so that ComfyUI runs them in one batch.

    Arguments:
        conditionings: Positive and negative, or what there is of them.
        stack: The nets in their order; one of strength 0 is left out.
        vae: For nets that read latents, or None.
        node_id: The node to show warnings on, of nets that are not ours.

    Raises:
        FamilyMismatchError: If a net does not fit a conditioning.
        SettingError: If a strength is not finite or a window is impossible.
    """
    for net, hints, strength, start, end in stack:
        check_application(strength, start, end)
        if strength:
            watched = net if isinstance(net, OURS) else WeightedControl(net.copy(), "flat", "both", node_id)
            conditionings = _applied(conditionings, watched, hints, strength, (start, end), vae)
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
