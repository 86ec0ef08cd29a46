"""A training run as the command line shows it: progress, Ctrl-C, and the result at the end."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .output import Interrupted, note, print_result
from .progress import Bar, Interruption

if TYPE_CHECKING:
    from ..base import Base
    from ..data.dataset import PairDataset
    from ..training.events import Event
    from ..training.ranks import Ranks
    from ..training.report import ShownValidation
    from ..training.session import Listener
    from ..training.settings import TrainSettings

STOPPING = "finishing this step and writing a checkpoint"
AT_ONCE = "; Ctrl-C again stops at once"
RESUMES = "the same command resumes from there"


class TrainingView:
    """A training run on standard error: lines for its events, and bars with loss and following score.

    Arguments:
        settings: The run's settings.
        path: The run's folder.
        several: Whether several processes train.
    """

    def __init__(self, settings: TrainSettings, path: Path, several: bool = False) -> None:
        from ..training.session import Recent

        self.path = path
        self._recent = Recent(settings)
        self._open = ExitStack()
        self._interruption = Interruption(STOPPING if several else STOPPING + AT_ONCE, patient=several)
        self._encoding, self._training = Bar("encoding", "part"), Bar("training", "step")
        self._fitting = Bar("fitting the hint encoder", "step")

    def __enter__(self) -> TrainingView:
        for context in (self._interruption, self._encoding, self._fitting, self._training):
            self._open.enter_context(context)
        return self

    def __exit__(self, *exception: object) -> None:
        self._open.close()

    def __call__(self, event: Event) -> None:
        """Show an event.

        Raises:
            Interrupted: If the process was asked to stop and everything up to here can be kept.
        """
        from ..training.events import (
            Drawing,
            Encoding,
            Evaluated,
            Fitting,
            Memory,
            Opened,
            Stepped,
            event_lines,
        )

        if isinstance(event, Opened | Memory | Evaluated):  # how a run ends, the command says itself
            for line in event_lines(event):
                note(line)
        self._recent.add(event)
        match event:
            case Encoding(done=done, total=total):
                self._encoding.show(done, total)
                if self._interruption.asked:
                    kept = f"{done:,} of {total:,} pictures, captions and hints are encoded and kept"
                    message = f"stopped at once; {kept}; {RESUMES}"
                    raise Interrupted(message, {"folder": str(self.path)})
            case Fitting(done=done, total=total):
                self._fitting.show(done, total)
                if self._interruption.asked:
                    raise Interrupted(f"stopped at once, before the first step; {RESUMES}", {"folder": str(self.path)})
            case Drawing() if self._interruption.terminated:
                raise Interrupted(
                    f"stopped at once; every step is kept in {self.path}; {RESUMES} and draws these hints again",
                    {"folder": str(self.path)},
                )
            case Stepped(step=step, steps=steps) | Evaluated(step=step, steps=steps):
                self._training.show(step, steps, **self._numbers())
                if self._interruption.asked and step < steps:
                    raise Interrupted(
                        f"step {step} of {steps} is done and kept in {self.path}; {RESUMES}",
                        {"folder": str(self.path), "step": step, "steps": steps},
                    )

    def _numbers(self) -> dict[str, str]:
        """The numbers beside the bar."""
        loss, following = self._recent.loss, self._recent.following
        shown = {} if loss is None else {"loss": f"{loss:.4f}"}
        return shown if following is None else {**shown, "following": f"{following:.2f}"}


def train_watched(
    settings: TrainSettings,
    base: Base,
    dataset: PairDataset,
    validation: ShownValidation | None,
    title: str,
    tensorboard: bool = False,
    ranks: Ranks | None = None,
) -> tuple[Path, dict[str, Any]]:
    """Train with a progress bar, or resume training, and write the run's report.

    Arguments:
        settings: The run's settings.
        base: The locked base.
        dataset: The pairs.
        validation: What measures the net as it trains; None measures nothing.
        title: The headline of the report.
        tensorboard: Whether to write TensorBoard's files, too.
        ranks: The processes that train together; None is this one alone.

    Returns:
        The run's folder, and the content of its report.

    Raises:
        Interrupted: If this process or another one was asked to stop.
        RankLostError: If another process failed or is gone.
        SettingError: If TensorBoard is asked for and not installed.
        TrainingError: If the loss is not finite.
        WriteError: If the run's folder cannot be written.
    """
    from ..training.ranks import ALONE, RankStopped
    from ..training.session import Session

    ranks = ranks or ALONE
    session = Session(settings, base, dataset, validation, title, ranks)
    path = session.run.path

    try:
        with ExitStack() as views:
            listeners: list[Listener] = []
            if tensorboard and ranks.is_first:
                from ..training.tensorboard import TensorBoard

                listeners.append(views.enter_context(TensorBoard(path)))
            listeners.append(views.enter_context(TrainingView(settings, path, ranks.count > 1)))

            def listen(event: Event) -> None:
                for listener in listeners:
                    listener(event)

            report = session.go(listen)
    except RankStopped as stop:
        raise Interrupted(f"{stop}; what is done is kept in {path}; {RESUMES}", {"folder": str(path)}) from None
    except KeyboardInterrupt:
        message = f"stopped at once; what was done after the last checkpoint in {path} is lost; {RESUMES}"
        raise Interrupted(message, {"folder": str(path)}) from None
    return path, report


def print_run(path: Path, report: dict[str, Any], as_json: bool) -> None:
    """Print the result of a run.

    Arguments:
        path: Its folder.
        report: The content of its report.
        as_json: Whether to print one JSON object.
    """
    net, picture = path / "controlnet.safetensors", path / "report.png"
    shown = str(picture) if picture.exists() else None
    steps = f"{report['steps']:,} in {report['seconds']:.0f} s, evaluations not counted"
    facts: list[tuple[str, object]] = [("run folder", path), ("net", net), ("report", shown), ("steps", steps)]
    following = report["following"]
    if following["caption"] is not None:
        levels = f"without control {following['without_control']:.2f}, at best {following['ceiling']:.2f}"
        facts += [
            ("following", f"{following['caption']:.2f} ({levels})"),
            ("", convergence_sentence(report["convergence"])),
        ]
    print_result(facts, {"folder": str(path), "net": str(net), "picture": shown, **report}, as_json)


def convergence_sentence(found: dict[str, Any] | None) -> str:
    """A report's `convergence` as a sentence."""
    if found is None:
        return "does not follow its hints yet"
    from ..evaluation.convergence import Convergence

    return Convergence(**{name: found[name] for name in found if name != "pace"}).sentence
