"""Runs that share a path: longer, shorter, branched and deleted ones end in the bits of a run that was made at once."""

from __future__ import annotations

import json
import shutil
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from controlnet_core.data.dataset import Progress
from controlnet_core.errors import CheckpointError, FamilyMismatchError, SettingError
from controlnet_core.evaluation.validation import Evaluation, Levels
from controlnet_core.model.controlnet import ControlNet
from controlnet_core.objective import Batch
from controlnet_core.toy.shapes_dataset import ShapesDataset
from controlnet_core.training.checkpoint import CheckpointWarning
from controlnet_core.training.events import (
    Drawing,
    Encoding,
    Event,
    Interrupted,
    Opened,
    Stepped,
    event_json,
    event_lines,
)
from controlnet_core.training.metrics import MetricsLine
from controlnet_core.training.resume import Run, find_run
from controlnet_core.training.run import train
from controlnet_core.training.run_folder import RunFolder
from controlnet_core.training.session import Session, opened
from controlnet_core.training.settings import TrainSettings, checked
from controlnet_core.training.step import StepReport, Trainer
from controlnet_core.training.tensorboard import TensorBoard
from controlnet_core.weights.save import save_controlnet
from tests.support.bases import small_base
from tests.support.bits import differing

PAIRS = ShapesDataset(10, 32, seed=0)


def settings(out: Path, steps: int, **changes: object) -> TrainSettings:
    values = {"steps": steps, "batch_size": 2, "learning_rate": 3e-4, "warm_up_steps": 1, "hint_start": "zero"}
    return checked({**values, "device": "cpu", "out": out, **changes}, "test")


def run_of(chosen: TrainSettings) -> Run:
    return find_run(chosen, small_base(), PAIRS)


def trained(chosen: TrainSettings) -> tuple[int, Path]:
    """Train to the end; how many steps that took, and the run's folder."""
    reports = list(train(chosen, small_base(), PAIRS))
    return len(reports), run_of(chosen).path


class Measuring:
    """A validation that measures the same each time, and draws two grey pictures."""

    cost = 1.0

    ceiling_label = "the best"
    hints, captions = torch.zeros(2, 3, 32, 32), ("a", "b")

    def levels(self, progress: Progress | None = None) -> Levels:
        if progress is not None:
            progress(2, 2)
        return Levels(without_control=0.0, ceiling=1.0)

    def evaluate(self, net: ControlNet, progress: Progress | None = None) -> Evaluation:
        if progress is not None:
            progress(2, 2)
        return Evaluation((0.25, 0.75), {"a": 1.0}, torch.full((2, 3, 32, 32), 0.5))


def state(path: Path, step: int) -> dict[str, Tensor]:
    """Net, average and optimizer at a step, with the trained net."""
    place = path / "checkpoints" / f"{step:08d}"
    parts = {part: load_file(place / f"{part}.safetensors") for part in ("net", "average", "optimizer")}
    tensors = {f"{part}.{name}": tensor for part, state in parts.items() for name, tensor in state.items()}
    return tensors | {f"trained.{name}": tensor for name, tensor in load_file(path / "controlnet.safetensors").items()}


def losses(path: Path) -> list[tuple[int, float | None, float | None]]:
    return [(line.step, line.loss, line.gradient_norm) for line in RunFolder(path).metrics.read()]


def assert_same_run(one: Path, other: Path, step: int) -> None:
    assert differing(state(one, step), state(other, step)) == []
    assert losses(one) == losses(other)
    assert json.loads((one / "run.json").read_text()) == json.loads((other / "run.json").read_text())


@pytest.fixture(scope="module")
def at_once(tmp_path_factory: pytest.TempPathFactory) -> Mapping[int, Path]:
    """Runs of 4 and of 8 steps that had no checkpoint to start from."""
    folders = {steps: tmp_path_factory.mktemp(f"{steps} steps") for steps in (4, 8)}
    return {steps: trained(settings(out, steps))[1] for steps, out in folders.items()}


