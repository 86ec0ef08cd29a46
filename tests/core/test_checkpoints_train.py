"""Checkpoints as they are downloaded train: every family in every dtype, from Python and from the command."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file
from torch import Tensor

from controlnet_core.base import Base, TextEmbeddings
from controlnet_core.cli import main
from controlnet_core.control.stack import Control
from controlnet_core.data.cache import encode_dataset
from controlnet_core.data.folder.folder_dataset import FolderDataset
from controlnet_core.errors import CheckpointError
from controlnet_core.model.autoencoder import LatentDistribution
from controlnet_core.model.controlnet import ControlNet
from controlnet_core.sampling.generate import SamplingSettings, generate
from controlnet_core.toy.shapes_dataset import ShapesDataset
from controlnet_core.training.job import ShapesData
from controlnet_core.training.open_data import FILE_HASHES, open_data
from controlnet_core.training.run import train
from controlnet_core.training.settings import TrainSettings
from controlnet_core.weights.load import load_controlnet
from controlnet_core.weights.load_base import load_base
from tests.support.base_files import write_small_base
from tests.support.bases import SmallBase, small_base
from tests.support.reduced import difference, noise, randomised
from tests.support.reduced_files import FAMILIES, ZERO_SNR, rewrite, write_reduced_base

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
ROUNDING = {torch.float32: 0.0, torch.float16: 2**-7, torch.bfloat16: 2**-4}
"""How far a whole model in a dtype may be from the same in float32: eight of its roundings."""
VALUES: dict[str, Any] = {
    "steps": 3,
    "batch_size": 1,
    "learning_rate": 1e-3,
    "device": "cpu",
    "evaluation": {"every": 3, "hints": 1, "sampling_steps": 1, "guidance": 1},
}
DATA = ShapesData(count=2, size=64)
PAIRS = ShapesDataset(40, 32, seed=3)
OUTPUT = "first_stage_model.quant_conv.bias"
EMBEDDING = "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"

pytestmark = pytest.mark.filterwarnings("ignore:.*ComfyUI's loader takes it")


def trained(base: Base, out: Path) -> list[float]:
    """Train for three steps; their losses."""
    settings = TrainSettings(**VALUES, out=out)
    reports = train(settings, base, *open_data(DATA, settings, base))
    return [report.loss for report in reports if report.loss is not None]


def trained_by_command(path: Path, out: Path) -> list[float]:
    """The same by the command `train`."""
    changes = {**VALUES, **{f"data.{name}": value for name, value in DATA.model_dump(exclude={"seed"}).items()}}
    evaluation = changes.pop("evaluation")
    changes |= {f"evaluation.{name}": value for name, value in evaluation.items()}
    settings = out.with_suffix(".toml")
    settings.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in changes.items()))
    assert main(["train", str(settings), "--base", str(path), "--out", str(out)]) == 0
    (metrics,) = out.glob("*/metrics.jsonl")
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    return [line["loss"] for line in lines if line.get("loss") is not None]


def cached(out: Path, name: str) -> numpy.ndarray:
    """An array of all records of its kind in a run's cache."""
    (path,) = out.glob("cache/latents-*/*" if name == "latents" else "cache/texts-*/*")
    array: numpy.ndarray = load_file(path)[name].astype(numpy.float32)
    return array


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_trains_in_every_dtype(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    path = write_reduced_base(tmp_path, name, dtype)
    base = load_base(path)
    assert base.dtype == dtype and base.prediction == FAMILIES[name].prediction
    assert (base.schedule.sigmas[-1] > 4518) == (name == ZERO_SNR)
    assert {weight.dtype for weight in base.autoencoder.parameters()} == {torch.float32}
    own, command = tmp_path / "own", tmp_path / "command"
    losses, wanted = trained(base, own), trained_by_command(path, command)
    assert numpy.array_equal(cached(own, "latents"), cached(command, "latents"))
    contexts, full = cached(own, "context"), cached(command, "context")
    text = float(numpy.abs(contexts - full).max() / numpy.abs(full).max())
    loss = max(abs(one / other - 1) for one, other in zip(losses, wanted, strict=True))
    print(f"\n{name} in {dtype}: losses {losses}, {loss:.1e} from the command's; texts {text:.1e}")
    assert len(losses) == 3 and max(loss, text) <= ROUNDING[dtype]
    (run,), (other,) = own.glob("*/controlnet.safetensors"), command.glob("*/controlnet.safetensors")
    assert (run.parent.name == other.parent.name) == (dtype == torch.float32), "the compute dtype has a say"
    net = load_controlnet(run)
    assert net.dtype == torch.float32 and all(weight.isfinite().all() for weight in net.parameters())
    assert any(weight.any() for weight in net.middle_zero_convolution.parameters()), "nothing was trained"


def test_a_file_of_several_dtypes_is_loaded_in_that_of_most_of_its_unet(tmp_path: Path) -> None:
    path = write_reduced_base(tmp_path, "SD1.5", torch.float16)
    whole = load_base(path)
    norm = "model.diffusion_model.out.0.weight"
    wide = {norm: torch.full((32,), 1.0), EMBEDDING: randomised(torch.nn.Embedding(514, 64)).weight.detach()}
    rewrite(path, wide)
    base = load_base(path)
    for module in (base.unet, *base.text_encoders):
        assert {weight.dtype for weight in module.parameters()} == {torch.float16}
    assert {weight.dtype for weight in base.autoencoder.parameters()} == {torch.float32}
    assert base.fingerprint != whole.fingerprint
    assert len(trained(base, tmp_path / "runs")) == 3


def test_the_autoencoder_keeps_its_dtype() -> None:
    base = small_base().to(dtype=torch.float16)
    assert base.dtype == torch.float16
    pictures = noise(2, 3, 32, 32, seed=1).sigmoid()
    latents, wanted = base.encode_images(pictures).mean, small_base().encode_images(pictures).mean
    assert torch.equal(latents, wanted)
    assert torch.equal(base.decode_latents(latents), small_base().decode_latents(wanted))


def test_one_base_in_two_dtypes_has_one_set_of_latents_and_two_of_texts(tmp_path: Path) -> None:
    path = write_reduced_base(tmp_path, "SD1.5", torch.float16)
    half, full = load_base(path), load_base(path, dtype=torch.float32)
    assert half.fingerprint == full.fingerprint
    first = encode_dataset(half, PAIRS, tmp_path / "both").text([0], [False])
    second = encode_dataset(full, PAIRS, tmp_path / "both").text([0], [False])
    kinds = sorted(path.name.split("-")[0] for path in (tmp_path / "both").iterdir())
    assert kinds == ["latents", "texts", "texts"]
    alone = encode_dataset(full, PAIRS, tmp_path / "alone").text([0], [False])
    assert torch.equal(second.context, alone.context) and not torch.equal(first.context, second.context)


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
def test_a_net_in_float32_steers_a_base_in_half_precision(dtype: torch.dtype, tmp_path: Path) -> None:
    path = write_small_base(tmp_path)
    half, full = (load_base(path, dtype=computed) for computed in (dtype, torch.float32))
    net, settings = randomised(ControlNet(full.unet.config)), SamplingSettings(steps=2, guidance=1, size=(64, 64))
    control = Control(net, noise(1, 3, 64, 64, seed=2).sigmoid(), strength=0.1)
    drawn, wanted = (generate(base, "a", [control], settings=settings) for base in (half, full))
    plain = generate(full, "a", settings=settings)
    found, without = difference(drawn, wanted), difference(plain, wanted)
    print(f"\n{dtype}: {found:.1e} from float32, without control {without:.1e}")
    assert drawn.dtype == torch.float32 and without > 2 * found


@dataclass(frozen=True, eq=False)
class Overflowing(SmallBase):
    """A base whose autoencoder overflows on the wrong pictures, and whose text encoder does on the wrong captions."""

    pictures: tuple[Tensor, ...] = ()
    captions: tuple[str, ...] = ()

    def encode_images(self, images: Tensor) -> LatentDistribution:
        """Encode; a wrong picture gives more than float16 holds."""
        encoded = super().encode_images(images)
        wrong = torch.tensor([any(torch.equal(one, image) for one in self.pictures) for image in images])
        return replace(encoded, mean=encoded.mean + 1e5 * wrong[:, None, None, None])

    def encode_text(self, prompts: Sequence[str], size: tuple[int, int]) -> TextEmbeddings:
        """Encode; a wrong caption gives NaN."""
        text = super().encode_text(prompts, size)
        wrong = torch.tensor([prompt in self.captions for prompt in prompts])
        return TextEmbeddings(text.context.masked_fill(wrong[:, None, None], float("nan")))


@pytest.mark.parametrize("number", [0, 20, 39])
def test_a_picture_that_overflows_is_named_and_nothing_is_cached(number: int, tmp_path: Path) -> None:
    base = Overflowing(**vars(small_base()), pictures=(PAIRS[number].image,))
    with pytest.raises(CheckpointError, match=rf"latents of pair {number} that are not finite in float16"):
        encode_dataset(base, PAIRS, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("caption", ["", PAIRS[25].caption])
def test_a_caption_that_overflows_is_named_and_nothing_is_cached(caption: str, tmp_path: Path) -> None:
    base = Overflowing(**vars(small_base()), captions=(caption,))
    with pytest.raises(CheckpointError, match=f"embedding of the caption '{caption}' that is not finite"):
        encode_dataset(base, PAIRS, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("dtype", "value"), [(torch.float16, float("inf")), (torch.float32, float("nan")), (torch.bfloat16, 1e30)]
)
def test_an_autoencoder_that_overflows_is_refused_with_its_file_and_the_picture(
    dtype: torch.dtype, value: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_small_base(tmp_path)
    rewrite(path, {OUTPUT: torch.full((8,), value, dtype=dtype)})
    (tmp_path / "data" / "images").mkdir(parents=True)
    for number in range(2):
        gradient = Image.linear_gradient("L").resize((64, 64)).rotate(90 * number).convert("RGB")
        gradient.save(tmp_path / "data" / "images" / f"{number}.png")
        (tmp_path / "data" / "images" / f"{number}.txt").write_text("a")
    base, out = load_base(path), tmp_path / "runs"
    settings = TrainSettings(**VALUES, out=out)
    picture = tmp_path / "data" / "images" / "0.png"
    with pytest.raises(CheckpointError) as refused:
        list(train(settings, base, FolderDataset(tmp_path / "data", 64, "blur")))
    assert str(picture) in refused.value.found and str(path) in refused.value.found
    assert not list((out / "cache").iterdir())
    file = tmp_path / "run.toml"
    data = json.dumps(str(tmp_path / "data"))
    file.write_text(f'device = "cpu"\n[data]\nkind = "folder"\nhint = "blur"\nsize = 64\npath = {data}\n')
    assert main(["train", str(file), "--base", str(path), "--out", str(out)]) == 1
    assert f"error: {refused.value}" in capsys.readouterr().err
    assert [path.name for path in (out / "cache").iterdir()] == [FILE_HASHES]
