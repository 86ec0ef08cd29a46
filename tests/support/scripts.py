"""The scripts of `benchmarks/` and `tools/`, which are no packages, as modules."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType


def benchmark(name: str) -> ModuleType:
    """Import `benchmarks/<name>.py`."""
    return _script("benchmarks", name)


def tool(name: str) -> ModuleType:
    """Import `tools/<name>.py`."""
    return _script("tools", name)


def _script(folder: str, name: str) -> ModuleType:
    path = Path(__file__).resolve().parents[2] / folder / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"{name}_of_{folder}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look up the annotations of their module
    spec.loader.exec_module(module)
    return module
