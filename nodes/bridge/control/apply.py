"""Puts nets into conditionings, as ComfyUI's own Apply node does, and configures them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ....controlnet_core.control.application import Application
from ....controlnet_core.control.step import GuidanceSide
from ....controlnet_core.hint_statistics import hint_notes
from ..host.messages import warn
from ..host.types import Conditioning, HostControlNet, HostVae
from ..loading.families import check_conditioning
from .foreign_net import WeightedControl, Weighting, weighted
from .residual_hook import CoreControlNet
from .sides import Applied, marked
from .stack_entries import StackEntry, check_net, hint_pixels, read_stack

OURS = (CoreControlNet, WeightedControl)


def configured(net: HostControlNet, application: Application, node_id: str | None) -> HostControlNet:
    """A copy of a CONTROL_NET with the curve and side of an application; a native net given neither is returned.

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
    if application.curve == "flat" and application.side is None:
        return net
    return weighted(net.copy(), Weighting(application, node_id))


def apply_stack(
    conditionings: Mapping[GuidanceSide, Conditioning], stack: Sequence[StackEntry], vae: HostVae, node_id: str | None
) -> dict[GuidanceSide, Conditioning]:
    """Add nets after those that the conditionings already have; no argument is changed.

    A net applied to several conditionings is one object in all of them, so that ComfyUI runs them in one batch.

    Arguments:
        conditionings: Positive (conditional) and negative (unconditional), or one of them.
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
            warn_of_hints(net, hints, node_id)
            ours = net if isinstance(net, OURS) else weighted(net.copy(), Weighting(application, node_id))
            conditionings = _applied(conditionings, ours, hints, strength, (start, end), vae)
    return dict(conditionings)


def warn_of_hints(net: HostControlNet, hints: Tensor, node_id: str | None) -> None:
    """Warn of hints (B, H, W, C) that show nothing, or of another kind than the net's, where that is known."""
    ours = isinstance(net, CoreControlNet)
    name = net.name if ours else "ControlNet"
    for note in hint_notes(hints.movedim(-1, 1), net.net.hint_statistics if ours else None):
        warn(f"{name}: {note}", node_id)


def _applied(
    conditionings: Mapping[GuidanceSide, Conditioning],
    net: HostControlNet,
    hints: Tensor,
    strength: float,
    window: tuple[float, float],
    vae: HostVae,
) -> dict[GuidanceSide, Conditioning]:
    """Apply one net. Where it acts on one side only, each conditioning is marked with its side."""
    copies: dict[Any, Any] = {}
    applied, pixels = Applied(tuple(conditionings)), hint_pixels(net, hints)

    def copied(previous: HostControlNet | None) -> HostControlNet:
        if previous not in copies:
            copy = net.copy().set_cond_hint(pixels, strength, window, vae=vae)
            copy.applied = applied
            copies[previous] = copy.set_previous_controlnet(previous)
        return copies[previous]

    def controlled(embedding: Tensor, options: dict[str, Any], side: GuidanceSide) -> list[Any]:
        check_conditioning(net, embedding, options)
        control = copied(options.get("control"))
        changed = {**options, "control": control, "control_apply_to_uncond": False}
        if control.application.acting_side != "both":
            changed["model_conds"] = marked(options, applied, side)
        return [embedding, changed]

    return {
        side: [controlled(embedding, options, side) for embedding, options in conditioning]
        for side, conditioning in conditionings.items()
    }
