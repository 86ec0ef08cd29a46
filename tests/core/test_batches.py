"""Keyed draws: prompts dropped at the share asked for and anew each epoch, every pair once an epoch, no memory."""

from __future__ import annotations

import pytest
import torch

from controlnet_core.training.batches import Draws, StepDraws
from controlnet_core.training.settings import checked

PAIRS, EPOCHS, BATCH = 200, 100, 16  # an epoch is 12.5 steps


def make(pairs: int = PAIRS, batch_size: int = BATCH, **settings: float | str) -> StepDraws:
    return StepDraws(checked({"batch_size": batch_size, **settings}, "a test"), pairs, (2, 3, 5), timesteps=1000)


def same(a: Draws, b: Draws) -> bool:
    fields = ((a.timesteps, b.timesteps), (a.noise, b.noise), (a.posterior, b.posterior))
    return a.pairs == b.pairs and a.dropped == b.dropped and all(torch.equal(one, other) for one, other in fields)


def test_twenty_thousand_slots() -> None:
    draws = make()
    steps = [draws.at(step) for step in range(PAIRS * EPOCHS // BATCH)]
    pairs = torch.tensor([pair for step in steps for pair in step.pairs]).reshape(EPOCHS, PAIRS)
    coins = torch.tensor([coin for step in steps for coin in step.dropped]).reshape(EPOCHS, PAIRS)
    assert torch.equal(pairs.sort(dim=1).values, torch.arange(PAIRS).expand(EPOCHS, -1)), "each pair once an epoch"
    assert all(not torch.equal(pairs[0], order) for order in pairs[1:]), "an epoch in the order of the first"

    share = coins.float().mean().item()
    assert abs(share - 0.5) <= 0.01, f"{share:.4f} of the prompts dropped"
    dropped = torch.zeros(EPOCHS, PAIRS, dtype=torch.bool).scatter(1, pairs, coins)
    assert dropped.any(dim=0).all() and not dropped.all(dim=0).any(), "a pair that is always kept, or always dropped"
    agreement = (dropped[1:] == dropped[:-1]).float().mean().item()
    assert abs(agreement - 0.5) <= 0.02, f"{agreement:.4f} of the drops are those of the epoch before"

    timesteps = torch.cat([step.timesteps for step in steps])
    assert timesteps.unique().tolist() == list(range(1000)), "not the whole schedule"
    for name, normal in (("noise", [s.noise for s in steps]), ("posterior", [s.posterior for s in steps])):
        deviation, mean = torch.std_mean(torch.cat(normal))
        assert abs(mean) < 0.01 and abs(deviation - 1) < 0.01, f"{name}: mean {mean}, standard deviation {deviation}"


@pytest.mark.parametrize(("share", "expected"), [(0.0, {False}), (1.0, {True})])
def test_no_prompt_and_every_prompt_dropped(share: float, expected: set[bool]) -> None:
    draws = make(prompt_drop=share)
    assert {coin for step in range(20) for coin in draws.at(step).dropped} == expected


@pytest.mark.parametrize(("pairs", "batch_size"), [(10, 3), (3, 7), (1, 2)])
def test_every_epoch_visits_every_pair_once_whatever_the_batch(pairs: int, batch_size: int) -> None:
    draws = make(pairs, batch_size)
    row = [pair for step in range(4 * pairs) for pair in draws.at(step).pairs]
    for start in range(0, len(row) - pairs + 1, pairs):
        assert sorted(row[start : start + pairs]) == list(range(pairs))


def test_a_step_does_not_depend_on_the_steps_drawn_before() -> None:
    used, steps = make(), (30, 3, 29, 0, 12, 30)  # forth and back over the ends of epochs
    for step in steps:
        assert same(used.at(step), make().at(step)), f"step {step}"
    assert not same(used.at(30), used.at(29)) and not same(used.at(30), make(seed=1).at(30))


def test_a_slot_does_not_depend_on_the_slots_beside_it() -> None:
    narrow, wide = make(batch_size=2).at(7), make(batch_size=5).at(7)
    assert narrow.dropped == wide.dropped[:2]
    for a, b in zip(
        (narrow.timesteps, narrow.noise, narrow.posterior), (wide.timesteps, wide.noise, wide.posterior), strict=True
    ):
        assert torch.equal(a, b[:2])
    assert not torch.equal(wide.noise[0], wide.noise[1]) and not torch.equal(wide.noise, wide.posterior)


def test_cubic_timesteps_are_drawn_more_often_the_noisier_they_are() -> None:
    timesteps = torch.cat([make(timestep_density="cubic").at(step).timesteps for step in range(1250)])
    assert timesteps.min() >= 0 and timesteps.max() == 999
    # t = (1 - u**3) T is below a share s of T where u > (1 - s) ** (1 / 3).
    for share in (0.1, 0.5, 0.9):
        found = (timesteps < 1000 * share).float().mean().item()
        assert abs(found - (1 - (1 - share) ** (1 / 3))) < 0.01, f"{found:.3f} of the timesteps below {share}"


def test_offset_noise_shifts_each_channel_as_a_whole_and_changes_no_other_draw() -> None:
    offset, plain = make(offset_noise=0.3), make()
    shifts = []
    for step in range(500):
        drawn, wanted = offset.at(step), plain.at(step)
        assert drawn.pairs == wanted.pairs and drawn.dropped == wanted.dropped
        assert torch.equal(drawn.timesteps, wanted.timesteps) and torch.equal(drawn.posterior, wanted.posterior)
        shifts.append(drawn.noise - wanted.noise)
    shift = torch.cat(shifts)
    assert float(shift.std((2, 3)).max()) < 1e-6, "not the same in the whole channel"
    deviation, mean = torch.std_mean(shift.mean((2, 3)))
    assert abs(mean) < 0.01 and abs(deviation - 0.3) < 0.01, f"mean {mean}, standard deviation {deviation}"
