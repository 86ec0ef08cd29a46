"""What a training step will take, counted before the first one.

A step is done on the device "meta", where tensors have sizes and no numbers: the real modules, the real loss and
torch's own backward pass, at the real size, in seconds. What is alive at once is counted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from ..base import TextEmbeddings
from ..config import AutoencoderConfig, UNetConfig
from ..model.controlnet import ControlNet
from ..model.recompute import recomputing
from ..model.unet import UNet
from ..objective import Batch, accumulate_gradients, control_loss
from ..schedule import NoiseSchedule
from .counted_layers import counted_attention, counted_operations
from .live_memory import LiveMemory
from .memory import PRESETS, MemoryChoices, Preset
from .optimizer import state_bytes, update_bytes
from .settings import TrainSettings

GIB = 2**30
CONTEXT = round(0.6 * GIB)
"""What CUDA, its libraries and their workspaces take beside tensors."""
COUNTED_PARTS = 2
"""Parts of a batch that are counted: during the second all gradients exist, and the others are like it."""


@dataclass(frozen=True)
class Work:
    """What a step works on.

    Attributes:
        config: The base.
        size: Height and width of the pictures in pixels.
        hint_channels: Channels of the hints.
        tokens: Tokens of a caption.
        processes: How many share each batch, and each have a copy of the net.
    """

    config: UNetConfig
    size: tuple[int, int]
    hint_channels: int = 3
    tokens: int = 77
    processes: int = 1

    def batch(self, rows: int) -> Batch:
        """A batch of `rows` pairs without numbers."""
        config, (height, width) = self.config, self.size
        scale = AutoencoderConfig().downscale
        latents = rows, config.in_channels, height // scale, width // scale
        y = None if config.vector_dim is None else torch.empty(rows, config.vector_dim, device="meta")
        return Batch(
            latents=torch.empty(latents, device="meta"),
            noise=torch.empty(latents, device="meta"),
            timesteps=torch.empty(rows, dtype=torch.long, device="meta"),
            hints=torch.empty(rows, self.hint_channels, height, width, device="meta"),
            text=TextEmbeddings(torch.empty(rows, self.tokens, config.context_dim, device="meta"), y),
        )


@dataclass(frozen=True)
class Forecast:
    """The peak of a step in bytes, by what it is for.

    Attributes:
        base: The locked UNet.
        net: The net.
        optimizer: The optimizer's state.
        average: The moving average, where it is beside the net.
        step: Gradients, activations and the batch.
        context: What the device's libraries take.
    """

    base: int
    net: int
    optimizer: int
    average: int
    step: int
    context: int

    @property
    def total(self) -> int:
        """All of it."""
        return sum(getattr(self, field.name) for field in fields(self))

    @property
    def gib(self) -> float:
        """All of it in GiB."""
        return self.total / GIB


def forecast(work: Work, settings: TrainSettings, device: torch.device) -> Forecast:
    """What a step of a run will take on a device, which need not be there."""
    return counted(work, settings.choices(work.config, device, work.processes), settings, device.type)


def fitting_preset(work: Work, settings: TrainSettings, device: torch.device, memory: int) -> Preset | None:
    """The largest preset whose step fits into so many bytes, if it decides everything; None if none does."""
    likely = [preset for preset in PRESETS if preset * 1e9 < 1.1 * memory] or PRESETS[:1]
    undecided = settings.model_copy(update=dict.fromkeys(field.name for field in fields(MemoryChoices)))
    for preset in reversed(likely):
        if forecast(work, undecided.model_copy(update={"memory": preset}), device).total <= memory:
            return preset
    return None


def counted(work: Work, choices: MemoryChoices, settings: TrainSettings, device_type: str) -> Forecast:
    """What a step takes with these choices."""
    here = device_type == "cpu"
    autocast = choices.precision == "bfloat16" and choices.weights_dtype == "float32"
    unet = UNet(
        work.config,
        operations=counted_operations(False, device_type),
        device="meta",
        dtype=_dtype(choices.precision),
        attention=counted_attention(False),
    ).requires_grad_(False)
    net = ControlNet(
        work.config,
        work.hint_channels,
        settings.hint_encoder,
        operations=counted_operations(autocast, device_type),
        device="meta",
        dtype=_dtype(choices.weights_dtype),
        attention=counted_attention(autocast),
    )
    weights = list(net.parameters())
    waiting = _bytes(unet.parameters()) * 2 if here and choices.precision == "bfloat16" else 0
    numbers = sum(weight.numel() for weight in weights)
    return Forecast(
        base=_bytes(unet.parameters()) + waiting,
        net=_bytes(weights),
        optimizer=state_bytes(weights, choices.optimizer),
        average=4 * numbers if here or choices.average_on == "device" else 0,
        step=_step(work, choices, settings, unet, net),
        context=0 if here else CONTEXT,
    )


def _step(work: Work, choices: MemoryChoices, settings: TrainSettings, unet: UNet, net: ControlNet) -> int:
    """The peak of a step beside weights, state and average."""
    pairs = math.ceil(settings.batch_size / work.processes)
    length = math.ceil(pairs / choices.gradient_accumulation)
    rows = min(pairs, COUNTED_PARTS * length)
    schedule = NoiseSchedule.scaled_linear()
    pair = work.batch(1)
    others = (pairs - rows) * _bytes(
        (pair.latents, pair.noise, pair.hints, pair.text.context, *([] if pair.text.y is None else [pair.text.y]))
    )

    def loss_of(batch: Batch) -> Tensor:
        return control_loss(unet, net, batch, schedule, "eps", settings.loss_weighting)

    with LiveMemory([*unet.parameters(), *net.parameters()]) as memory:
        batch = work.batch(rows)
        with recomputing(*((net, unet.decoder) if choices.activation_checkpointing else ())):
            accumulate_gradients(loss_of, batch, math.ceil(rows / length))
    updating = memory.live + update_bytes(list(net.parameters()))
    buckets = _bytes(net.parameters()) if work.processes > 1 else 0  # of DDP, for all gradients
    return int(others + buckets + max(memory.peak, updating))


def _dtype(name: str) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
