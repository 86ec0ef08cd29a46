"""What a net is trained on: models of every kind that ComfyUI holds, and datasets with every kind of fault."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import folder_paths
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from tests.host.graphs import Link
from tests.host.host import Graph, GraphError, Host, largest_difference, recorded_forwards
from tests.host.models import write_checkpoint
from tests.host.training import PICTURE, Training, write_pairs

RANK = 4
LORA_STRENGTH = 0.7


def lora(path: Path, shape: tuple[int, int], key: str) -> Tensor:
    """Write a LoRA on one layer; what it adds at strength 1."""
    generator = torch.Generator().manual_seed(5)
    up, down = (torch.randn(size, generator=generator) * 0.1 for size in ((shape[0], RANK), (RANK, shape[1])))
    name = f"lora_unet_{key}"
    path.parent.mkdir(parents=True, exist_ok=True)
    alpha = torch.tensor(float(RANK))
    save_file({f"{name}.lora_up.weight": up, f"{name}.lora_down.weight": down, f"{name}.alpha": alpha}, path)
    return up @ down


@pytest.fixture(scope="module")
def sd15(host: Host, models: object, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Tensor], Tensor]:
    """A reduced SD1.5 and a LoRA for it, in ComfyUI's folders; its tensors, and what the LoRA adds."""
    folder = tmp_path_factory.mktemp("sd15")
    for kind in ("checkpoints", "loras"):
        folder_paths.add_model_folder_path(kind, str(folder / kind), is_default=True)
    tensors = write_checkpoint(folder / "checkpoints" / "reduced_sd15.safetensors", "sd15")
    added = lora(folder / "loras" / "one.safetensors", (320, 320), "input_blocks_1_1_transformer_blocks_0_attn1_to_q")
    return tensors, added


def sources(graph: Graph) -> list[Link]:
    """Load the reduced SD1.5 with its LoRA."""
    graph["90"] = {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "reduced_sd15.safetensors"}}
    graph["91"] = {
        "class_type": "LoraLoader",
        "inputs": {
            "model": ["90", 0],
            "clip": ["90", 1],
            "lora_name": "one.safetensors",
            "strength_model": LORA_STRENGTH,
            "strength_clip": LORA_STRENGTH,
        },
    }
    return [["91", 0], ["91", 1], ["90", 2]]


@pytest.fixture
def folder(host: Host) -> Iterator[Path]:
    """A folder that the dataset node lists."""
    path = Path(folder_paths.get_input_directory()) / "pairs"
    path.mkdir()
    yield path
    shutil.rmtree(path)
    host.executor.reset()


def test_a_net_is_trained_on_the_base_with_its_lora(
    host: Host, sd15: tuple[dict[str, Tensor], Tensor], folder: Path
) -> None:
    tensors, added = sd15
    write_pairs(folder)
    data = {"source": "folder", "source.folder": "input/pairs", "source.hint": "files", "source.size": 64}
    training = Training(None, data, steps=2, batch_size=2)
    training.graph[training.node]["inputs"] |= dict(
        zip(("model", "clip", "vae"), sources(training.graph), strict=True)
    )
    training.capture("model", ["91", 0])
    training.capture("clip", ["91", 1])
    training.capture("vae", ["90", 2])
    given = host.run(training.graph)
    base = host.bridge("training.base_from_graph").base_of(given["model"], given["clip"], given["vae"])
    key = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"
    merged = base.unet.encoder.stages[0].blocks[0].attention.blocks[0].self_attention.query.weight
    expected = tensors[key].float() + LORA_STRENGTH * added
    assert largest_difference(merged, expected) <= 1e-6
    assert largest_difference(merged, tensors[key].float()) > 1e-3
    other = base.unet.encoder.stages[0].blocks[0].attention.blocks[0].self_attention.key.weight
    assert torch.equal(other, tensors[key.replace("to_q", "to_k")].float())
    net = given["control_net"].net
    copied = net.encoder.stages[0].blocks[0].attention.blocks[0].self_attention.query.weight
    moved = (copied.float() - expected).abs().max().item()
    print(f"\nthe copied encoder is {moved:.1e} from the merged base after two steps")
    assert moved < 5e-3 < (tensors[key].float() - expected).abs().max().item()
    assert "is not in a single file" in given["settings"]


