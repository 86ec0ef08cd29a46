"""Runs the tests that need a real ComfyUI, one process a file, and goes on where a run was cut.

    make test-host [TESTS="tests/host/test_laws.py ..."]

Files that passed are not run again until the code changes, unless they are named. `build/test-host.txt` holds what the
files that passed have printed; `tools/host_figures.py` makes docs/host.md of it.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOGS = ROOT / "build" / "test-host"
WHOLE_LOG = ROOT / "build" / "test-host.txt"
TESTS = ("tests/host/test_*.py", "tests/nodes/test_*.py")
CODE = ("__init__.py", "pyproject.toml", "controlnet_core", "nodes", "js", "workflows", "tests", "tools")
"""What the outcome may depend on."""
PYTEST = ("-P", "-u", "-m", "pytest", "-p", "no:cacheprovider", "--color=no", "-s")


@dataclass(frozen=True)
class Runs:
    """The runs of test files on one state of the code and one ComfyUI.

    Attributes:
        host: ComfyUI and torch in words.
        folder: The logs: NAME.txt of a file that passed, NAME.failed.txt, and NAME.part.txt of one that is running.
    """

    host: str
    folder: Path

    def log(self, file: str, outcome: str = "") -> Path:
        """Where the log of a test file is; without an outcome, that of a run that passed."""
        return self.folder / f"{Path(file).parent.name}_{Path(file).stem}{outcome}.txt"

    def passed(self, file: str) -> bool:
        """Whether a test file passed in some run."""
        return self.log(file).exists()

    def run(self, test: str) -> bool:
        """Run a file, or one test of it, and say whether it passed; what it prints is shown and kept."""
        part = self.log(test.partition("::")[0], ".part")
        began = time.monotonic()
        places = {"CONTROLNET_CORE_TEST_HOST": "1", "PYTHONPATH": str(ROOT / ".venv" / "host")}
        pytest = subprocess.Popen(
            [sys.executable, *PYTEST, test],
            cwd=ROOT,
            env={**os.environ, **places},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        with part.open("wb") as log, pytest as process:
            assert process.stdout is not None
            for line in process.stdout:
                log.write(line)
                sys.stdout.buffer.write(line)
                sys.stdout.flush()
        passed = process.wait() == 0
        print(f"== {test} {'passed' if passed else 'failed'} in {time.monotonic() - began:.0f} s", flush=True)
        if "::" not in test:
            self.log(test).unlink(missing_ok=True)
            part.replace(self.log(test, "" if passed else ".failed"))
        return passed

    def write_whole_log(self) -> list[str]:
        """Put the logs of all files that passed into one, and give the files that did not."""
        passed = [file for file in all_files() if self.passed(file)]
        logs = [self.log(file).read_text(encoding="utf-8", errors="replace") for file in passed]
        WHOLE_LOG.write_text("\n".join([self.host, *logs]), encoding="utf-8")
        return [file for file in all_files() if file not in passed]


def all_files() -> list[str]:
    """The test files, by their paths in the repository."""
    return [path.relative_to(ROOT).as_posix() for pattern in TESTS for path in sorted(ROOT.glob(pattern))]


def code_files() -> Iterator[Path]:
    """Every file of the code, without what Python compiles."""
    for name in CODE:
        place = ROOT / name
        found = sorted(place.rglob("*")) if place.is_dir() else [place]
        yield from (path for path in found if path.is_file() and "__pycache__" not in path.parts)


def current_runs(comfyui: Path) -> Runs:
    """The runs on the code as it is, with this interpreter and the ComfyUI at a path."""
    text = (comfyui / "comfyui_version.py").read_text(encoding="utf-8")
    found = re.search(r'__version__ = "(.+)"', text)
    host = f"ComfyUI {found[1] if found else 'of no known version'}, torch {version('torch')}, --cpu"
    state = hashlib.sha256(f"{host} {comfyui.resolve()} {sys.executable}".encode())
    for path in code_files():
        state.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    folder = LOGS / state.hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    return Runs(host, folder)


def main(named: Iterable[str]) -> int:
    """Run the tests that are named, or all files that have not passed yet; the exit status."""
    runs = current_runs(Path(os.environ["COMFYUI_PATH"]))
    tests = list(named) or [file for file in all_files() if not runs.passed(file)]
    print(f"{runs.host}: {len(tests)} to run", flush=True)
    failed = [test for test in tests if not runs.run(test)]
    missing = runs.write_whole_log()
    print(f"what the files that passed have printed is in {WHOLE_LOG.relative_to(ROOT)}")
    if missing:
        print(f"not passed yet on this code: {', '.join(missing)}")
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on with the files that have not passed")
