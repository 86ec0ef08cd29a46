"""What pip installs: controlnet_core with every file of it, its command, and nothing that lies beside it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NEIGHBOURS = ("benchmarks", "js", "nodes", "tests", "workflows")
EDITABLE = "import setuptools.build_meta as backend, sys; backend.build_editable(sys.argv[1])"
DEMO_FILES = {"demo.png", "report.png", "report.json", "controlnet.safetensors"}
IMPORT = """
import importlib.util, pathlib, controlnet_core
print(pathlib.Path(controlnet_core.__file__).parent.resolve())
print([name for name in ("benchmarks", "js", "nodes", "tests", "workflows") if importlib.util.find_spec(name)])
"""


def call(*command: str | Path, cwd: Path) -> str:
    """Run `command` in the folder `cwd`, free of PYTHONPATH; what it printed, once its exit status is found to be 0."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, f"{command} exited {done.returncode}:\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what a wheel is made from, where the root and the folders beside it could be taken for packages."""
    folder = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "controlnet_core", folder / "controlnet_core", ignore=shutil.ignore_patterns("__pycache__"))
    for package in (folder, *(folder / name for name in NEIGHBOURS)):
        package.mkdir(exist_ok=True)
        (package / "__init__.py").touch()
    return folder


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that a user gets."""
    folder = tmp_path_factory.mktemp("wheel")
    call(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, source, cwd=folder)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def editable_wheel(source: Path, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that `pip install --editable` makes and installs; it points at `source`."""
    folder = tmp_path_factory.mktemp("editable")
    call(sys.executable, "-c", EDITABLE, folder, cwd=source)
    return next(folder.glob("*.whl"))


def install(wheel: Path, folder: Path) -> Path:
    """Install `wheel` in a new environment in `folder`, and return the environment's folder of commands.

    The libraries are those of the running interpreter. They are joined to it by path after the installation: pip then
    sees an empty environment, and an editable installation of this project beside them, which is started by a .pth
    file, is not started, as Python reads .pth files in an environment's own folder only.
    """
    venv.create(folder, symlinks=os.name != "nt", with_pip=False)
    commands = folder / ("Scripts" if os.name == "nt" else "bin")
    pip = (sys.executable, "-m", "pip", "--python", commands / "python", "install", "--quiet")
    call(*pip, "--no-index", "--no-deps", "--no-compile", "--disable-pip-version-check", wheel, cwd=folder)
    own = call(commands / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder)
    libraries = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    Path(own.strip(), "libraries.pth").write_text("\n".join(sorted(libraries)), encoding="utf-8")
    return commands


def check_installation(commands: Path, package: Path, tmp_path: Path) -> None:
    """From an empty folder, `controlnet_core` is that in `package`, no neighbour can be imported, the command runs."""
    empty = tmp_path / "empty"
    empty.mkdir()
    found, neighbours = call(commands / "python", "-c", IMPORT, cwd=empty).splitlines()
    assert Path(found) == package.resolve()
    assert neighbours == "[]"
    assert "demo" in call(commands / "controlnet-core", "demo", "--help", cwd=empty)


def test_wheel_holds_the_whole_package_and_nothing_else(wheel: Path, source: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    installed = {name for name in names if ".dist-info/" not in name}
    files = {path.relative_to(source).as_posix() for path in (source / "controlnet_core").rglob("*") if path.is_file()}
    assert installed == files, f"only in the wheel or only on disk: {sorted(installed ^ files)}"
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_wheel_installs_a_working_command(wheel: Path, tmp_path: Path) -> None:
    commands = install(wheel, tmp_path / "environment")
    package = next((tmp_path / "environment").rglob("controlnet_core"))
    check_installation(commands, package, tmp_path)
    check_short_demo(commands, tmp_path / "empty")


def check_short_demo(commands: Path, folder: Path) -> None:
    """A demo of two steps trains, measures, draws and leaves what its help says; a second call reads it back."""
    shown = call(commands / "controlnet-core", "demo", "--steps", "2", "--json", cwd=folder)
    report = json.loads(shown)
    assert {path.name for path in (folder / "demo").iterdir()} >= DEMO_FILES
    assert json.loads((folder / "demo" / "report.json").read_text(encoding="utf-8")) == report
    following = report["following"]
    assert set(following) == {"caption", "empty_prompt", "without_control", "ceiling"}
    # Two steps change next to nothing: the pictures are the base's own, from the captions alone.
    assert abs(following["caption"] - following["without_control"]) < 0.05, following
    assert following["without_control"] <= 0.35 and following["ceiling"] >= 0.93, following
    assert report["steps"] == 2
    assert report["convergence"] is None
    assert [one["step"] for one in report["evaluations"]] == [0, 2]
    again = json.loads(call(commands / "controlnet-core", "demo", "--steps", "2", "--json", cwd=folder))
    assert {**again, "parts": None} == {**report, "parts": None}


def test_editable_installation_exposes_no_neighbour(editable_wheel: Path, source: Path, tmp_path: Path) -> None:
    commands = install(editable_wheel, tmp_path / "environment")
    check_installation(commands, source / "controlnet_core", tmp_path)
