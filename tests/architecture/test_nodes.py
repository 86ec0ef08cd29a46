"""Where the ComfyUI extension may reach: the bridge alone touches ComfyUI's own modules, and all else is relative."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NODE_API = "comfy_api.latest"
HOST = {"comfy", "comfy_execution", "comfy_extras", "comfyui_version", "execution", "folder_paths", "nodes", "server"}


def imported(path: Path) -> list[tuple[str, int]]:
    """Every module that a file imports, with the level of a relative import."""
    found: list[tuple[str, int]] = []
    for statement in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(statement, ast.Import):
            found += [(alias.name, 0) for alias in statement.names]
        if isinstance(statement, ast.ImportFrom):
            found.append((statement.module or "", statement.level))
    return found


def faults(path: Path, root: Path) -> list[str]:
    """What is wrong with a file's imports."""
    place = path.relative_to(root).as_posix()
    bridge = place.startswith("nodes/bridge/")
    wrong = []
    for name, level in imported(path):
        top = name.split(".")[0]
        if level == 0 and top == "controlnet_core":
            wrong.append(f"{place}: {name} is not imported relatively")
        if level == 0 and top in HOST and not bridge:
            wrong.append(f"{place}: {name} is for nodes/bridge alone")
        if level == 0 and top == "comfy_api" and name != NODE_API:
            wrong.append(f"{place}: {name} is not {NODE_API}")
        if level == 0 and top == "nodes":
            wrong.append(f"{place}: `nodes` is ComfyUI's or ours, depending on who asks")
    return wrong


def test_only_the_bridge_touches_the_host() -> None:
    paths = [ROOT / "__init__.py", *sorted((ROOT / "nodes").rglob("*.py"))]
    assert len(paths) > 10
    found = [fault for path in paths for fault in faults(path, ROOT)]
    assert not found, "\n".join(found)


def test_the_entry_point_is_one() -> None:
    """ComfyUI ignores `comfy_entrypoint` beside NODE_CLASS_MAPPINGS, and serves scripts twice where `web` is set."""
    names = {node.id for node in ast.walk(ast.parse((ROOT / "__init__.py").read_text())) if isinstance(node, ast.Name)}
    assert "WEB_DIRECTORY" in names and "NODE_CLASS_MAPPINGS" not in names
    assert "\nweb =" not in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ("nodes/load_controlnet.py", "import comfy.utils\n"),
        ("nodes/load_controlnet.py", "def late():\n    from server import PromptServer\n"),
        ("nodes/bridge/x.py", "from controlnet_core.errors import E\n"),
        ("nodes/bridge/x.py", "import nodes\n"),
        ("nodes/load_controlnet.py", "from comfy_api.v0_0_2 import io\n"),
    ],
)
def test_a_planted_fault_is_found(tmp_path: Path, place: str, text: str) -> None:
    path = tmp_path / place
    path.parent.mkdir(parents=True)
    path.write_text(text, encoding="utf-8")
    assert len(faults(path, tmp_path)) == 1
