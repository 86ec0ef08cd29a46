"""Keyed randomness is the same everywhere and differs with every part of the key."""

from __future__ import annotations

import pytest
import torch

from controlnet_core.errors import SettingError
from controlnet_core.keyed import keyed_generator, keyed_seed


def test_seed_is_the_same_on_every_machine() -> None:
    assert keyed_seed("noise", 7, 3) == 4_965_210_792_261_819_131


def test_every_part_and_its_order_and_kind_count() -> None:
    keys: list[tuple[int | str, ...]] = [("a", 1), (1, "a"), ("a", "1"), ("a", 2), ("a", 1, 0), ("a",), ("a1",), ()]
    assert len({keyed_seed(*key) for key in keys}) == len(keys)


def test_other_draws_change_nothing() -> None:
    torch.manual_seed(0)
    first = torch.rand(8, generator=keyed_generator("draw", 5))
    torch.rand(3)
    second = torch.rand(8, generator=keyed_generator("draw", 5))
    assert torch.equal(first, second)
    assert not torch.equal(first, torch.rand(8, generator=keyed_generator("draw", 6)))


@pytest.mark.parametrize("part", [1.0, True, None, torch.tensor(1)])
def test_a_part_of_another_type_is_an_error(part: object) -> None:
    with pytest.raises(SettingError, match="ints and strings only"):
        keyed_seed("draw", part)  # type: ignore[arg-type]  # wrong on purpose
