"""What updates the weights: rounding by chance that is right on average, 8 bits that follow 32, and clear refusals."""

from __future__ import annotations

import sys
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from controlnet_core.errors import SettingError
from controlnet_core.training.memory import OptimizerName
from controlnet_core.training.optimizer import AT_ONCE, NetOptimizer, _portions, rounded_by_chance
from tests.support.bits import differing
from tests.support.reduced import noise, randomised


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_rounding_by_chance_gives_a_neighbour_and_is_exact_on_average() -> None:
    exact = torch.cat([noise(300, seed=0), 1e-30 * noise(100, seed=1), torch.tensor([0.0, -0.0, 1.0, 3.0e38])])
    down = (exact.view(torch.int32) & -(1 << 16)).view(torch.float32)
    up = ((down.view(torch.int32)) + (1 << 16)).view(torch.float32)
    draws = 4000
    total = torch.zeros_like(exact, dtype=torch.float64)
    for seed in range(draws):
        rounded = rounded_by_chance(exact, generator(seed))
        assert rounded.dtype == torch.bfloat16
        assert ((rounded.float() == down) | (rounded.float() == up)).all()
        total += rounded.double()
    gap = (up - down).double()
    error = ((total / draws - exact.double()) / gap).abs()
    print(f"\nthe mean of {draws} is at most {error.max():.3f} of a gap away")
    assert error.max() < 5 * 0.5 / draws**0.5
    same = exact.to(torch.bfloat16).float()
    assert torch.equal(rounded_by_chance(same, generator(0)).float(), same), "what fits is not rounded"


def trained(kind: OptimizerName, dtype: torch.dtype, steps: int = 60, rate: float = 1e-4) -> tuple[Tensor, Tensor]:
    """How far weights are drawn towards others, all by small steps; and those where they began."""
    module = randomised(nn.Linear(96, 64), seed=1)
    start = module.weight.detach().clone()
    wanted = start + 0.1 * noise(64, 96, seed=2)
    module.to(dtype)
    optimizer = NetOptimizer(module, kind, weight_decay=0.0, seed=0)
    for step in range(steps):
        ((module.weight.float() - wanted) ** 2).sum().backward()
        module.bias.grad = torch.zeros_like(module.bias)
        optimizer.update(step, rate)
        assert all(parameter.grad is None and parameter.dtype == dtype for parameter in module.parameters())
    return module.weight.detach().float() - start, wanted - start


@pytest.mark.parametrize("kind", ["adamw", "adamw_8bit"])
def test_weights_in_bfloat16_move_by_updates_that_are_smaller_than_their_last_digit(kind: OptimizerName) -> None:
    """Rounded to the nearest, more than half would never move."""
    moved, wanted = trained(kind, torch.float32)
    rounded, _ = trained(kind, torch.bfloat16)
    direction = wanted.sign()
    far, found = (moved * direction).mean().item(), (rounded * direction).mean().item()
    print(f"\n{kind}: weights in float32 move by {far:.2e}, in bfloat16 by {found:.2e}")
    assert far > 4e-3 and abs(found / far - 1) < 0.05
    start = randomised(nn.Linear(96, 64), seed=1).weight.detach()
    assert ((start + 1e-4 * direction).to(torch.bfloat16) == start.to(torch.bfloat16)).float().mean() > 0.5


def test_a_state_in_8_bits_follows_one_in_32() -> None:
    exact, _ = trained("adamw", torch.float32, rate=1e-3)
    found, _ = trained("adamw_8bit", torch.float32, rate=1e-3)
    error = float((found - exact).norm() / exact.norm())
    print(f"\n{error:.1e} of what is trained")
    assert 0 < error < 0.05


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", ["adamw", "adamw_8bit"])
def test_a_state_holds_everything_that_the_next_update_needs(kind: OptimizerName, dtype: torch.dtype) -> None:
    modules = [randomised(nn.Sequential(nn.Linear(80, 60), nn.Linear(60, 3)), seed=1).to(dtype) for _ in range(2)]
    first, second = (NetOptimizer(module, kind, weight_decay=0.1, seed=3) for module in modules)

    def update(number: int, optimizer: NetOptimizer, step: int) -> None:
        for seed, parameter in enumerate(modules[number].parameters()):
            parameter.grad = noise(*parameter.shape, seed=100 * step + seed).to(dtype)
        optimizer.update(step, 1e-2)

    for step in range(3):
        update(0, first, step)
    modules[1].load_state_dict(modules[0].state_dict())
    second.restore({name: value.clone() for name, value in first.state().items()})
    for step in range(3, 6):
        update(0, first, step)
        update(1, second, step)
    for one, other in zip(modules[0].parameters(), modules[1].parameters(), strict=True):
        assert torch.equal(one, other)
    states = first.state(), second.state()
    assert differing(*states) == []
    numbers = sum(parameter.numel() for parameter in modules[0].parameters())
    held = sum(value.numel() * value.element_size() for value in states[0].values())
    assert held < (3.5 if kind == "adamw_8bit" else 8.1) * numbers


def test_few_weights_are_in_float32_at_once() -> None:
    module = nn.Linear(8, 8)
    sizes = (AT_ONCE // 2, AT_ONCE // 2, 5, AT_ONCE + 1, 7, 9)
    parameters = [nn.Parameter(torch.empty(size, device="meta")) for size in sizes]
    portions = list(_portions([*module.parameters(), *parameters]))
    assert [first for first, _ in portions] == [0, 3, 5, 6]
    assert all(first + len(portion) == after for (first, portion), (after, _) in pairwise(portions))


def test_8_bits_without_bitsandbytes_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(SettingError, match="pip install bitsandbytes, or set optimizer"):
        NetOptimizer(nn.Linear(2, 2), "adamw_8bit", 0.0, 0)


def test_8_bits_on_a_device_without_kernels_are_refused() -> None:
    with pytest.raises(SettingError, match='"adamw_8bit" on the device meta; expected one of the devices cuda'):
        NetOptimizer(nn.Linear(2, 2, device="meta"), "adamw_8bit", 0.0, 0)
