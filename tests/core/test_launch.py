"""What a process makes of the environment that torchrun sets: the others, its device, and what is missing."""

from __future__ import annotations

import pytest
import torch

from controlnet_core.errors import SettingError
from controlnet_core.training.launch import device_of_rank, joined_ranks
from controlnet_core.training.ranks import ALONE

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def started_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("count", [None, "1"])
def test_one_process_is_alone_and_takes_any_device(count: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if count is not None:
        monkeypatch.setenv("WORLD_SIZE", count)
    with joined_ranks(CPU) as ranks:
        assert ranks is ALONE
    assert not torch.distributed.is_initialized()
    assert [device_of_rank(name) for name in ("auto", "cuda:1", "mps")] == ["auto", "cuda:1", "mps"]


def test_each_of_several_takes_a_device_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "6")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [device_of_rank(name) for name in ("auto", "cuda", "cpu")] == ["cuda:1", "cuda:1", "cpu"]
    with pytest.raises(SettingError, match="device = 'cuda:0' for 6 processes; expected auto, cuda or cpu"):
        device_of_rank("cuda:0")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(SettingError, match=r"process 2 of a machine with 2 CUDA devices.*--nproc-per-node 2"):
        device_of_rank("auto")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_of_rank("auto") == "cpu"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(SettingError, match=r'a machine with 0 CUDA devices.*set device to "cpu"'):
        device_of_rank("cuda")


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE = 2 and no RANK, MASTER_ADDR, MASTER_PORT"),
        ({"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "here"}, "WORLD_SIZE = 2 and no MASTER_PORT"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE = 'two'; expected a number of processes"),
    ],
)
def test_what_is_missing_is_named(
    environment: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingError, match=message), joined_ranks(CPU):
        pass
