"""What no tensor says: pooled residuals of shuffle nets, masked pixels of inpainting nets, channels of hints."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image
from torch import Tensor

from controlnet_core.cli.control_options import add_control_options, loaded_controls, named_controls, read_hints
from controlnet_core.cli.parser import Parser
from controlnet_core.config import TINY
from controlnet_core.control.hint import MASKED, fit_hint, read_hint
from controlnet_core.control.stack import Control, ControlStack
from controlnet_core.control.step import StepInput
from controlnet_core.errors import CheckpointError, HintError
from controlnet_core.model.controlnet import ControlNet
from controlnet_core.model.residuals import Residuals
from controlnet_core.pictures.read import load_image
from controlnet_core.schedule import NoiseSchedule
from controlnet_core.weights.load import load_controlnet
from controlnet_core.weights.load_base import load_base
from controlnet_core.weights.save import save_controlnet
from tests.support.reduced import noise, randomised

SCHEDULE = NoiseSchedule.scaled_linear()
PIXELS = numpy.random.default_rng(0).integers(0, 256, (64, 64, 4), dtype=numpy.uint8)


def net(pooled: bool = False, hint_channels: int = 3) -> ControlNet:
    return randomised(ControlNet(TINY, hint_channels, pooled=pooled), seed=1).train(False)


def put(folder: Path, stated: object = None, name: str = "net.safetensors") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_controlnet(net(), folder / name)
    if stated is not None:
        (folder / "config.json").write_text(json.dumps({"global_pool_conditions": stated}))
    return folder / name


DIFFUSERS = "diffusion_pytorch_model.fp16.safetensors"


@pytest.mark.parametrize(
    ("make", "pooled"),
    [
        (lambda folder: put(folder), False),
        (lambda folder: put(folder, name="control_v11e_sd15_shuffle.safetensors"), True),
        (lambda folder: put(folder, name="Shuffle_fp16-pruned.safetensors"), True),
        (lambda folder: put(folder, True), False),  # a config.json that is not this file's
        (lambda folder: put(folder, True, DIFFUSERS), True),
        (lambda folder: put(folder, True, "diffusion_pytorch_model.safetensors").parent, True),
        (lambda folder: put(folder / "my_shuffle", None, DIFFUSERS), True),
        (lambda folder: put(folder / "my_shuffle", False, DIFFUSERS), False),
        (lambda folder: put(folder / "my_shuffle"), False),
    ],
)
def test_pooling_is_told_by_config_or_name(make: Callable[[Path], Path], pooled: bool, tmp_path: Path) -> None:
    path = make(tmp_path)
    assert load_controlnet(path).pooled is pooled
    for said in (True, False):
        assert load_controlnet(path, pooled=said).pooled is said


def test_a_pooled_net_stays_one_when_it_is_saved(tmp_path: Path) -> None:
    for layout in ("ldm", "diffusers"):
        for pooled in (True, False):
            save_controlnet(net(pooled), tmp_path / "net.safetensors", layout=layout)
            assert load_controlnet(tmp_path / "net.safetensors").pooled is pooled


def test_a_broken_config_is_named(tmp_path: Path) -> None:
    path = put(tmp_path, True, DIFFUSERS)
    (tmp_path / "config.json").write_text("[" * 99_999)
    with pytest.raises(CheckpointError, match=r"config\.json, which cannot be read"):
        load_controlnet(path)


def residuals(*controls: Control) -> Residuals:
    step = StepInput(
        x=noise(1, 4, 8, 8, seed=2).repeat(2, 1, 1, 1),
        timesteps=torch.full((2,), 500.0),
        context=noise(1, 5, 128, seed=3).repeat(2, 1, 1),
        y=None,
        sigma=2.0,
        sides=("unconditional", "conditional"),
    )
    stack = ControlStack(controls, SCHEDULE, torch.tensor([10.0, 2.0, 0.0]), (1, 4, 8, 8))
    found = stack.residuals(step)
    assert found is not None
    return found


def tensors(found: Residuals) -> list[Tensor]:
    assert found.middle is not None
    return [*found.skips, found.middle]


@torch.no_grad()
def test_pooled_residuals_are_means_on_the_conditional_side() -> None:
    hint = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    plain, pooled = residuals(Control(net(), hint)), residuals(Control(net(pooled=True), hint))
    for whole, mean in zip(tensors(plain), tensors(pooled), strict=True):
        assert not mean[0].any()
        assert (mean[1] - whole[1].mean(dim=(1, 2), keepdim=True)).abs().max() < 1e-5
    both = residuals(Control(net(pooled=True), hint, side="both"))
    assert all(tensor[0].any() for tensor in tensors(both))
    mask = torch.zeros(64, 64)
    mask[:, 32:] = 1
    masked = residuals(Control(net(pooled=True), hint, mask=mask))
    for whole, part in zip(tensors(pooled), tensors(masked), strict=True):
        half = whole.shape[-1] // 2
        assert torch.equal(part[..., half:], whole[..., half:]) and not part[..., :half].any()


@torch.no_grad()
def test_masked_pixels_stay_masked() -> None:
    hint = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    hint[..., 16:32, 16:40] = MASKED
    for given in (hint, hint[0].movedim(0, -1).numpy()):
        assert torch.equal(read_hint(given), hint)
    for size in (32, 128, 96):
        fitted = fit_hint(hint, size, size)
        masked = fitted == MASKED
        assert torch.equal(masked.all(1), masked.any(1)) and ((fitted >= 0) | masked).all()
        share = masked.float().mean() * 64 * 64
        assert abs(share - 16 * 24) < 60, share
    found, without = (tensors(residuals(Control(net(), pixels))) for pixels in (hint, hint.clamp(0)))
    assert max(float((a - b).abs().max()) for a, b in zip(found, without, strict=True)) > 1e-4


@pytest.mark.parametrize("value", [-0.5, -1.5])
def test_other_negative_pixels_are_an_error(value: float) -> None:
    hint = torch.rand(1, 3, 64, 64)
    hint[..., :8, :8] = value
    with pytest.raises(HintError, match="values from 0 to 1"):
        read_hint(hint)
    hint[..., :8, :8] = torch.tensor([MASKED, 0.5, 0.5])[:, None, None]  # a colour, no masked pixel
    with pytest.raises(HintError, match="values from 0 to 1"):
        read_hint(hint)


def test_pictures_are_read_for_nets_of_one_and_four_channels(tmp_path: Path) -> None:
    for mode in ("RGBA", "RGB", "L"):
        Image.fromarray(PIXELS, "RGBA").convert(mode).save(tmp_path / f"{mode}.png")
    grey = numpy.array(Image.fromarray(PIXELS[..., :3]).convert("L"))
    whole = torch.from_numpy(PIXELS).movedim(-1, 0)[None] / 255
    assert torch.equal(load_image(tmp_path / "RGBA.png", 4), whole)
    assert torch.equal(read_hint(Image.open(tmp_path / "RGBA.png"), 4), whole)
    assert torch.equal(load_image(tmp_path / "RGB.png", 1)[0, 0], torch.from_numpy(grey) / 255)
    assert torch.equal(read_hint(Image.open(tmp_path / "RGB.png"), 1)[0, 0], torch.from_numpy(grey) / 255)
    assert load_image(tmp_path / "L.png", 4).shape == (1, 4, 64, 64)
    with pytest.raises(HintError, match=r"RGB\.png with 3 channels; expected an image with 4 channels"):
        load_image(tmp_path / "RGB.png", 4)
    with pytest.raises(HintError, match="4 channels"):
        read_hint(Image.open(tmp_path / "RGB.png"), 4)


def parsed(*words: str) -> argparse.Namespace:
    parser = Parser()
    add_control_options(parser)
    return parser.parse_args(words)


def test_the_command_reads_what_each_net_wants(tmp_path: Path) -> None:
    for channels in (1, 3, 4):
        save_controlnet(net(hint_channels=channels), tmp_path / f"{channels}.safetensors")
    Image.fromarray(PIXELS, "RGBA").save(tmp_path / "hint.png")
    mask = Image.new("L", (64, 64))
    mask.paste(255, (16, 16, 40, 32))
    mask.save(tmp_path / "mask.png")
    nets = [word for n in (1, 3, 4) for word in ("--control", str(tmp_path / f"{n}.safetensors"))]
    given = [*nets, "--hint", str(tmp_path / "hint.png"), "--inpaint", str(tmp_path / "mask.png")]
    named = named_controls(parsed(*given, "--pooled", "no", "--pooled", "yes", "--pooled", "no"))
    hints = read_hints(named)
    assert [hint.shape[1] for hint in hints] == [1, 3, 4]
    for hint in hints:
        assert (hint[..., 16:32, 16:40] == MASKED).all() and (hint == MASKED).float().mean() == 16 * 24 / 64**2
    controls = loaded_controls(named, hints, load_base("tiny"))
    assert [control.net.pooled for control in controls] == [False, True, False]
    assert named[1].as_json()["pooled"] == "yes" and named[1].as_json()["inpaint"].endswith("mask.png")
    mask.resize((32, 32)).save(tmp_path / "mask.png")
    with pytest.raises(HintError, match=r"mask\.png of 32 x 32 pixels; expected 64 x 64 pixels"):
        read_hints(named)
