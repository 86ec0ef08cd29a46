"""Which module of controlnet_core may import which: arrows run one way, without cycles, and never reach ComfyUI."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "controlnet_core"

# A unit is a file or folder directly under the package. It may import itself, the units named here, and what those
# may import.
ARROWS: dict[str, tuple[str, ...]] = {
    "errors": (),
    "expect": ("errors",),
    "keyed": ("errors",),
    "whole_file": ("errors",),
    "pictures": ("expect", "whole_file"),
    "config": ("expect",),
    "schedule": ("config",),
    "prediction": ("schedule",),
    "tokenizer": ("config",),
    "hint_statistics": (),
    "model": ("config", "hint_statistics"),
    "base": ("model", "prediction", "tokenizer", "keyed"),
    "moving_average": (),
    "objective": ("base",),
    "control": ("base", "pictures"),
    "weights": ("base", "whole_file"),
    "sampling": ("control", "weights"),
    "data": ("control", "weights"),
    "evaluation": ("sampling", "data", "objective"),
    "toy": ("evaluation", "moving_average"),
    "version": (),
    "training": ("toy", "version"),
    "comfy_client": ("whole_file",),
    "cli": ("training", "comfy_client"),
    "__init__": ("training",),
    "__main__": ("cli",),
}
HOST_MODULES = {"comfy", "comfy_api", "comfy_execution", "comfy_extras", "execution", "folder_paths", "nodes", "server"}
FORBIDDEN = HOST_MODULES | {"torchvision"}


@dataclass(frozen=True)
class Import:
    """One name imported by the module `source`: `target` is the dotted name of a module, `place` is `file:line`."""

    source: str
    target: str
    place: str
    relative: bool
    type_checking: bool


def module_name(path: Path, root: Path) -> str:
    """The dotted name of the module in `path`; a package is named without `__init__`."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_type_checking(node: ast.AST) -> bool:
    """Whether `node` is `if TYPE_CHECKING:`, whose body never runs."""
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def statements(node: ast.AST, type_checking: bool = False) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    """Every import statement below `node`, and whether it stands under TYPE_CHECKING."""
    guarded = node.body if isinstance(node, ast.If) and is_type_checking(node) else []
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, type_checking or child in guarded
        else:
            yield from statements(child, type_checking or child in guarded)


def base_of(statement: ast.ImportFrom, package: str) -> str:
    """The dotted name after `from`, made absolute for a module of `package`; outside that it begins with a dot."""
    if not statement.level:
        return statement.module or ""
    parts = package.split(".")
    ancestors = parts[: max(0, len(parts) - statement.level + 1)] or [""]
    return ".".join([*ancestors, *filter(None, [statement.module])])


def imports(path: Path, root: Path, modules: set[str]) -> Iterator[Import]:
    """Every import in the file `path`; `from package import name` means the module `package.name` if there is one."""
    source = module_name(path, root)
    package = source if path.name == "__init__.py" else source.rpartition(".")[0]
    for statement, type_checking in statements(ast.parse(path.read_text(encoding="utf-8"))):
        place = f"{path.relative_to(root).as_posix()}:{statement.lineno}"
        if isinstance(statement, ast.Import):
            for alias in statement.names:
                yield Import(source, alias.name, place, False, type_checking)
            continue
        base = base_of(statement, package)
        for alias in statement.names:
            named = f"{base}.{alias.name}"
            yield Import(source, named if named in modules else base, place, statement.level > 0, type_checking)


def read_package(root: Path) -> tuple[set[str], list[Import]]:
    """The modules of the package below `root`, and every import they make."""
    paths = sorted((root / PACKAGE).rglob("*.py"))
    modules = {module_name(path, root) for path in paths}
    return modules, [found for path in paths for found in imports(path, root, modules)]


def unit(module: str) -> str:
    """The unit that `module` belongs to; that of the package itself is `__init__`."""
    return [*module.split("."), "__init__"][1]


def reach(name: str) -> set[str]:
    """The units that the unit `name` may import."""
    return {name}.union(*(reach(below) for below in ARROWS[name]))


def offence(found: Import) -> str | None:
    """What is wrong with one import, if anything is."""
    top = found.target.split(".")[0]
    if top in FORBIDDEN:
        return f"{found.target} has no place in the core"
    if found.relative and top != PACKAGE:
        return "the import leaves the package"
    if top != PACKAGE:
        return None
    if not found.relative:
        return f"{found.target} is not imported relatively"
    source, target = unit(found.source), unit(found.target)
    unknown = {source, target} - ARROWS.keys()
    if unknown:
        return f"{', '.join(sorted(unknown))} has no place in ARROWS"
    return None if target in reach(source) else f"{source} may not import {target}"


def offences(root: Path) -> list[str]:
    """Every forbidden import below `root`, as `file:line: reason`."""
    _, found = read_package(root)
    reasons = ((one.place, offence(one)) for one in found)
    return list(dict.fromkeys(f"{place}: {reason}" for place, reason in reasons if reason))