@pytest.mark.usefixtures("sd15")
def test_the_native_loader_reads_a_trained_net(host: Host, folder: Path) -> None:
    write_pairs(folder)
    data = {"source": "folder", "source.folder": "input/pairs", "source.hint": "files", "source.size": 64}
    training = Training(None, data, steps=3, batch_size=2, learning_rate=1e-3)
    links = sources(training.graph)
    training.graph[training.node]["inputs"] |= dict(zip(("model", "clip", "vae"), links, strict=True))
    path = Path(host.run(training.graph)["path"])
    residuals = []
    for loader, apply in (("LoadControlNet", "ApplyControlNet"), ("ControlNetLoader", "ControlNetApplyAdvanced")):
        drawing = Training()
        drawing.graph.clear()
        model, clip, _ = sources(drawing.graph)
        text = [drawing.add("CLIPTextEncode", text="a picture", clip=clip), 0]
        images = [drawing.add("RandomImages", seed=3, width=64, height=64, count=1), 0]
        net = [drawing.add(loader, control_net_name=path.name), 0]
        applied = drawing.add(
            apply, positive=text, negative=text, control_net=net, image=images, strength=1.0, start_percent=0.0,
            end_percent=1.0,
        )  # fmt: skip
        latent = [drawing.add("EmptyLatentImage", width=64, height=64, batch_size=1), 0]
        sampler = drawing.add(
            "KSampler", model=model, positive=[applied, 0], negative=[applied, 1], latent_image=latent, seed=1, steps=1,
            cfg=3.0, sampler_name="euler", scheduler="normal", denoise=1.0,
        )  # fmt: skip
        drawing.capture("latent", [sampler, 0])
        with recorded_forwards() as forwards:
            host.run(drawing.graph)
        residuals.append(forwards[0].residuals)
    ours, native = residuals
    found = max(map(largest_difference, ours, native))
    print(f"\nresiduals {found:.1e}")
    assert len(ours) == len(native) > 0 and found <= 1e-4
    assert max(one.abs().max().item() for one in ours) > 0


def files(*folders: Path) -> list[Path]:
    """All files of some folders."""
    return [path for folder in folders for path in folder.iterdir()]


def remove(paths: Iterable[Path]) -> None:
    """Remove files and folders."""
    for path in paths:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def draw(paths: Iterable[Path], size: tuple[int, int], mode: str = "RGB") -> None:
    """Write black pictures."""
    for path in paths:
        Image.new(mode, size).save(path)


def rename(paths: Iterable[Path], name: str) -> None:
    """Rename files in their folders."""
    for path in paths:
        path.rename(path.with_name(name))


def spoil(name: str, folder: Path) -> None:
    """Write a dataset with one thing wrong or odd."""
    write_pairs(folder)
    images, hints, captions = (folder / kind for kind in ("images", "hints", "captions"))
    second, listed = [images / "1.png", hints / "1.png"], folder / "prompt.json"
    outside = '{"source": "../../a.png", "target": "images/1.png"}'
    changes: dict[str, Callable[[], object]] = {
        "empty": lambda: remove([images, hints, captions]),
        "no pictures": lambda: remove(files(images, hints)),
        "no hints folder": lambda: remove([hints]),
        "unpaired picture": lambda: remove([hints / "3.png"]),
        "unpaired hint": lambda: remove([images / "3.png"]),
        "unreadable": lambda: (images / "2.png").write_bytes(b"no picture"),
        "cut short": lambda: (hints / "2.png").write_bytes((hints / "2.png").read_bytes()[:60]),
        "empty file": lambda: (images / "2.png").write_bytes(b""),
        "a web page": lambda: (images / "2.png").write_text("<html>not found</html>"),
        "other aspect": lambda: draw([hints / "1.png"], (64, 32)),
        "two of one name": lambda: draw([images / "1.jpg"], PICTURE),
        "caption in latin-1": lambda: (captions / "1.txt").write_bytes("café".encode("latin-1")),
        "broken list": lambda: listed.write_text('{"source": "hints/1.png", "tar'),
        "list of missing files": lambda: listed.write_text('{"source": "a.png", "target": "b.png"}'),
        "list that leaves the folder": lambda: listed.write_text(outside),
        "one pair": lambda: remove(path for path in files(images, hints) if path.stem != "1"),
        "missing captions": lambda: remove([captions]),
        "small pictures": lambda: draw(files(images, hints), (16, 16)),
        "huge picture": lambda: draw(second, (9000, 9000), "1"),
        "strange names": lambda: rename(second, "a ü 円 🙂.x.png"),
    }
    changes[name]()


ERRORS = {
    "empty": "no images with hints",
    "no pictures": "no pair",
    "no hints folder": "hints",
    "unpaired picture": "3.png",
    "unpaired hint": "3.png",
    "unreadable": "2.png",
    "cut short": "2.png",
    "empty file": "2.png",
    "a web page": "2.png",
    "other aspect": "1.png",
    "two of one name": "1.jpg",
    "caption in latin-1": "1.txt",
    "broken list": "line 1",
    "list of missing files": "b.png",
    "list that leaves the folder": "line 1",
}
WARNINGS = {
    "one pair": "1 pair",
    "missing captions": "caption",
    "small pictures": "enlarged|smaller",
    "huge picture": "pixels",
    "strange names": "6 pairs",
}


