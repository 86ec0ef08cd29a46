"""What a base predicts and at which noise levels is told by its file or folder, as ComfyUI's loader tells it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from safetensors.torch import load_file, save_file
from torch import Tensor

from controlnet_core.errors import CheckpointError
from controlnet_core.model.autoencoder import Autoencoder
from controlnet_core.model.text_encoder import TextEncoder
from controlnet_core.model.unet import UNet
from controlnet_core.schedule import NoiseSchedule
from controlnet_core.weights.inspection import inspect_checkpoint
from controlnet_core.weights.load_base import BaseWarning, load_base, load_base_parts
from controlnet_core.weights.parts.parametrisation import folder_parametrisation
from controlnet_core.weights.save import save_base
from tests.support.reduced import REDUCED, randomised

PLAIN = NoiseSchedule.scaled_linear()
TOP, ZERO_SNR_TOP = 14.614642, 4518.7634
"""The largest sigmas of ComfyUI's ModelSamplingDiscrete."""
EPS, V, V_ZERO_SNR = ("eps", TOP), ("v", TOP), ("v", ZERO_SNR_TOP)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Tensor]]:
    """The tensors of a small base of each family."""
    # Widths by which a file without metadata is told.
    sizes: dict[str, dict[str, Any]] = {
        "SD1.5": {"context_dim": 64},
        "SD2.1": {"context_dim": 1024, "head_channels": 64},
        "SDXL": {"head_channels": 64},
    }
    written = {}
    for name, family in REDUCED.items():
        family = replace(family, unet=replace(family.unet, **sizes[name]))
        path = tmp_path_factory.mktemp("bases") / "base.safetensors"
        texts = [randomised(TextEncoder(config)).state_dict() for config in family.text_encoders]
        unet, autoencoder = randomised(UNet(family.unet)), randomised(Autoencoder(family.autoencoder))
        save_base(
            path, family, unet=unet.state_dict(), autoencoder=autoencoder.state_dict(), text_encoders=texts, dtype=None
        )
        written[name] = load_file(path)
    return written


def measured(spread: float) -> dict[str, Tensor]:
    """The tensor by which SD2's two kinds are told, with a standard deviation."""
    key = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias"
    return {key: spread * torch.tensor([-1.0, 1.0]).repeat(16)}


def markers(*names: str) -> dict[str, Tensor]:
    """Marker keys, as published files hold them."""
    return {name: torch.tensor([]) for name in names}


