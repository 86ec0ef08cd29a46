"""The nodes of ControlNet Core: each is a form around one call into `bridge` or `controlnet_core`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .bridge.host.version import check_host

if TYPE_CHECKING:
    from comfy_api.latest import ComfyExtension


def extension() -> ComfyExtension:
    """The extension that ComfyUI loads.

    Raises:
        RuntimeError: If this ComfyUI is too old.
    """
    check_host()
    from .extension import ControlNetCoreExtension

    return ControlNetCoreExtension()
