"""On devices without float64, such as Apple's MPS and DirectML, nothing asks for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from controlnet_core import schedule
from controlnet_core.base import TextEmbeddings
from controlnet_core.config import LossWeighting, Prediction
from controlnet_core.model.controlnet import ControlNet
from controlnet_core.objective import Batch, control_loss
from controlnet_core.sampling.guidance import GuidedDenoiser
from controlnet_core.schedule import NoiseSchedule
from tests.support.bases import SmallBase, small_base

SCHEDULE = NoiseSchedule.scaled_linear()
DEVICE = torch.device("meta")
"""Stands for such a device: it computes shapes and dtypes only."""


class WithoutFloat64(TorchDispatchMode):
    """Refuses float64 on the device, as MPS does."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # torch's

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:  # noqa: ANN401 - torch's
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.device.type == DEVICE.type and tensor.dtype == torch.float64:
                raise TypeError(f"float64 on a device that has none, from {func}")
        return result


class OnDevice(SmallBase):
    """A base whose texts are on the device, as the others' are."""

    def encode_text(self, prompts: Sequence[str], size: tuple[int, int]) -> TextEmbeddings:
        """Encode prompts; the size has no say."""
        return super().encode_text(prompts, size).to(DEVICE, torch.float32)


def on_device() -> OnDevice:
    base = small_base()
    base.unet.to(DEVICE)
    base.autoencoder.to(DEVICE)
    return OnDevice(**vars(base))


def test_float64_is_refused_here() -> None:
    with WithoutFloat64(), pytest.raises(TypeError, match="float64 on a device that has none"):
        torch.ones(2, device=DEVICE).double()


@pytest.mark.parametrize("weighting", ["plain", "v", "min_snr"])
@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_a_step_of_training(prediction: Prediction, weighting: LossWeighting) -> None:
    base = on_device()
    net = ControlNet(base.unet.config, device=DEVICE)
    latents, noise = torch.ones(2, 2, 4, 4, 4, device=DEVICE)
    timesteps, hints = torch.ones(2, device=DEVICE, dtype=torch.long), torch.ones(2, 3, 32, 32, device=DEVICE)
    given = Batch(latents, noise, timesteps, hints, base.encode_text(["a", "b"], (32, 32)))
    optimizer = torch.optim.AdamW(net.parameters())
    with WithoutFloat64():
        loss = control_loss(base.unet, net, given, SCHEDULE, prediction, weighting)
        loss.backward()
        optimizer.step()
    assert loss.dtype == torch.float32 and loss.device == DEVICE


def test_a_step_of_sampling() -> None:
    base = on_device()
    text = base.encode_text(["a"], (32, 32))
    denoise = GuidedDenoiser(base.unet, SCHEDULE, "eps", text, text, guidance=7.5)
    with WithoutFloat64():
        drawn = denoise(torch.ones(1, 4, 4, 4, device=DEVICE), 2.0)
    assert drawn.dtype == torch.float32 and drawn.device == DEVICE


def test_single_precision_finds_the_same_noise_levels(monkeypatch: pytest.MonkeyPatch) -> None:
    timesteps = torch.tensor([0, 1, 250, 998, 999])
    sigmas, times = SCHEDULE.sigma(timesteps), SCHEDULE.timestep(SCHEDULE.sigmas[timesteps])
    monkeypatch.setattr(schedule, "HAVE_FLOAT64", ())
    found, found_times = SCHEDULE.sigma(timesteps), SCHEDULE.timestep(SCHEDULE.sigmas[timesteps])
    assert found.dtype == found_times.dtype == torch.float32
    assert float((found / sigmas - 1).abs().max()) < 1e-6
    assert float((found_times - times).abs().max()) < 1e-3
