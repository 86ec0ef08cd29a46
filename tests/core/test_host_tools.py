"""The runner of the tests in ComfyUI goes on where it was cut, and the table of figures is made of what they print."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import host_figures, host_tests

PASSES = "def test_it() -> None:\n    open({mark!r}, 'a').write('x')\n    print('passes')\n"
WAITS = "import os\n\n\ndef test_it() -> None:\n    assert os.path.exists({flag!r})\n"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository whose one test passes and leaves a mark each time, and whose other waits for a flag."""
    root, comfyui = tmp_path / "repository", tmp_path / "comfyui"
    (root / "tests" / "host").mkdir(parents=True)
    comfyui.mkdir()
    (comfyui / "comfyui_version.py").write_text('__version__ = "1.2.3"\n')
    (root / "tests" / "host" / "test_first.py").write_text(PASSES.format(mark=str(tmp_path / "mark")))
    (root / "tests" / "host" / "test_second.py").write_text(WAITS.format(flag=str(tmp_path / "flag")))
    for name, path in {"ROOT": root, "LOGS": root / "build", "WHOLE_LOG": root / "whole.txt"}.items():
        monkeypatch.setattr(host_tests, name, path)
    monkeypatch.setenv("COMFYUI_PATH", str(comfyui))
    return tmp_path


def times_run(place: Path) -> int:
    return len((place / "mark").read_text())


def test_a_run_goes_on_with_the_files_that_have_not_passed(place: Path) -> None:
    log = place / "repository" / "whole.txt"
    assert host_tests.main([]) == 1
    assert "test_first.py" in log.read_text() and "test_second.py" not in log.read_text()
    (place / "flag").touch()
    assert host_tests.main([]) == 0
    assert times_run(place) == 1
    assert log.read_text().startswith("ComfyUI 1.2.3, torch ")
    assert log.read_text().index("passes") < log.read_text().index("test_second.py")
    assert host_tests.main(["tests/host/test_first.py"]) == 0
    assert times_run(place) == 2


def test_changed_code_is_tested_anew(place: Path) -> None:
    (place / "flag").touch()
    assert host_tests.main([]) == 0
    (place / "repository" / "nodes").mkdir()
    (place / "repository" / "nodes" / "new.py").touch()
    assert host_tests.main([]) == 0
    assert times_run(place) == 2


def test_a_figure_is_the_worst_that_its_file_printed() -> None:
    figure = host_figures.Figure("test_x", "a difference", r"latents ([\d.e+-]+)$", host_figures.largest)
    assert host_figures.read(figure, "one, latents 0.0e+00\n.\nlatents 3.0e-06\n.\nlatents 5.0e-07") == "3.0e-06 of 3"


def test_a_log_without_a_figure_makes_no_table() -> None:
    with pytest.raises(ValueError, match="versions of ComfyUI"):
        host_figures.page("collected 3 items\n")
    with pytest.raises(ValueError, match=r"no figure of test_parity\.py .* TESTS=tests/host/test_parity\.py"):
        host_figures.page("ComfyUI 0.33.0, torch 2.11.0\ntests/host/test_parity.py ...\n")
