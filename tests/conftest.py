"""Fixtures for all tests; ComfyUI starts in this process where `make test-host` asks for it, and nowhere else."""

from __future__ import annotations

import os
import sys
from pathlib import Path

# Last, since ComfyUI has a module `nodes`, too. The folders `tools` and `benchmarks` are found here.
sys.path.append(str(Path(__file__).resolve().parents[1]))
if os.environ.get("CONTROLNET_CORE_TEST_HOST"):
    from tests.host.start import host as host
    from tests.host.start import models as models

from tests.support.extension import extension as extension
