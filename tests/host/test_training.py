"""Training in a graph on the small base: it gives the command's net, resumes, and changes nothing else."""

from __future__ import annotations

import gc
import hashlib
import json
import mmap
import shutil
import tomllib
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.utils
import folder_paths
import pytest
import torch

from controlnet_core.toy.shapes_dataset import ShapesDataset
from controlnet_core.training.job import checked_job
from controlnet_core.training.open_data import open_data
from controlnet_core.training.resume import run_path
from controlnet_core.training.run import train
from controlnet_core.weights.load_base import load_base
from tests.host.host import Graph, GraphError, Host
from tests.host.training import SETTINGS, Training, metadata, weights, write_pairs


def same(one: str | Path, other: str | Path) -> bool:
    """Whether two nets are equal bit for bit."""
    first, second = weights(one), weights(other)
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


@pytest.fixture
def fresh(host: Host, tmp_path: Path) -> Iterator[Callable[[], None]]:
    """Gives a function that makes ComfyUI forget: an empty output folder, and nothing cached."""
    before = folder_paths.get_output_directory()
    number = 0

    def forget() -> None:
        nonlocal number
        number += 1
        folder_paths.set_output_directory(str(tmp_path / str(number)))
        host.executor.reset()

    forget()
    yield forget
    folder_paths.set_output_directory(before)
    host.executor.reset()


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], bool]], None]:
    """Gives a function that presses Interrupt when a condition holds the first time training asks."""

    def press_when(holds: Callable[[], bool]) -> None:
        original = comfy.model_management.throw_exception_if_processing_interrupted
        pressed = False

        def asked() -> None:
            nonlocal pressed
            if not pressed and holds():
                pressed = True
                comfy.model_management.interrupt_current_processing()
            original()

        monkeypatch.setattr(comfy.model_management, "throw_exception_if_processing_interrupted", asked)

    return press_when


def steps_done() -> list[dict[str, Any]]:
    """The metrics of the only run there is, if there is one."""
    paths = (Path(folder_paths.get_output_directory()) / "controlnet_runs").glob("*/metrics.jsonl")
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