def cycle(root: Path) -> list[str]:
    """The modules of one import cycle in order, its first also last; empty where there is none.

    An import inside a function counts, as it only hides a cycle; one under TYPE_CHECKING does not.
    """
    modules, found = read_package(root)
    running = [(one.source, one.target) for one in found if not one.type_checking and one.target in modules]
    edges = {name: {target for source, target in running if source == name} for name in modules}
    finished: set[str] = set()

    def visit(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in finished:
            return []
        for target in sorted(edges[name]):
            if around := visit(target, [*path, name]):
                return around
        finished.add(name)
        return []

    return next((around for name in sorted(modules) if (around := visit(name, []))), [])


def unlisted_packages(root: Path) -> list[str]:
    """The packages on disk that pyproject.toml does not name, and those that it names in vain."""
    settings = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    listed = set(settings["tool"]["setuptools"]["packages"])
    folders = {path.parent for path in (root / PACKAGE).rglob("*.py")}
    return sorted(listed ^ {".".join(folder.relative_to(root).parts) for folder in folders})


def plant(root: Path, files: dict[str, str]) -> None:
    """Write a small package below `root`, every folder of it with an `__init__.py`."""
    for name, text in {"__init__.py": "", **files}.items():
        path = root / PACKAGE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        (path.parent / "__init__.py").touch()
        path.write_text(text, encoding="utf-8")


def test_arrows_run_one_way() -> None:
    found = offences(ROOT)
    assert not found, "\n".join(["forbidden imports:", *found])


def test_no_module_imports_itself_by_way_of_others() -> None:
    around = cycle(ROOT)
    assert not around, " -> ".join(around)


def test_every_package_is_installed() -> None:
    difference = unlisted_packages(ROOT)
    assert not difference, f"on disk or in pyproject.toml, not in both: {difference}"


@pytest.mark.parametrize(
    ("file", "text", "expected"),
    [
        ("model/unet.py", "\nfrom ..control import stack\n", "2: model may not import control"),
        ("config.py", "from .model.unet import UNet\n", "1: config may not import model"),
        ("model/unet.py", "from .. import schedule\n", "1: model may not import schedule"),
        ("control/stack.py", "def late():\n    from ..cli import main\n", "2: control may not import cli"),
        ("data/dataset.py", "if TYPE_CHECKING:\n    from ..training import run\n", "2: data may not import training"),
        ("training/run.py", "import torchvision.transforms\n", "1: torchvision.transforms has no place in the core"),
        ("sampling/euler.py", "try:\n    import comfy.ops\nfinally:\n    1", "2: comfy.ops has no place in the core"),
        ("cli/demo.py", "from controlnet_core.model import U\n", "1: controlnet_core.model is not imported relatively"),
        ("__main__.py", "import controlnet_core.cli\n", "1: controlnet_core.cli is not imported relatively"),
        ("cli/demo.py", "from ...nodes import bridge\n", "1: the import leaves the package"),
        ("utilities.py", "from .errors import E\n", "1: utilities has no place in ARROWS"),
    ],
)
def test_a_planted_offence_is_found(tmp_path: Path, file: str, text: str, expected: str) -> None:
    neighbours = ("schedule.py", "model/__init__.py", "control/stack.py", "cli/__init__.py", "training/run.py")
    plant(tmp_path, {**dict.fromkeys(neighbours, "import torch\n"), file: text})
    assert offences(tmp_path) == [f"{PACKAGE}/{file}:{expected}"]


def test_allowed_imports_are_no_offence(tmp_path: Path) -> None:
    allowed = {
        "errors.py": "import torch\n",
        "training/run.py": "from ..evaluation import score\nfrom ..errors import E\nfrom . import metrics\n",
        "objective.py": "from .prediction import target\n",
        "evaluation/score.py": "from ..sampling.euler import step\nfrom .. import config\n",
        "cli/__init__.py": "from ..toy import scenes\nfrom ..control import stack\n",
        "__main__.py": "from .cli import main\n",
        "__init__.py": "from .training.run import train\n",
        **dict.fromkeys(("prediction.py", "config.py", "sampling/euler.py", "control/stack.py", "toy/scenes.py"), ""),
    }
    plant(tmp_path, allowed)
    assert offences(tmp_path) == []
    assert cycle(tmp_path) == []


@pytest.mark.parametrize(
    "files",
    [
        {"model/unet.py": "from .encoder import E\n", "model/encoder.py": "def late():\n    from .unet import UNet\n"},
        {"model/__init__.py": "from .unet import UNet\n", "model/unet.py": "from . import VERSION\n"},
        {"cli/a.py": "from ..data import b\n", "data/b.py": "from .. import c\n", "c.py": "from .cli.a import x\n"},
    ],
)
def test_a_planted_cycle_is_found(tmp_path: Path, files: dict[str, str]) -> None:
    plant(tmp_path, files)
    around = cycle(tmp_path)
    assert len(around) == len(files) + 1 and around[0] == around[-1], around


def test_imports_for_types_alone_make_no_cycle(tmp_path: Path) -> None:
    for_types = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .unet import UNet\n"
    plant(tmp_path, {"model/unet.py": "from .encoder import E\n", "model/encoder.py": for_types})
    assert cycle(tmp_path) == []


def test_a_planted_package_is_missed(tmp_path: Path) -> None:
    plant(tmp_path, {"model/unet.py": "", "model/blocks/resnet.py": ""})
    settings = f'[tool.setuptools]\npackages = ["{PACKAGE}", "{PACKAGE}.model"]\n'
    (tmp_path / "pyproject.toml").write_text(settings, encoding="utf-8")
    assert unlisted_packages(tmp_path) == [f"{PACKAGE}.model.blocks"]
