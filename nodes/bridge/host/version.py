"""Which ComfyUI this is."""

from __future__ import annotations

import re

OLDEST = (0, 33, 0)


def check_host() -> None:
    """Check that ComfyUI is new enough for the nodes.

    Raises:
        RuntimeError: If it is older, in one sentence that ComfyUI logs.
    """
    try:
        from comfyui_version import __version__ as version
    except ImportError:
        version = "of unknown version"
    numbers = tuple(map(int, re.findall(r"\d+", version)[:3]))
    if numbers < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise RuntimeError(f"ControlNet Core needs ComfyUI {oldest} or newer and this is {version}: update ComfyUI.")