def look(folder: Path) -> Graph:
    """A graph that looks at a folder."""
    inputs = {"source": "folder", "source.folder": "input/pairs", "source.hint": "files", "source.size": 64}
    return {
        "1": {"class_type": "ControlNetCoreDataset", "inputs": inputs},
        "2": {"class_type": "Capture", "inputs": {"name": "report", "value": ["1", 2]}},
        "3": {"class_type": "Capture", "inputs": {"name": "preview", "value": ["1", 1]}},
    }


@pytest.mark.parametrize("name", ERRORS)
def test_broken_data_is_told_before_any_training(host: Host, folder: Path, name: str) -> None:
    spoil(name, folder)
    with pytest.raises(GraphError, match=ERRORS[name]) as raised:
        host.run(look(folder))
    print(f"\n{name}:\n{raised.value}")
    assert any("Problems" in text for _, text in host.server.texts)


def test_a_folder_is_read_once_while_it_is_the_same(
    host: Host, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_pairs(folder)
    datasets, looked = host.bridge("training.datasets"), list[tuple[object, ...]]()
    examine = datasets.examine

    def examined(*given: object) -> object:
        looked.append(given)
        return examine(*given)

    monkeypatch.setattr(datasets, "examine", examined)
    monkeypatch.setattr(datasets, "runs_path", lambda: tmp_path)
    reports = []
    for _ in range(2):
        reports.append(host.run(look(folder))["report"])
        host.executor.reset()  # as after a restart
    assert len(looked) == 1 and reports[0] == reports[1]
    (kept,) = (tmp_path / "cache" / "reports").iterdir()
    kept.write_text('{"pairs": "none"}')
    assert host.run(look(folder))["report"] == reports[0] and len(looked) == 2, "a broken report is made again"
    host.executor.reset()
    (folder / "captions" / "1.txt").write_text("another caption")
    host.run(look(folder))
    assert len(looked) == 3


@pytest.mark.parametrize("name", WARNINGS)
def test_odd_data_is_reported(host: Host, folder: Path, name: str) -> None:
    spoil(name, folder)
    given = host.run(look(folder))
    print(f"\n{name}:\n{given['report']}")
    assert re.search(WARNINGS[name], given["report"])
    assert given["preview"].ndim == 4


def test_a_changed_file_is_noticed(host: Host, folder: Path) -> None:
    write_pairs(folder)
    first = host.run(look(folder))["report"]
    for kind in ("images", "hints"):
        Image.new("RGB", PICTURE).save(folder / kind / "new.png")
    assert host.run(look(folder))["report"] != first


def test_lists_of_comfyuis_own_nodes_are_one_dataset(host: Host, folder: Path) -> None:
    write_pairs(folder, count=5)
    for number in range(5):
        shutil.copy(folder / "captions" / f"{number}.txt", folder / "images")
    training = Training(steps=2)
    pictures = training.add("LoadImageTextDataSetFromFolder", folder="pairs/images")
    hints = training.add("LoadImageDataSetFromFolder", folder="pairs/hints")
    training.graph["2"]["inputs"] = {
        "source": "images",
        "source.images": [pictures, 0],
        "source.hints": [hints, 0],
        "source.captions": [pictures, 1],
        "source.hint": "images",
    }
    training.capture("dataset", ["2", 0])
    given = host.run(training.graph)
    pairs = given["dataset"].source
    assert sorted(pairs[index].caption for index in range(len(pairs))) == [f"picture {number}" for number in range(5)]
    for index in range(len(pairs)):
        shade = (40 * int(pairs[index].caption.split()[1]) % 256, 100, 200)
        assert [round(255 * value) for value in pairs[index].image[:, 0, 0].tolist()] == list(shade)
    told = [text for _, text in host.server.texts if "pairs of" in text]
    began = [text for _, text in host.server.texts if text == "reading the base"]
    assert told == ["5 pairs of 64 x 64 pixels"] and len(began) == 1, "one dataset, and one training"
    assert len(given["loss_map"]["loss"]) == 2
    single = training.add("RandomImages", seed=3, width=64, height=64, count=1)
    training.graph["2"]["inputs"]["source.hints"] = [single, 0]
    with pytest.raises(GraphError, match="1 hint for 5 pictures"):
        host.run(training.graph)


def test_pictures_of_the_graph_are_trained_on(host: Host) -> None:
    training = Training()
    shapes = training.add("ControlNetCoreShapes", seed=1, count=4, hint="outline")
    training.graph["2"]["inputs"] = {
        "source": "images",
        "source.images": [shapes, 1],
        "source.hints": [shapes, 0],
        "source.captions": "a shape",
        "source.hint": "images",
    }
    given = host.run(training.graph)
    assert "came from the graph" in given["settings"] and Path(given["path"]).is_file()
    training.graph["2"]["inputs"] |= {"source.hint": "canny", "source.captions": "a\nb"}
    with pytest.raises(GraphError, match="2 captions for 4 pictures"):
        host.run(training.graph)
