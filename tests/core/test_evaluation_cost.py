"""By default evaluations take at most 5 % of the time of a training: counted at the real sizes, in operations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from controlnet_core.base import TextEmbeddings
from controlnet_core.config import FAMILIES
from controlnet_core.data.held_out import Subset
from controlnet_core.evaluation.hint_preference import MOMENTS, HintPreferenceValidation
from controlnet_core.evaluation.validation import drawing_cost
from controlnet_core.model.autoencoder import Autoencoder
from controlnet_core.model.controlnet import ControlNet
from controlnet_core.model.unet import UNet
from controlnet_core.objective import Batch, control_errors, control_loss
from controlnet_core.sampling.generate import SamplingSettings
from controlnet_core.schedule import NoiseSchedule
from controlnet_core.toy.shapes_dataset import ShapesDataset
from controlnet_core.training.settings import EvaluationSettings, TrainSettings
from tests.support.bases import small_base
from tests.support.reduced import noise, randomised

SCHEDULE = NoiseSchedule.scaled_linear()
TOKENS = 77


def operations(work: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        work()
    total: int = counter.get_total_flops()
    return total


def empty(*shape: int) -> Tensor:
    return torch.empty(*shape, device="meta")


@pytest.mark.parametrize("name", ["SD1.5", "SD2.1", "SDXL"])
def test_evaluations_take_at_most_a_twentieth_at_the_real_sizes(name: str) -> None:
    family, evaluation = FAMILIES[name], EvaluationSettings()
    config, side = family.unet, family.image_size // 8
    unet = UNet(config, device="meta").requires_grad_(False)
    net, autoencoder = ControlNet(config, device="meta"), Autoencoder(family.autoencoder, device="meta")
    y = None if config.vector_dim is None else empty(1, config.vector_dim)
    latents, hints = empty(1, config.in_channels, side, side), empty(1, 3, 8 * side, 8 * side)
    timesteps = torch.ones(1, dtype=torch.long, device="meta")
    pair = Batch(latents, latents, timesteps, hints, TextEmbeddings(empty(1, TOKENS, config.context_dim), y))
    trained = operations(lambda: control_loss(unet, net, pair, SCHEDULE, "eps").backward())
    with torch.no_grad():
        given = (latents, timesteps, pair.text.context, y)
        compared = operations(lambda: control_errors(unet, net, pair, SCHEDULE, "eps", [hints, hints]))
        hint = operations(lambda: net.embed_hint(hints))
        drawn = operations(lambda: unet(*given)) + operations(lambda: net(latents, hints, *given[1:])) - hint
        decoded = operations(lambda: autoencoder.decode(latents))
    sides = 1 if evaluation.guidance == 1 else 2
    pictures = evaluation.pictures * (drawn * evaluation.sampling_steps * sides + decoded + hint)
    taken = pictures + evaluation.hints * len(MOMENTS) * compared
    sampling = SamplingSettings(evaluation.sampling_steps, evaluation.guidance)
    held_out = Subset(ShapesDataset(evaluation.hints, 32, seed=0), range(evaluation.hints))
    validation = HintPreferenceValidation(small_base(), held_out, sampling, pictures=evaluation.pictures)
    for batch_size in (1, 4, 16):
        interval = TrainSettings(batch_size=batch_size).evaluation_interval(validation.cost)
        share = taken / (interval * batch_size * trained)
        print(f"\n{name}, batch {batch_size}: every {interval} steps, {share:.1%} of the time")
        assert 0.03 < share <= 0.05


def test_the_interval_follows_cost_and_batch_unless_it_is_set() -> None:
    assert TrainSettings(batch_size=1).evaluation_interval(100.0) == 2000
    assert TrainSettings(batch_size=4).evaluation_interval(100.0) == 500
    assert TrainSettings(batch_size=16).evaluation_interval(0.1) == 1
    assert TrainSettings(evaluation=EvaluationSettings(every=7)).evaluation_interval(100.0) == 7
    assert drawing_cost(2, SamplingSettings(steps=10, guidance=1.0)) < drawing_cost(2, SamplingSettings(steps=10))


def test_errors_with_several_hints_are_the_losses_of_each() -> None:
    base = small_base()
    net = randomised(ControlNet(base.unet.config), seed=3)
    hints = [noise(3, 3, 32, 32, seed=seed).sigmoid() for seed in (1, 2)]
    batch = Batch(
        noise(3, 4, 4, 4, seed=4),
        noise(3, 4, 4, 4, seed=5),
        torch.tensor([100, 500, 900]),
        hints[0],
        base.encode_text(["a", "b", "c"], (32, 32)),
    )
    found = control_errors(base.unet, net, batch, base.schedule, "eps", hints)
    for errors, pixels in zip(found, hints, strict=True):
        loss = control_loss(base.unet, net, replace(batch, hints=pixels), base.schedule, "eps")
        assert errors.shape == (3,) and abs(errors.mean() / loss.detach() - 1) < 1e-6
    assert not torch.allclose(found[0], found[1])
