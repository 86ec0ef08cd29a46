"""ComfyUI itself, in this process: `COMFYUI_PATH` names its checkout, and its own interpreter runs these tests."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMFYUI = Path(os.environ.get("COMFYUI_PATH", ""))
if not (COMFYUI / "comfy").is_dir():
    raise pytest.UsageError("COMFYUI_PATH must name a checkout of ComfyUI; `make test-host` says how")

# ComfyUI's own `nodes` must be found before this repository's folder of that name.
sys.path[:] = [str(COMFYUI), *(place for place in sys.path if Path(place or ".").resolve() != ROOT), str(ROOT)]
sys.argv[1:] = ["--cpu"]
os.environ["TQDM_DISABLE"] = "1"
# A shell starts background jobs with Ctrl-C ignored, and the commands that tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

import comfy.options  # noqa: E402 - the path comes first

comfy.options.enable_args_parsing()

from tests.host.host import Host  # noqa: E402
from tests.host.models import Models, write_models  # noqa: E402


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """Reduced models of each family, in files that ComfyUI's loaders list."""
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory, models: Models) -> Host:
    """ComfyUI with this extension."""
    return Host(tmp_path_factory.mktemp("host"), models.folder)
