"""What is installed into ComfyUI's environment with the nodes: nothing that ComfyUI brings along, torch above all."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMFYUI = """
comfyui-frontend-package comfyui-workflow-templates comfyui-embedded-docs torch torchsde torchvision torchaudio
numpy einops transformers tokenizers sentencepiece safetensors aiohttp yarl pyyaml pillow scipy tqdm psutil alembic
sqlalchemy filelock av comfy-kitchen comfy-aimdo requests simpleeval blake3 kornia spandrel pydantic pydantic-settings
pyopengl comfy-angle
"""
"""All that the requirements.txt of ComfyUI 0.33.0 names, the oldest version that `requires-comfyui` allows."""


def names(requirements: list[str]) -> set[str]:
    """The normalised names of the distributions required."""
    found = (re.match(r"[A-Za-z0-9._-]+", line.strip()) for line in requirements)
    return {re.sub(r"[-_.]+", "-", one[0]).lower() for one in found if one}


def faults(dependencies: list[str], requirements: list[str]) -> list[str]:
    """What is wrong with the lines of requirements.txt for a package with these dependencies."""
    needed, listed, brought = names(dependencies), names(requirements), names(COMFYUI.split())
    missing = [f"{name} is neither brought along by ComfyUI nor listed" for name in sorted(needed - brought - listed)]
    return missing + [f"{name} belongs to ComfyUI" for name in sorted(listed & brought)]


def test_only_what_comfyui_lacks_is_installed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["tool"]["comfy"]["requires-comfyui"] == ">=0.33.0"
    # ComfyUI-Manager reads the file in the encoding of the system that it runs on.
    lines = (ROOT / "requirements.txt").read_text(encoding="ascii").splitlines()
    assert faults(project["project"]["dependencies"], lines) == []
    assert faults(project["project"]["optional-dependencies"]["hints"], lines) == []


@pytest.mark.parametrize(
    ("dependencies", "requirements", "expected"),
    [
        (["torch>=2.4", "Py_YAML"], [], ["py-yaml is neither brought along by ComfyUI nor listed"]),
        (["torch>=2.4"], ["# torch", "", "Torch >= 2.4  # why not"], ["torch belongs to ComfyUI"]),
        (["bitsandbytes>=1"], ["bitsandbytes"], []),
    ],
)
def test_a_planted_fault_is_found(dependencies: list[str], requirements: list[str], expected: list[str]) -> None:
    assert faults(dependencies, requirements) == expected
