"""Names for ComfyUI's objects, which it does not type."""

from __future__ import annotations

from typing import Any

HostControlNet = Any
"""What goes through a CONTROL_NET socket: a `comfy.controlnet.ControlBase`."""
HostModel = Any
"""A `comfy.model_base.BaseModel`, or the `ModelPatcher` around it."""
HostClip = Any
HostVae = Any
Conditioning = list[list[Any]]
"""Pairs of a text embedding and a dict of options."""
HostStack = Any
"""What another extension sends as CONTROL_NET_STACK."""