def test_more_steps_continue_from_the_end_and_the_shorter_run_is_read_back(
    tmp_path: Path, at_once: Mapping[int, Path]
) -> None:
    _, short = trained(settings(tmp_path, 4))
    files = sorted((path, path.stat().st_mtime_ns) for path in short.rglob("*") if path.is_file())
    run = run_of(settings(tmp_path, 8))
    assert [(start.step, start.path) for start in run.starts] == [(4, short)]
    steps, long = trained(settings(tmp_path, 8))
    assert steps == 4, "the first four steps were done before"
    assert_same_run(long, at_once[8], 8)
    assert sorted((path, path.stat().st_mtime_ns) for path in short.rglob("*") if path.is_file()) == files
    assert trained(settings(tmp_path, 4)) == (0, short), "a finished run is read back"
    assert_same_run(short, at_once[4], 4)


def test_fewer_steps_start_from_a_checkpoint_on_their_path(tmp_path: Path, at_once: Mapping[int, Path]) -> None:
    _, long = trained(settings(tmp_path, 8, checkpoint_every=5))
    steps, short = trained(settings(tmp_path, 6))
    assert steps == 1, "the checkpoint of step 5 lies on the path of both"
    assert losses(short) == losses(long)[:6]
    assert trained(settings(tmp_path, 4))[0] == 4, "nothing that is kept lies on its path"
    assert_same_run(run_of(settings(tmp_path, 4)).path, at_once[4], 4)