@pytest.mark.usefixtures("fresh")
def test_the_last_word_says_how_it_ended_and_the_report_is_the_last_picture(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[tuple[int, int, Any]] = []

    def show(value: int, total: int, preview: object, node_id: str | None = None) -> None:
        shown.append((value, total, preview))

    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", show)
    training = Training()
    for _ in ("trained", "read back"):
        given = host.run(training.graph)
        (report,) = (Path(folder_paths.get_output_directory()) / "controlnet_runs").glob("*/report.json")
        found = json.loads(report.read_text())["following"]
        levels = f"{found['without_control']:.2f} without control, {found['ceiling']:.2f} at best"
        node, text = host.server.texts[-1]
        assert text == f"done: following {found['caption']:.2f} ({levels}), saved as {Path(given['path']).name}"
        assert node == training.node and len(text) <= 120
        value, total, (_, picture, _) = shown[-1]
        assert value == total == SETTINGS["steps"]
        assert picture.size == (given["report"].shape[2], given["report"].shape[1])
        host.executor.reset()
    encoding = [(value, total) for value, total, _ in shown if total != SETTINGS["steps"]]
    assert encoding and encoding[-1][0] == encoding[-1][1] >= 48, "encoding has a bar"
    said = [text for _, text in host.server.texts]
    assert said.count(said[-1]) == 1


@pytest.mark.usefixtures("fresh")
def test_the_graph_trains_the_commands_net(host: Host, tmp_path: Path) -> None:
    given = host.run(Training().graph)
    job = checked_job({**tomllib.loads(given["settings"]), "out": str(tmp_path / "terminal")}, "the graph's output")
    base = load_base("tiny", dtype=torch.float32)
    dataset, validation = open_data(job.data, job.settings, base)
    assert isinstance(dataset, ShapesDataset)
    settings = job.settings
    for _ in train(settings, base, dataset, validation):
        pass
    path = run_path(settings, base, dataset)
    assert given["path"].endswith(f"net-{path.name}.safetensors"), "the same run has the same name"
    assert same(given["path"], path / "controlnet.safetensors")
    assert len(given["loss_map"]["loss"]) == SETTINGS["steps"]
    assert given["report"].ndim == 4 and given["report"].shape[-1] == 3
    stored = metadata(given["path"])
    assert stored["training.steps"] == "6" and stored["training.base"] == base.fingerprint
    assert 0 <= float(stored["training.following"]) <= 1


def test_a_terminal_resumes_where_the_graph_stopped(
    host: Host, fresh: Callable[[], None], interrupted: Callable[[Callable[[], bool]], None]
) -> None:
    whole = weights(host.run(Training().graph)["path"])
    fresh()
    interrupted(lambda: any(line["step"] == 4 for line in steps_done()))
    assert "path" not in host.run(Training().graph)
    (file,) = (Path(folder_paths.get_output_directory()) / "controlnet_runs").glob("*/settings.toml")
    job = checked_job(tomllib.loads(file.read_text()), str(file))
    base = load_base("tiny", dtype=torch.float32)
    dataset, validation = open_data(job.data, job.settings, base)
    reports = list(train(job.settings, base, dataset, validation))
    assert 0 < len(reports) < SETTINGS["steps"]
    finished = weights(run_path(job.settings, base, dataset) / "controlnet.safetensors")
    assert all(torch.equal(finished[key], whole[key]) for key in whole)


@pytest.mark.parametrize("moment", ["encoding", 1, "drawing", 5])
def test_an_interrupted_training_resumes(
    host: Host, fresh: Callable[[], None], interrupted: Callable[[Callable[[], bool]], None], moment: str | int
) -> None:
    whole = weights(host.run(Training().graph)["path"])
    fresh()
    if moment == "encoding":
        interrupted(lambda: any(text.startswith("encoding") for _, text in host.server.texts))
    elif moment == "drawing":  # it asks after step 2, and, before step 3 is logged, at each sampling step
        asked = count()
        interrupted(lambda: [line["step"] for line in steps_done()][-1:] == [2] and next(asked) == 2)
    else:
        interrupted(lambda: any(line["step"] == moment for line in steps_done()))
    assert "path" not in host.run(Training().graph)
    assert any("Run resumes" in text for _, text in host.server.texts)
    finished = weights(host.run(Training().graph)["path"])
    lines = [line for line in steps_done() if "loss" in line]
    assert [line["step"] for line in lines] == list(range(1, SETTINGS["steps"] + 1)), "no step is done twice"
    assert len({line["session"] for line in lines}) == (1 if moment == "encoding" else 2)
    assert all(torch.equal(finished[key], whole[key]) for key in whole)
    assert [line["step"] for line in steps_done() if "evaluation" in line] == [0, 3, 6], "each evaluation is made"


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("source", ["folder", "images"])
def test_own_pairs_have_a_score_and_samples(host: Host, source: str) -> None:
    folder = Path(folder_paths.get_input_directory()) / "scored"
    write_pairs(folder, count=24)
    training = Training(None, {"source": "folder", "source.folder": "input/scored", "source.hint": "files"})
    dataset = training.graph[training.node]["inputs"]["dataset"][0]
    if source == "images":
        images = [training.add("RandomImages", seed=3, width=64, height=64, count=24), 0]
        inputs = {"source": "images", "source.images": images, "source.captions": "", "source.hint": "canny"}
        training.graph[dataset]["inputs"] = inputs
    else:
        training.graph[dataset]["inputs"]["source.size"] = 0
    given = host.run(training.graph)
    shutil.rmtree(folder)
    evaluations = {line["step"]: line["evaluation"] for line in steps_done() if "evaluation" in line}
    assert list(evaluations) == [0, 3, 6]
    untrained, trained = evaluations[0], evaluations[6]
    assert untrained["following"] == 0.5 and untrained["measures"]["loss_saved"] == 0, "it changes nothing yet"
    assert metadata(given["path"])["training.following"] == f"{trained['following']:.4f}"
    assert any("following" in text and "loss" in text for _, text in host.server.texts)
    settings = json.loads(metadata(given["path"])["training.settings"])
    assert len(given["loss_map"]["loss"]) == settings["steps"]
    assert given["report"].shape[1] > given["report"].shape[2] / 2, "samples stand below the curves"


@pytest.mark.usefixtures("fresh")
def test_a_finished_run_is_read_back(host: Host) -> None:
    first = host.run(Training().graph)["path"]
    stamp = Path(first).stat().st_mtime_ns
    host.executor.reset()
    again = host.run(Training().graph)
    assert again["path"] == first and Path(first).stat().st_mtime_ns == stamp
    assert any("finished" in text for _, text in host.server.texts)
    assert len([line for line in steps_done() if "loss" in line]) == SETTINGS["steps"]
    Path(first).unlink()
    host.executor.reset()
    assert Path(host.run(Training().graph)["path"]).is_file(), "a net that was deleted is put back"
    assert host.run(Training(seed=1).graph)["path"] != first


@pytest.mark.usefixtures("fresh")
def test_the_graphs_own_models_are_untouched(host: Host) -> None:
    def drawing() -> Graph:
        training = Training()
        base = "1"
        text = [training.add("CLIPTextEncode", text="a red circle", clip=[base, 1]), 0]
        latent = training.add("EmptyLatentImage", width=64, height=64, batch_size=1)
        sampler = training.add(
            "KSampler", model=[base, 0], positive=text, negative=text, latent_image=[latent, 0], seed=1, steps=3,
            cfg=3.0, sampler_name="euler", scheduler="normal", denoise=1.0,
        )  # fmt: skip
        training.capture("latent", [sampler, 0])
        training.capture("model", [base, 0])
        return training.graph

    def digest(model: Any) -> str:  # noqa: ANN401 - ComfyUI's
        hashed = hashlib.blake2b()
        for name, weight in sorted(model.model.state_dict().items()):
            hashed.update(name.encode() + weight.float().cpu().numpy().tobytes())
        return hashed.hexdigest()

    graph = drawing()
    alone = {name: node for name, node in graph.items() if node["class_type"] != "TrainControlNet"}
    alone = {name: node for name, node in alone.items() if node["inputs"].get("value", [""])[0] != "3"}
    before = host.run(alone)
    weights_before = digest(before["model"])
    after = host.run(graph)
    again = host.run(drawing())
    assert digest(after["model"]) == weights_before
    assert torch.equal(again["latent"]["samples"], before["latent"]["samples"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("stepz = 3", "did you mean 'steps'"),
        ("steps = ", "settings_toml"),
        ("learning_rate = 7", "learning_rate"),
    ],
)
def test_wrong_settings_are_told(host: Host, change: str, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        host.run(Training(settings_toml=change).graph)


@pytest.mark.usefixtures("fresh")
def test_five_runs_leave_the_memory_as_the_first_did(host: Host) -> None:
    def after_a_run(seed: int) -> int:
        host.run(Training(seed=seed, steps=3).graph)
        host.executor.reset()
        gc.collect()
        return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE

    held = [after_a_run(seed) for seed in range(5)]
    print("\nMiB after each run: " + ", ".join(f"{one / 2**20:.0f}" for one in held))
    assert held[-1] <= 1.05 * held[0]
