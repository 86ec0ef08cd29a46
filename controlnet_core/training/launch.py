"""Joins the processes that torchrun started, on one machine or on several.

torchrun tells each process in its environment which it is and where the others are; `accelerate launch` sets the same
variables.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from torch import distributed as dist

from ..errors import SettingError
from .heartbeat import Heartbeat
from .rank_group import RankGroup
from .ranks import ALONE, Ranks

JOINING, NEVER = timedelta(minutes=10), timedelta(days=365)
"""How long a rank waits for the others to start, and for what another one does."""
STORE_PATIENCE = timedelta(seconds=5)


def are_several() -> bool:
    """Whether torchrun started this process with others."""
    count = os.environ.get("WORLD_SIZE", "1")
    if not count.isdecimal():
        raise SettingError(f"WORLD_SIZE = {count!r}", "a number of processes", "start the command with torchrun")
    return int(count) > 1


def device_of_rank(name: str) -> str:
    """The name of the device that this process trains on: of several processes, each has a CUDA device of its own.

    Arguments:
        name: The device that the settings name.

    Raises:
        SettingError: If a machine has too few devices, or the device is not one that several processes can train on.
    """
    if not are_several():
        return name
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return "cpu"
    local, devices = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if name not in ("auto", "cuda"):
        raise SettingError(
            found=f"device = {name!r} for {os.environ['WORLD_SIZE']} processes",
            expected="auto, cuda or cpu",
            do="choose auto: each process takes a CUDA device of its own",
        )
    if local >= devices:
        raise SettingError(
            found=f"process {local} of a machine with {devices} CUDA devices",
            expected="a device for each",
            do=f"start torchrun with --nproc-per-node {devices}" if devices else 'set device to "cpu"',
        )
    return f"cuda:{local}"


@contextmanager
def joined_ranks(device: torch.device) -> Iterator[Ranks]:
    """Join the processes that torchrun started, and leave them at the end; one that was started alone stays alone.

    Arguments:
        device: The device of this process.

    Raises:
        SettingError: If the environment does not say how to find the others.
        RankLostError: At the end, if another one failed before it.
    """
    if not are_several():
        yield ALONE
        return
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise SettingError(
            found=f"WORLD_SIZE = {os.environ['WORLD_SIZE']} and no {', '.join(missing)}",
            expected="the variables that torchrun sets",
            do="start the command with torchrun, or unset WORLD_SIZE to train with one process",
        )
    group = _joined(device)
    try:
        yield group
    except BaseException as error:
        group.close(error)
        raise
    group.close(None)


def _joined(device: torch.device) -> RankGroup:
    """Join the others."""
    # Not every build of torch has them, and one process needs none.
    from torch.distributed import PrefixStore, TCPStore, rendezvous  # type: ignore[attr-defined] # re-exported

    on_cards = device.type == "cuda"
    if on_cards:
        torch.cuda.set_device(device)
    store, rank, count = next(rendezvous("env://", timeout=JOINING))
    backend = "cpu:gloo,cuda:nccl" if on_cards and dist.is_nccl_available() else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=NEVER)
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    connection = TCPStore(host, port, is_master=False, timeout=STORE_PATIENCE, wait_for_workers=False)
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    heartbeat = Heartbeat(PrefixStore(f"controlnet_core {attempt}", connection), rank, count)
    group = RankGroup(rank, count, heartbeat)
    group.meet()  # now each rank has beaten once
    heartbeat.start()
    return group
