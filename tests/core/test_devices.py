"""What depends on the device: the usual precision, and where the locked UNet waits in which dtype."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

from controlnet_core.errors import SettingError
from controlnet_core.training.devices import autocast_dtype, free_memory, unet_in, unet_on, usual_precision
from tests.support.bases import small_base
from tests.support.bits import differing

CPU, CARD = torch.device("cpu"), torch.device("cuda", 0)


@pytest.mark.parametrize(("has", "precision"), [(True, "bfloat16"), (False, "float32")])
def test_a_card_that_computes_in_bfloat16_does_so(has: bool, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has or including_emulation)
    assert usual_precision(CARD) == precision
    assert {usual_precision(torch.device(kind)) for kind in ("cpu", "mps", "xpu")} == {"float32"}


def test_only_float32_weights_in_bfloat16_need_autocast() -> None:
    assert autocast_dtype("bfloat16", "float32", CPU) == torch.bfloat16
    assert autocast_dtype("float32", "float32", CPU) is autocast_dtype("bfloat16", "bfloat16", CPU) is None
    with pytest.raises(SettingError, match=r'precision = "bfloat16" on the device meta.*set precision = "float32"'):
        autocast_dtype("bfloat16", "float32", torch.device("meta"))


def test_the_unet_is_cast_and_gets_its_own_weights_back_even_after_an_error() -> None:
    base, wanted = small_base(), small_base().unet.state_dict()
    with pytest.raises(KeyboardInterrupt), unet_in(base, "bfloat16"):
        cast = {name: weight.to(torch.bfloat16) for name, weight in wanted.items()}
        assert differing(base.unet.state_dict(), cast) == [] and base.dtype == torch.bfloat16
        raise KeyboardInterrupt
    assert differing(base.unet.state_dict(), wanted) == []
    before = [weight.data_ptr() for weight in base.unet.parameters()]
    with unet_in(base, "float32"), unet_on(base, "cpu"):
        assert [weight.data_ptr() for weight in base.unet.parameters()] == before, "nothing is copied"


def test_the_unet_moves_and_comes_back_even_after_an_error() -> None:
    base = small_base()
    moves: list[object] = []
    base.unet.to = lambda device: moves.append(device)  # type: ignore[assignment, method-assign]
    with pytest.raises(KeyboardInterrupt), unet_on(base, "meta"):
        assert moves == ["meta"]
        raise KeyboardInterrupt
    assert moves == ["meta", CPU]


def test_the_memory_of_a_card_is_what_is_free_and_what_torch_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (5, 9))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 3)
    assert free_memory(CARD) == 8 and free_memory(CPU) is None
