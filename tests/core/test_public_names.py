"""The package's public names: each is there, and asking for help imports no torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import controlnet_core


def test_every_public_name_is_there_and_known_to_type_checkers() -> None:
    tree = ast.parse(Path(controlnet_core.__file__).read_text(encoding="utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    typed = {alias.name: node.module for node in imports for alias in node.names}
    for name, home in controlnet_core.HOMES.items():
        assert typed[name] == home
        assert getattr(controlnet_core, name) is not None
    assert set(controlnet_core.__all__) == set(controlnet_core.HOMES)
    assert not hasattr(controlnet_core, "Nonsense")


def test_importing_the_package_imports_no_torch() -> None:
    program = "import sys, controlnet_core; print('torch' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert shown.stdout == "False\n"
