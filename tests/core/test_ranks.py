"""Several processes train one net as one process would, in float64, where sums in another order are equal to 1e-9."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import Tensor

from controlnet_core.errors import SettingError
from controlnet_core.training.metrics import MetricsLine
from controlnet_core.training.ranks import ALONE, Ranks
from controlnet_core.training.run_folder import RunFolder
from tests.support import train_ranks
from tests.support.processes import Ended, StartedRanks

SHORT = 6
BOUND = 1e-9
FILES = ("net", "average", "optimizer")


def trained(count: int, out: Path, **changes: Any) -> list[Ended]:  # noqa: ANN401 - of any setting
    """How several processes end that train together."""
    return StartedRanks(count, out, train_ranks.main, out, changes).ended()


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process made of the whole run; its cache serves the others."""
    out = tmp_path_factory.mktemp("alone")
    (process,) = trained(1, out)
    assert process.code == 0, process.err
    return out


@pytest.fixture
def out(alone: Path, tmp_path: Path) -> Path:
    """A folder for runs, with the cache of encoded pairs."""
    shutil.copytree(alone / "cache", tmp_path / "cache")
    return tmp_path


def begun(alone: Path, out: Path) -> None:
    """Leave the run as it was half-way."""
    folder = train_ranks.run_folder(alone)
    shutil.copytree(folder, out / folder.name)
    shutil.rmtree(out / folder.name / "checkpoints" / f"{train_ranks.STEPS:08d}")
    (out / folder.name / "controlnet.safetensors").unlink()


def state(out: Path, step: int, **changes: Any) -> dict[str, Tensor]:  # noqa: ANN401 - of any setting
    """All that a checkpoint holds."""
    folder = train_ranks.run_folder(out, **changes) / "checkpoints" / f"{step:08d}"
    parts = {part: load_file(folder / f"{part}.safetensors") for part in FILES}
    return {f"{part} {name}": value for part, tensors in parts.items() for name, value in tensors.items()}


def metrics(out: Path, **changes: Any) -> list[MetricsLine]:  # noqa: ANN401 - of any setting
    return RunFolder(train_ranks.run_folder(out, **changes)).metrics.read()


