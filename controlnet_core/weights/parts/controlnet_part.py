"""Finds the ControlNet in a source of weights, alone or in the checkpoint that its training wrote."""

from __future__ import annotations

from ..detect import locate, refusal
from ..facts import stored_facts
from ..layouts.kinds import ControlNetConfig, ControlNetLayout
from ..layouts.ldm_base import BESIDE_A_CONTROLNET, CONTROLNET_PREFIX
from ..pooling import is_pooled
from ..quantised import dequantised
from ..source import WeightSource
from .part import Part, read_part


def controlnet_part(source: WeightSource) -> Part[ControlNetConfig]:
    """Find the ControlNet and read its sizes; its tensors are not compared with the key map yet.

    Raises:
        CheckpointError: If there is none, or its sizes cannot be read.
    """
    found = find_controlnet(source)
    if found is None:
        raise refusal(source.shapes, "a ControlNet of Stable Diffusion 1.5, 2.1 or SDXL", source.place)
    return found


def find_controlnet(source: WeightSource) -> Part[ControlNetConfig] | None:
    """The same, but None if there is no ControlNet; the header of a file tells it in milliseconds."""
    detected = locate(source.shapes, ControlNetLayout)
    if detected is None:
        return None
    source = dequantised(source)
    outer = detected.prefix.removesuffix(CONTROLNET_PREFIX)
    beside = tuple(outer + pattern for pattern in BESIDE_A_CONTROLNET)
    facts = {"pooled": is_pooled(source.place), **stored_facts(source)}
    return read_part(source, detected.kind, facts, detected.prefix, beside)
