"""Puts nets into conditionings, as ComfyUI's own Apply node does, and configures them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ....controlnet_core.control.application import Application
from ..host.types import Conditioning, HostControlNet, HostVae
from ..loading.families import check_conditioning
from .foreign_net import WeightedControl
from .residual_hook import CoreControlNet
from .stack_entries import StackEntry, check_net, hint_pixels, read_stack

OURS = (CoreControlNet, WeightedControl)


def configured(net: HostControlNet, application: Application, node_id: str | None) -> HostControlNet:
    """A copy of a CONTROL_NET with the curve and side of an application; a native net that needs neither is returned.

    Arguments:
        net: The net, from any loader.
        application: How it will be applied; strength and window are set when it is.
        node_id: The node to show warnings on.

    Raises:
        SettingError: If it is no net, or there are custom weights for another number of blocks than the net has.
    """
    check_net(net)
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
        HintError: If a hint has fewer channels than its net reads.
        SettingError: If an entry is no net with its hints, a strength is not finite or a window is impossible.
    """
    for net, hints, strength, start, end in read_stack(stack):
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
    pixels = hint_pixels(net, hints)

    def controlled(embedding: Tensor, options: dict[str, Any]) -> list[Any]:
        check_conditioning(net, embedding, options)
        previous = options.get("control")
        if previous not in copies:
            copied = net.copy().set_cond_hint(pixels, strength, window, vae=vae)
            copies[previous] = copied.set_previous_controlnet(previous)
        return [embedding, {**options, "control": copies[previous], "control_apply_to_uncond": False}]

    return [[controlled(*entry) for entry in conditioning] for conditioning in conditionings]