def furthest(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> float:
    """The largest difference. Most weights are about 0.1; some gradients are zero but for rounding."""
    assert found.keys() == wanted.keys()
    return max((found[name].double() - wanted[name].double()).abs().max().item() for name in wanted)


def check_same(found: Path, wanted: Path, step: int, **changes: Any) -> None:  # noqa: ANN401 - of any setting
    """Both runs have the same checkpoint, metrics and net, but for rounding."""
    worst = furthest(state(found, step, **changes), state(wanted, step, **changes))
    lines, expected = metrics(found, **changes), metrics(wanted, **changes)
    assert [line.step for line in lines] == [line.step for line in expected]
    losses = max(abs((line.loss or 0) - (other.loss or 0)) for line, other in zip(lines, expected, strict=True))
    following = [line.evaluation.following for line in lines if line.evaluation]
    scores = [line.evaluation.following for line in expected if line.evaluation]
    print(f"\nlargest difference: {worst:.1e} of the state, {losses:.1e} of the losses")
    assert worst <= BOUND and losses <= BOUND
    assert following == pytest.approx(scores, abs=1e-6)
    nets = [train_ranks.run_folder(out, **changes) / "controlnet.safetensors" for out in (found, wanted)]
    assert furthest(load_file(nets[0]), load_file(nets[1])) <= BOUND


@pytest.mark.parametrize(
    ("count", "changes"),
    [
        (2, {}),
        (4, {}),
        (2, {"sharded": True}),
        (2, {"gradient_accumulation": 2}),
        (2, {"gradient_accumulation": 2, "activation_checkpointing": True, "average_on": "cpu"}),
        (2, {"gradient_accumulation": 2, "activation_checkpointing": True, "sharded": True}),
    ],
    ids=str,
)
def test_many_processes_train_what_one_does(count: int, changes: dict[str, Any], alone: Path, out: Path) -> None:
    processes = trained(count, out, **changes)
    assert [process.code for process in processes] == [0] * count, processes[0].err
    assert len({process.out for process in processes}) == 1, "the ranks report other numbers"
    check_same(out, alone, train_ranks.STEPS)


@pytest.mark.parametrize("sharded", [False, True])
def test_a_run_begun_by_one_process_is_finished_by_two(sharded: bool, alone: Path, out: Path) -> None:
    begun(alone, out)
    processes = trained(2, out, sharded=sharded)
    assert [process.code for process in processes] == [0, 0], processes[0].err
    assert json.loads(processes[1].out.splitlines()[0])[0] == 11, "it did not resume"
    check_same(out, alone, train_ranks.STEPS)


@pytest.mark.parametrize("several", [{}, {"sharded": True, "gradient_accumulation": 2}], ids=str)
def test_a_batch_that_the_processes_do_not_divide(several: dict[str, Any], out: Path, tmp_path: Path) -> None:
    """Where the net is sharded, every part of a batch is one for all, although one process has a single pair."""
    changes = {"batch_size": 5, "steps": SHORT}
    shutil.copytree(out / "cache", tmp_path / "one" / "cache")
    for count, folder, more in ((1, tmp_path / "one", {}), (3, out, several)):
        processes = trained(count, folder, **changes, **more)
        assert [process.code for process in processes] == [0] * count, processes[0].err
    check_same(out, tmp_path / "one", SHORT, **changes)


@pytest.mark.parametrize("static_graph", [False, True])
def test_the_ranks_have_one_gradient_after_every_backward_pass(static_graph: bool, out: Path) -> None:
    """DDP's static graph does not find the outputs in their dataclass, and averages nothing: so it is not used."""
    apart = gradients_apart(out, static_graph)
    print(f"\nstatic graph {static_graph}: {apart}")
    if static_graph:
        assert min(apart) > 1e-3, "a static graph does no harm, so the test shows nothing"
    else:
        assert max(apart) == 0.0


def gradients_apart(out: Path, static_graph: bool = False, **changes: Any) -> list[float]:  # noqa: ANN401 - settings
    """How far the gradients of two ranks are from each other in each of three steps."""
    _, second = StartedRanks(2, out, train_ranks.compare_gradients, out, static_graph, changes).ended()
    apart = [float(line.split()[1]) for line in second.out.splitlines() if line.startswith("apart")]
    assert len(apart) == 3, second.err
    return apart


@pytest.mark.parametrize("optimizer", ["adamw", "adamw_8bit"])
def test_copies_in_bfloat16_stay_equal(optimizer: str, out: Path) -> None:
    """DDP follows each parameter: an update may not put another one, or one of another dtype, in its place."""
    changes: dict[str, Any] = {"weights_dtype": "bfloat16", "optimizer": optimizer, "gradient_accumulation": 2}
    assert max(gradients_apart(out, **changes)) == 0.0


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"optimizer": "adamw_8bit"}, 'optimizer = "adamw_8bit"'),
        ({"weights_dtype": "bfloat16"}, 'weights_dtype = "bfloat16"'),
        ({"memory": 12}, 'average_on = "cpu"'),
    ],
    ids=str,
)
def test_what_a_sharded_net_cannot_have_is_refused_before_anything_is_written(
    changes: dict[str, Any], found: str, tmp_path: Path
) -> None:
    processes = trained(2, tmp_path, sharded=True, **changes)
    assert [process.code for process in processes] == [1, 1]
    for process in processes:
        assert f"SettingError: found sharded = true with {found}; expected" in process.err
        assert "sharded = false" in process.err
    assert not list(tmp_path.glob("*/")), "there is a run folder or a cache"


class Third(Ranks):
    """The last of three."""

    rank, count = 2, 3


def test_the_ranks_share_all_slots_and_their_weights_make_the_mean() -> None:
    assert list(ALONE.slots(3)) == [0, 1, 2] and ALONE.weight(3) == 1.0
    for count in range(1, 9):
        for batch_size in range(count, 20):
            ranks = []
            for number in range(count):
                one = Ranks()
                one.rank, one.count = number, count
                ranks.append(one)
            slots = [slot for one in ranks for slot in one.slots(batch_size)]
            assert slots == list(range(batch_size))
            sizes = [len(one.slots(batch_size)) for one in ranks]
            assert max(sizes) - min(sizes) <= 1
            assert math.isclose(sum(one.weight(batch_size) for one in ranks), count)
    with pytest.raises(SettingError, match="batch_size = 2 for 3 processes"):
        Third().slots(2)
