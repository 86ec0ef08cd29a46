"""Fixtures for all tests; ComfyUI starts in this process where `make test-host` asks for it, and nowhere else."""

from __future__ import annotations

import os
import sys
from pathlib import Path

if os.environ.get("CONTROLNET_CORE_TEST_HOST"):
    sys.path.append(str(Path(__file__).resolve().parents[1]))
    from tests.host.start import host as host
    from tests.host.start import models as models

from tests.support.extension import extension as extension
