"""Where a run resumes: the furthest checkpoint on its path, of its own or of another run, and going back to it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from ..base import Base
from ..data.dataset import PairDataset
from ..errors import RunFolderError
from ..version import __version__
from ..whole_file import sweep, writing
from .checkpoint import Checkpoint, Checkpoints
from .identity import BRANCH, FORMAT, Trunk, differences, run_name, trunk_of
from .metrics import MetricsLine
from .run_folder import NET, RunFolder, read_json
from .settings import TrainSettings

ABOUT = "run.json"
SETTINGS = "settings.json"


@dataclass(frozen=True)
class Start:
    """A checkpoint that a run can start from.

    Attributes:
        step: The step it was written after.
        path: The folder of the run that wrote it, which may be another run.
    """

    step: int
    path: Path


@dataclass(frozen=True)
class Nearest:
    """The run that differs least from a new one.

    Attributes:
        path: Its folder.
        differences: What differs, such as "learning_rate 0.001 instead of 0.01".
    """

    path: Path
    differences: tuple[str, ...]


@dataclass(frozen=True)
class Run:
    """A run, found in its folder or about to begin.

    Attributes:
        settings: Its settings.
        trunk: Everything that affects it from the first step on.
        path: Its folder.
        starts: The checkpoints on its path, the furthest first; none for a new run.
        nearest: For a new run, the run that differs least.
        misread: The folders of runs of another format, which cannot be resumed.
    """

    settings: TrainSettings
    trunk: Trunk
    path: Path
    starts: tuple[Start, ...]
    nearest: Nearest | None
    misread: tuple[Path, ...]

    @property
    def finished(self) -> bool:
        """Whether its net is there."""
        return self.net_path.exists()

    @property
    def net_path(self) -> Path:
        """Where its net is once it is finished."""
        return self.path / NET

    def open(self) -> RunFolder:
        """Create its folder, and record what the run is.

        Raises:
            WriteError: If it cannot be written.
        """
        folder = RunFolder(self.path)
        for place in (folder.path, folder.checkpoints.path, folder.samples_path):
            sweep(place)
        branch = {name: getattr(self.settings, name) for name in BRANCH}
        folder.write_json(ABOUT, {"format": FORMAT, "version": __version__, "trunk": dict(self.trunk), **branch})
        folder.write_json(SETTINGS, self.settings.model_dump(mode="json"))
        return folder


def find_run(settings: TrainSettings, base: Base, dataset: PairDataset) -> Run:
    """Find the run that settings, base and data make, and the checkpoints that lie on its path.

    Nothing is written. Two runs of one trunk share their path up to the step where the learning rate of one begins to
    fall. So a longer run continues a shorter one, a shorter run starts from a checkpoint of a longer one, and two
    cool-downs share their beginning.
    """
    trunk = trunk_of(settings, base, dataset)
    path = settings.out / run_name(trunk, settings)
    others, misread = _runs_in(settings.out)
    starts = [
        Start(step, other.path)
        for other in others
        if other.trunk == trunk
        for step in Checkpoints(other.path / "checkpoints").steps()
        if step <= (settings.steps if other.path == path else min(settings.branch_step, other.branch_step))
    ]
    starts.sort(key=lambda start: (start.step, start.path == path), reverse=True)
    nearest = None if starts else _nearest(trunk, others)
    return Run(settings, trunk, path, tuple(starts), nearest, misread)


def run_path(settings: TrainSettings, base: Base, dataset: PairDataset) -> Path:
    """The folder of a run: the same settings, base and data always find the same one."""
    return settings.out / run_name(trunk_of(settings, base, dataset), settings)


def resume(run: Run, folder: RunFolder) -> tuple[Checkpoint | None, list[MetricsLine]]:
    """Read the furthest intact checkpoint on a run's path, if there is one, and the metrics up to there.

    One of another run is copied, with the metrics and samples up to there, so that nothing depends on that folder.
    """
    for start in run.starts:
        other = folder if start.path == folder.path else RunFolder(start.path)
        checkpoint = other.checkpoints.read(start.step)
        if checkpoint is None:
            continue
        if other is folder:
            return checkpoint, folder.metrics.rewind(start.step)
        lines = [_copied(line, other, folder) for line in other.metrics.read() if line.step <= start.step]
        folder.metrics.write(lines)
        folder.checkpoints.write(checkpoint, run.settings.branch_step)
        return checkpoint, lines
    return None, folder.metrics.rewind(-1)


def _copied(line: MetricsLine, other: RunFolder, folder: RunFolder) -> MetricsLine:
    """A line of another run, with the samples of its evaluation; without samples it has no evaluation."""
    if line.evaluation is None:
        return line
    if not other.sample_path(line.step).exists():
        return replace(line, evaluation=None)
    with writing(folder.samples_path):
        folder.samples_path.mkdir(exist_ok=True)
        shutil.copy(other.sample_path(line.step), folder.sample_path(line.step))
    return line


@dataclass(frozen=True)
class _KnownRun:
    """A run as its folder describes it."""

    path: Path
    trunk: Trunk
    branch_step: int


def _runs_in(out: Path) -> tuple[list[_KnownRun], tuple[Path, ...]]:
    """The runs in a folder, and the folders of runs that this version does not read."""
    known: list[_KnownRun] = []
    misread: list[Path] = []
    for path in sorted(entry.parent for entry in out.glob(f"*/{SETTINGS}")):
        try:
            about = read_json(path / ABOUT) or {}
            if about.get("format") != FORMAT:
                raise KeyError("format")
            known.append(_KnownRun(path, about["trunk"], about["steps"] - about["cool_down_steps"]))
        except (RunFolderError, KeyError):
            misread.append(path)
    return known, tuple(misread)


def _nearest(trunk: Trunk, others: list[_KnownRun]) -> Nearest | None:
    """The run whose trunk differs in the fewest parts; of several, the one written last."""
    compared = [
        (len(phrases), -other.path.stat().st_mtime, other.path, phrases)
        for other in others
        if (phrases := differences(trunk, other.trunk))
    ]
    if not compared:
        return None
    _, _, path, phrases = min(compared)
    return Nearest(path, tuple(phrases))