def test_two_cool_downs_share_their_beginning(tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    first, second = {"steps": 6, "cool_down_steps": 2}, {"steps": 7, "cool_down_steps": 3}
    _, expected = trained(settings(alone, **second))
    trained(settings(tmp_path, **first))
    steps, path = trained(settings(tmp_path, **second))
    assert steps == 3, "both learning rates begin to fall after step 4"
    assert_same_run(path, expected, 7)
    later = run_of(settings(tmp_path, 9, cool_down_steps=4))
    assert later.starts[0].step == 4, "a checkpoint in a cool-down is on nobody else's path"


def test_a_run_outlives_the_one_it_began_from(tmp_path: Path, at_once: Mapping[int, Path]) -> None:
    _, short = trained(settings(tmp_path, 4))
    training = train(settings(tmp_path, 8), small_base(), PAIRS)
    next(training)
    training.close()
    shutil.rmtree(short)
    steps, long = trained(settings(tmp_path, 8))
    assert steps == 3
    assert_same_run(long, at_once[8], 8)


def test_checkpoints_may_come_at_other_times(tmp_path: Path, at_once: Mapping[int, Path]) -> None:
    training = train(settings(tmp_path, 8, checkpoint_every=3), small_base(), PAIRS)
    for _ in range(4):
        next(training)
    training.close()
    steps, path = trained(settings(tmp_path, 8, checkpoint_every=2))
    assert steps == 4
    assert_same_run(path, at_once[8], 8)


def test_a_damaged_checkpoint_of_another_run_is_passed_over(tmp_path: Path, at_once: Mapping[int, Path]) -> None:
    _, short = trained(settings(tmp_path, 4, checkpoint_every=2))
    (short / "checkpoints" / "00000004" / "average.safetensors").write_bytes(b"damaged")
    with pytest.warns(CheckpointWarning, match="00000004"):
        steps, path = trained(settings(tmp_path, 8))
    assert steps == 6
    assert_same_run(path, at_once[8], 8)


def test_another_learning_rate_is_a_new_run_and_that_is_said(tmp_path: Path) -> None:
    _, path = trained(settings(tmp_path, 4))
    changed = settings(tmp_path, 4).model_copy(update={"learning_rate": 1e-3, "prompt_drop": 0.25})
    run = run_of(changed)
    assert run.starts == () and run.nearest is not None and run.nearest.path == path
    assert run.nearest.differences == ("learning_rate 0.001 instead of 0.0003", "prompt_drop 0.25 instead of 0.5")
    (_, line) = event_lines(opened(run, None))
    assert line.startswith(f"a new run; the nearest is {path.name}") and "learning_rate 0.001 instead of 0.0003" in line
    other = find_run(settings(tmp_path, 4), small_base(), ShapesDataset(11, 32, seed=0))
    assert other.nearest is not None and other.nearest.differences == ("other data",)


def test_a_run_of_another_format_is_named_and_left_alone(tmp_path: Path) -> None:
    old = tmp_path / "0123456789ab"
    old.mkdir()
    (old / "settings.json").write_text("{}")
    run = run_of(settings(tmp_path, 4))
    assert run.misread == (old,) and run.nearest is None
    assert any(old.name in line and "another version" in line for line in event_lines(opened(run, None)))
    trained(settings(tmp_path, 1))
    assert [entry.name for entry in old.iterdir()] == ["settings.json"]


@pytest.mark.parametrize("kind", ["file", "run"])
def test_a_net_to_start_from(tmp_path: Path, kind: str) -> None:
    _, path = trained(settings(tmp_path, 4))
    start = path if kind == "run" else path / "controlnet.safetensors"
    training = train(settings(tmp_path, 2, start_from=start), small_base(), PAIRS)
    first = next(training)
    training.close()
    assert run_of(settings(tmp_path, 2, start_from=start)).starts[0].step == 1, "it is a run of its own"
    fresh = next(train(settings(tmp_path / "fresh", 2), small_base(), PAIRS))
    assert first.loss != fresh.loss, "the net to start from changes nothing"


def test_a_net_that_does_not_fit_is_no_start(tmp_path: Path) -> None:
    other = tmp_path / "grey.safetensors"
    save_controlnet(ControlNet.from_unet(small_base().unet, hint_channels=1), other)
    with pytest.raises(FamilyMismatchError, match=r"1 hint channels .*grey\.safetensors; expected .*3 hint channels"):
        trained(settings(tmp_path, 2, start_from=other))
    (tmp_path / "nothing.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="empty file"):
        trained(settings(tmp_path, 2, start_from=tmp_path / "nothing.safetensors"))


def test_a_session_tells_its_events(tmp_path: Path) -> None:
    chosen, told = settings(tmp_path, 3), list[Event]()

    def interrupting(event: Event) -> None:
        told.append(event)
        if isinstance(event, Stepped) and event.step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Session(chosen, small_base(), PAIRS, None, "A run").go(interrupting)
    kinds = [type(event).__name__ for event in told]
    assert kinds == ["Opened", "Memory", "Encoding", "Encoding", "Stepped", "Stepped", "Interrupted"]
    assert told[2:4] == [Encoding(10, 21), Encoding(21, 21)], "the pictures, then the captions with the empty one"
    session = Session(chosen, small_base(), PAIRS, None, "A run")
    assert not session.finished
    told.clear()
    report = session.go(told.append)
    assert [type(event).__name__ for event in told] == ["Opened", "Memory", "Stepped", "Finished"]
    assert isinstance(told[0], Opened) and (told[0].state, told[0].step) == ("resumed", 2)
    assert Session(chosen, small_base(), PAIRS, None, "A run").finished
    told.clear()
    assert Session(chosen, small_base(), PAIRS, None, "A run").go(told.append) == report
    assert [type(event).__name__ for event in told] == ["Opened", "Finished"]


def test_interrupted_while_the_report_is_made_the_net_is_kept_and_the_report_comes_later(tmp_path: Path) -> None:
    chosen, told = settings(tmp_path, 2), list[Event]()

    def interrupting(event: Event) -> None:
        told.append(event)
        if isinstance(event, Drawing) and any(isinstance(one, Stepped) and one.step == 2 for one in told):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Session(chosen, small_base(), PAIRS, Measuring(), "A run").go(interrupting)
    assert told[-2:] == [Drawing(2, 2), Interrupted(2, 2)]
    session = Session(chosen, small_base(), PAIRS, Measuring(), "A run")
    assert session.run.finished and not session.finished
    told.clear()
    session.go(told.append)
    assert [type(event).__name__ for event in told] == ["Opened", "Drawing", "Finished"]


@pytest.mark.parametrize(("every", "kept"), [(1, 1), (500, 0)])
def test_an_error_inside_a_step_tells_what_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int, kept: int
) -> None:
    plain, told = Trainer.take_step, list[Event]()

    def take_step(trainer: Trainer, batch: Batch) -> StepReport:
        if trainer.step == 1:
            raise KeyboardInterrupt
        return plain(trainer, batch)

    monkeypatch.setattr(Trainer, "take_step", take_step)
    session = Session(settings(tmp_path, 3, checkpoint_every=every), small_base(), PAIRS, None, "A run")
    with pytest.raises(KeyboardInterrupt):
        session.go(told.append)
    assert told[-1] == Interrupted(kept, 3)


def test_samples_that_were_deleted_are_no_evaluation_of_a_longer_run(tmp_path: Path) -> None:
    short = Session(settings(tmp_path, 2), small_base(), PAIRS, Measuring(), "A run")
    short.go(lambda event: None)
    shutil.rmtree(short.run.path / "samples")
    long = Session(settings(tmp_path, 4), small_base(), PAIRS, Measuring(), "A run")
    report = long.go(lambda event: None)
    assert [evaluation["step"] for evaluation in report["evaluations"]] == [4], "0 and 2 have nothing to show"


def test_a_start_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"start_from = .*nowhere.* correct start_from"):
        trained(settings(tmp_path, 2, start_from=tmp_path / "nowhere"))