STATED_V, STATED_EPS = {"modelspec.prediction_type": "v"}, {"modelspec.prediction_type": "epsilon"}
CASES: dict[str, tuple[str, dict[str, Tensor], dict[str, str], tuple[str, float], str]] = {
    "nothing said": ("SDXL", {}, {}, EPS, ""),
    "v": ("SDXL", markers("v_pred"), {}, V, ""),
    "v without signal": ("SDXL", markers("v_pred", "ztsnr"), {}, V_ZERO_SNR, ""),
    "without v": ("SDXL", markers("ztsnr"), {}, EPS, "holds ztsnr"),
    "metadata": ("SDXL", {}, STATED_V, V, "put ModelSamplingDiscrete"),
    "metadata and a marker": ("SDXL", markers("ztsnr"), STATED_V, V_ZERO_SNR, "put ModelSamplingDiscrete"),
    "agreeing": ("SDXL", markers("v_pred", "ztsnr"), STATED_V, V_ZERO_SNR, ""),
    "against its markers": ("SDXL", markers("v_pred", "ztsnr"), STATED_EPS, EPS, "holds v_pred and ztsnr"),
    "markers of SDXL in SD1.5": ("SD1.5", markers("v_pred", "ztsnr"), {}, EPS, "holds v_pred and ztsnr"),
    "metadata of SD1.5": ("SD1.5", {}, STATED_V, V, "put ModelSamplingDiscrete"),
    "SD2 of little spread": ("SD2.1", measured(0.0899), {}, EPS, ""),
    "SD2 of more": ("SD2.1", measured(0.0901), {}, V, ""),
    "SD2 saved by ComfyUI": ("SD2.1", {**measured(0.1), **markers("v_pred", "ztsnr")}, {}, V, "holds ztsnr"),
    "a marker in SD2": ("SD2.1", {**measured(0.05), **markers("v_pred")}, {}, EPS, "holds v_pred"),
    "SD2 with metadata": ("SD2.1", measured(0.2), STATED_EPS, EPS, "predicts the noise, but"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_file(files: dict[str, dict[str, Tensor]], name: str, tmp_path: Path) -> None:
    family, tensors, metadata, (prediction, top), words = CASES[name]
    path = tmp_path / "base.safetensors"
    save_file({**files[family], **tensors}, path, metadata=metadata)
    parts = load_base_parts(path)
    assert parts.family.prediction == prediction
    assert float(parts.schedule.sigmas[-1]) == pytest.approx(top, rel=1e-6)
    assert float(parts.schedule.sigmas[0]) == pytest.approx(float(PLAIN.sigmas[0]), rel=1e-12)
    if family == "SD2.1":
        assert parts.family.image_size == (768 if prediction == "v" else 512)
    assert bool(parts.notes) == bool(words) and words in " ".join(parts.notes), parts.notes
    assert all(str(path) in note for note in parts.notes)


@pytest.mark.parametrize("keys", [("edm_mean", "edm_std"), ("edm_vpred.sigma_max", "edm_vpred.sigma_min", "v_pred")])
def test_continuous_noise_levels_are_refused(
    files: dict[str, dict[str, Tensor]], keys: tuple[str, ...], tmp_path: Path
) -> None:
    path = tmp_path / "base.safetensors"
    save_file({**files["SDXL"], **{key: torch.ones(4) for key in keys}}, path)
    with pytest.raises(CheckpointError, match=rf"base.safetensors with EDM's continuous .*{keys[0]}"):
        load_base_parts(path)
    report = inspect_checkpoint(path)
    assert not report.usable and keys[0] in report.notes[0]


def test_what_is_not_heeded_is_told_when_a_base_is_loaded(tmp_path: Path) -> None:
    own = Path(__file__).parents[2] / "controlnet_core" / "toy"
    path = tmp_path / "base.safetensors"
    stated = {"controlnet_core": json.dumps(json.loads(_metadata(own / "base.safetensors")) | {"prediction": "v"})}
    save_file({**load_file(own / "base.safetensors"), **markers("ztsnr")}, path, metadata=stated)
    with pytest.warns(BaseWarning) as told:
        base = load_base(path, tokenizer=own)
    assert base.prediction == "v" and base.schedule.sigmas.equal(PLAIN.sigmas)
    assert [words in str(one.message) for one, words in zip(told, ("put Model", "ztsnr"), strict=True)] == [True] * 2


def _metadata(path: Path) -> str:
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return str(header["__metadata__"]["controlnet_core"])


@pytest.mark.parametrize("rescaled", [False, True])
@pytest.mark.parametrize(
    "betas",
    [
        {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
        {"beta_schedule": "scaled_linear", "beta_start": 0.0015, "beta_end": 0.0195},
        {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02},
        {"trained_betas": torch.linspace(1e-3, 1e-2, 1000).tolist()},
    ],
)
def test_a_folder_has_the_schedule_of_diffusers(betas: dict[str, Any], rescaled: bool) -> None:
    reference = DDIMScheduler(**betas, prediction_type="v_prediction", rescale_betas_zero_snr=rescaled)
    told = folder_parametrisation(dict(reference.config), "folder")
    assert told.prediction == "v"
    ours, theirs = (table[:-1] for table in (told.schedule.alphas_cumprod, reference.alphas_cumprod.double()))
    # Near the end diffusers' float32 table of rescaled betas keeps three digits: it takes 1 - (1 - beta).
    worst = float((ours / theirs - 1).abs().max())
    assert worst < (2e-3 if rescaled else 2e-5), f"largest relative difference {worst:.1e}"
    assert (float(told.schedule.sigmas[-1]) > 4000) == rescaled


def test_a_folder_that_says_nothing_has_the_usual_schedule() -> None:
    told = folder_parametrisation({}, "folder")
    assert told.prediction == "eps" and told.schedule.alphas_cumprod.equal(PLAIN.alphas_cumprod)


@pytest.mark.parametrize(
    ("scheduler", "words"),
    [
        ({"_class_name": "EDMDPMSolverMultistepScheduler"}, "scheduler EDMDPMSolverMultistepScheduler"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}, "FlowMatchEuler"),
        ({"prediction_type": "sample"}, "predicts 'sample'"),
        ({"prediction_type": ["v"]}, r"predicts \['v'\]"),
        ({"beta_schedule": "squaredcos_cap_v2"}, "squaredcos_cap_v2"),
        ({"beta_start": "small"}, "small"),
        ({"beta_end": 1.5}, "does not fall"),
        ({"trained_betas": {"a": 1}}, "cannot be used"),
        ({"num_train_timesteps": -3}, "cannot be used"),
        ({"num_train_timesteps": 10**12}, "num_train_timesteps is 1000000000000"),
        ({"num_train_timesteps": float("inf")}, "cannot be used"),
        ({"beta_end": 10**400}, "cannot be used"),
    ],
)
def test_a_folder_that_cannot_be_trained_on_is_refused(scheduler: dict[str, Any], words: str) -> None:
    with pytest.raises(CheckpointError, match=words) as raised:
        folder_parametrisation(scheduler, "some folder")
    assert "some folder" in str(raised.value)
