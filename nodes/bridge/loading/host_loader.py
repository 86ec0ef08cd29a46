"""ComfyUI's own loader of ControlNets; what it gives is checked before it is handed on."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import comfy.cldm.cldm
import comfy.controlnet
import torch

from ....controlnet_core.errors import CheckpointError
from ....controlnet_core.weights.layouts.kinds import matches_any
from ....controlnet_core.weights.layouts.ldm_base import BESIDE_A_CONTROLNET
from ....controlnet_core.weights.quantised import dequantised
from ....controlnet_core.weights.source import WeightSource
from ..host.types import HostControlNet

DIFFUSERS_SIGN = "controlnet_cond_embedding.conv_in.weight"
"""From weights that hold this, ComfyUI's loader takes out what it uses."""
NAMED = 3
"""How many keys an error names."""
LISTENING = threading.Lock()
"""Two loads at once would each put back what the other has put in place."""


def load_by_host(source: WeightSource, reason: CheckpointError, pooled: bool) -> tuple[HostControlNet, str]:
    """Let ComfyUI's own loader read what the core does not.

    Arguments:
        source: The weights.
        reason: Why the core does not read them; raised if ComfyUI's loader does not either.
        pooled: Whether residuals are averaged over the picture.

    Returns:
        The net, and what its loader left without a value, as a phrase; usually empty.

    Raises:
        CheckpointError: If the loader knows no such net, or takes it for a plain ControlNet that it is not.
    """
    with dequantised(source).tensors() as tensors:
        weights = dict(tensors)
    takes_out = DIFFUSERS_SIGN in weights
    with _key_reports() as reports:
        try:
            options = {"global_average_pooling": pooled}
            control_net = comfy.controlnet.load_controlnet_state_dict(weights, model_options=options)
        except Exception as error:  # what it raises for a file it does not know depends on the file
            raise reason from error
    if control_net is None:
        raise reason
    missing = [key for report in reports for key in report.missing_keys]
    lacking = _counted("no value for {} of the net's weights", missing)
    if not isinstance(getattr(control_net, "control_model", None), comfy.cldm.cldm.ControlNet):
        return control_net, lacking  # the loaders of other models rename weights, so nobody knows which were used
    unused = [*(key for report in reports for key in report.unexpected_keys), *(weights if takes_out else ())]
    unused = [key for key in unused if not any(matches_any(pattern, (key,)) for pattern in BESIDE_A_CONTROLNET)]
    faults = [fault for fault in (_counted("no place for {} of the file's weights", unused), lacking) if fault]
    if not faults:
        return control_net, ""
    raise CheckpointError(
        found=f"{reason.found}: ComfyUI's own loader has {' and '.join(faults)}",
        expected="a file that ComfyUI's loader reads whole",
        do=reason.do,
    )


def _counted(words: str, keys: list[str]) -> str:
    """How many keys there are, and the first few of them; empty if there are none."""
    more = ", ..." if len(keys) > NAMED else ""
    return f"{words.format(len(keys))} ({', '.join(keys[:NAMED])}{more})" if keys else ""


@contextmanager
def _key_reports() -> Iterator[list[Any]]:
    """What the modules that this thread loads report about keys, which ComfyUI's loader drops or only logs."""
    thread = threading.get_ident()
    reports: list[Any] = []

    def reporting(module: torch.nn.Module, *arguments: Any, **named: Any) -> Any:  # noqa: ANN401 - torch's
        report = original(module, *arguments, **named)
        if threading.get_ident() == thread:
            reports.append(report)
        return report

    with LISTENING:
        original = torch.nn.Module.load_state_dict
        torch.nn.Module.load_state_dict = reporting  # type: ignore[method-assign, assignment]
        try:
            yield reports
        finally:
            torch.nn.Module.load_state_dict = original  # type: ignore[method-assign]
