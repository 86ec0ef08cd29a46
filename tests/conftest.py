"""Starts ComfyUI in this process where `make test-host` asks for it; all other tests know nothing of it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

if os.environ.get("CONTROLNET_CORE_TEST_HOST"):
    sys.path.append(str(Path(__file__).resolve().parents[1]))
    from tests.host.start import host, models

    __all__ = ["host", "models"]