def test_events_are_data(tmp_path: Path) -> None:
    told = list[Event]()
    Session(settings(tmp_path, 2), small_base(), PAIRS, Measuring(), "A run").go(told.append)
    objects = [json.loads(json.dumps(event_json(event))) for event in told]
    step = ["drawing", "evaluated", "stepped"]
    before = ["opened", "memory", "encoding", "encoding"]
    assert [one["event"] for one in objects] == [*before, *step, *step, "drawing", "finished"]
    assert objects[6] == {"event": "stepped", "step": 1, "steps": 2, **objects[6]} and objects[6]["loss"] > 0
    measured = {name: objects[8][name] for name in ("following", "scores", "measures")}
    assert measured == {"following": 0.5, "scores": [0.25, 0.75], "measures": {"a": 1.0}}
    lines = [line for event in told for line in event_lines(event)]
    assert lines[0].startswith("run folder") and "step 2: following 0.500" in lines


def test_tensorboard_is_told_the_same_events(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    told = list[Event]()
    session = Session(settings(tmp_path, 2), small_base(), PAIRS, Measuring(), "A run")
    with TensorBoard(session.run.path) as board:

        def listen(event: Event) -> None:
            told.append(event)
            board(event)

        session.go(listen)
    written = accumulator.EventAccumulator(str(session.run.path / "tensorboard")).Reload()
    losses = [(event.step, event.loss) for event in told if isinstance(event, Stepped)]
    assert [one.step for one in written.Scalars("loss")] == [step for step, _ in losses] == [1, 2]
    assert [one.value for one in written.Scalars("loss")] == pytest.approx([loss for _, loss in losses])
    assert [(one.step, one.value) for one in written.Scalars("following")] == [(0, 0.5), (2, 0.5)]
    assert len(written.Images("held-out hints")) == 2


def test_a_finished_run_has_a_model_card(tmp_path: Path) -> None:
    session = Session(settings(tmp_path, 2), small_base(), PAIRS, Measuring(), "A net for shapes")
    session.go(lambda event: None)
    card = (session.run.path / "model_card.md").read_text()
    assert card.startswith("---\nlibrary_name: controlnet-core\n") and "# A net for shapes" in card
    assert "trained for 2 steps" in card and "Its following score on held-out hints is 0.50" in card
    assert tomllib.loads(card.split("```toml\n")[1].split("```")[0])["learning_rate"] == 3e-4


def test_lines_are_read_as_they_were_written(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    lines = [MetricsLine(0, 1), MetricsLine(1, 1, 0.5, 0.25, 2.0)]
    for line in lines:
        folder.metrics.append(line)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "ses')
    assert folder.metrics.read() == lines
