"""ControlNet Core as a ComfyUI extension. The nodes are imported when ComfyUI asks for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from comfy_api.latest import ComfyExtension

WEB_DIRECTORY = "./js"


async def comfy_entrypoint() -> ComfyExtension:
    """Give ComfyUI the extension."""
    from .nodes import extension

    return extension()
