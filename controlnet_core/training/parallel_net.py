"""A net that several ranks train: each holds a copy of it (DDP), or a shard of each of its tensors (FSDP2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import cast

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from ..errors import SettingError
from ..model.blocks import Block, MiddleBlock
from ..model.controlnet import ControlNet
from .memory import MemoryChoices

UNSHARDED = ("optimizer", "weights_dtype", "average_on")
"""What a sharded net has as usual."""


class CopiedNet(DistributedDataParallel):
    """A net whose gradients are averaged over the ranks after each backward pass.

    It must not have a static graph: the net's outputs lie in a dataclass, where that mode does not find them, and then
    no gradient is averaged.

    Arguments:
        net: The net, which takes the first rank's weights.
    """

    def __init__(self, net: ControlNet) -> None:
        super().__init__(net, gradient_as_bucket_view=True)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the net's weights."""
        return cast(ControlNet, self.module).dtype


def shard(net: ControlNet, ranks: int) -> ControlNet:
    """Replace each parameter by this rank's shard of the first rank's; a block is whole while it computes.

    Raises:
        SettingError: If this torch cannot shard.
    """
    try:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard
    except ImportError as error:
        raise SettingError(
            f"sharded = true with torch {torch.__version__}", "torch 2.6 or newer", "update torch, or set it to false"
        ) from error
    for parameter in net.parameters():
        dist.broadcast(parameter.data, 0)
    mesh = init_device_mesh(next(net.parameters()).device.type, (ranks,))
    for module in net.modules():
        if isinstance(module, Block | MiddleBlock):
            fully_shard(module, mesh=mesh)
    fully_shard(net, mesh=mesh)
    return net


def check_shardable(choices: MemoryChoices) -> None:
    """Check that a net that is updated so can be sharded.

    Raises:
        SettingError: If not: 8 bits and rounding by chance go by whole tensors, and a shard's average stays beside it.
    """
    usual = MemoryChoices()
    names = [name for name in UNSHARDED if getattr(choices, name) != getattr(usual, name)]
    if names:
        raise SettingError(
            found=f"sharded = true with {_listed(choices, names)}",
            expected=f"{_listed(usual, names)} where each process keeps a share of the net",
            do="set that, or sharded = false",
        )


def _listed(choices: MemoryChoices, names: Sequence[str]) -> str:
    return " and ".join(f'{name} = "{getattr(choices, name)}"' for name in names)


def unsynchronised(net: nn.Module) -> AbstractContextManager[None]:
    """What is entered for all parts of a batch but the last one, so that copies exchange their gradients once.

    Shards exchange theirs after each part: until then every rank would hold whole gradients.
    """
    return net.no_sync() if isinstance(net, DistributedDataParallel) else nullcontext()


def whole(tensor: Tensor) -> Tensor:
    """The whole of a sharded tensor, for which all ranks have to ask; any other tensor as it is."""
    return tensor.full_tensor() if _is_sharded(tensor) else tensor  # type: ignore[attr-defined] # DTensor


def gathered(tensors: Mapping[str, Tensor], kept: bool) -> dict[str, Tensor]:
    """Sharded tensors as whole ones on the CPU, one after the other; none on a rank that does not keep them."""
    found = {}
    for name, tensor in tensors.items():
        full = whole(tensor)
        if kept:
            found[name] = full.cpu()
    return found


def sharded_like(tensor: Tensor, like: Tensor) -> Tensor:
    """A tensor, sharded if another one of its shape is: this rank's part of the first rank's."""
    if not _is_sharded(like) or tensor.shape != like.shape:
        return tensor
    from torch.distributed.tensor import DTensor, distribute_tensor

    like = cast(DTensor, like)
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)


def whole_net(net: ControlNet, weights: Mapping[str, Tensor]) -> ControlNet:
    """A net of its own with whole weights, for use: the same kind as a sharded one."""
    own = ControlNet(
        net.config, net.hint_channels, net.hint_encoder_kind, device="meta", dtype=net.dtype, pooled=net.pooled
    )
    own.load_state_dict(weights, assign=True)
    return own.requires_grad_(False).train(False)


def _is_sharded(tensor: Tensor) -> bool:
    return hasattr(tensor, "full_tensor")
