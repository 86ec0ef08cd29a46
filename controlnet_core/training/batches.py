"""What each step trains on. What fills slot i of step s depends on (seed, s, i) and on nothing that came before."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..base import Base
from ..data.cache import EncodedDataset
from ..data.dataset import PairDataset
from ..keyed import keyed_generator
from ..objective import Batch
from .settings import TrainSettings


@dataclass(frozen=True, eq=False)
class Draws:
    """The random draws of one step, for each of B slots.

    Attributes:
        pairs: The pair of each slot, B indices.
        timesteps: Shape (B,), of the density that the settings name.
        dropped: Whether each prompt is replaced by the empty one, B booleans.
        noise: Standard normal, shape (B, C, h, w); with offset noise, each channel is also shifted as a whole.
        posterior: Standard normal, for the draw from the autoencoder's distribution, shape (B, C, h, w).
    """

    pairs: list[int]
    timesteps: Tensor
    dropped: list[bool]
    noise: Tensor
    posterior: Tensor


class StepDraws:
    """Makes the draws of any step.

    Each epoch visits every pair once, in an order of its own. Prompt drop empties a share of the prompts.

    Arguments:
        settings: The run's settings.
        pairs: Number of pairs.
        latent_shape: (C, h, w).
        timesteps: Length of the noise schedule.
        slots: The slots that are drawn; None means all.
    """

    def __init__(
        self,
        settings: TrainSettings,
        pairs: int,
        latent_shape: tuple[int, ...],
        timesteps: int,
        slots: range | None = None,
    ) -> None:
        self.settings = settings
        self.pairs = pairs
        self.latent_shape = latent_shape
        self.timesteps = timesteps
        self.slots = range(settings.batch_size) if slots is None else slots
        self._epoch = -1
        self._order: list[int] = []

    def at(self, step: int) -> Draws:
        """The draws of step `step`, counted from 0."""
        rows = [self._slot(step, slot) for slot in self.slots]
        return Draws(
            pairs=[self._pair_at(step * self.settings.batch_size + slot) for slot in self.slots],
            timesteps=torch.tensor([timestep for timestep, _, _ in rows]),
            dropped=[coin < self.settings.prompt_drop for _, coin, _ in rows],
            noise=torch.stack([normals[0] for _, _, normals in rows]),
            posterior=torch.stack([normals[1] for _, _, normals in rows]),
        )

    def _slot(self, step: int, slot: int) -> tuple[int, float, Tensor]:
        """Timestep, coin and two tensors of noise for one slot; what is drawn for one setting comes after all else."""
        generator = keyed_generator("train", self.settings.seed, step, slot)
        timestep = self._timestep(generator)
        coin = float(torch.rand((), generator=generator))
        normals = torch.randn(2, *self.latent_shape, generator=generator)
        if self.settings.offset_noise:
            normals[0] += self.settings.offset_noise * torch.randn(self.latent_shape[0], 1, 1, generator=generator)
        return timestep, coin, normals

    def _timestep(self, generator: torch.Generator) -> int:
        if self.settings.timestep_density == "uniform":
            return int(torch.randint(self.timesteps, (), generator=generator))
        share = 1 - float(torch.rand((), generator=generator, dtype=torch.float64)) ** 3
        return min(int(share * self.timesteps), self.timesteps - 1)

    def _pair_at(self, position: int) -> int:
        """The pair at a position in the endless sequence of epochs."""
        epoch, place = divmod(position, self.pairs)
        if epoch != self._epoch:
            generator = keyed_generator("epoch", self.settings.seed, epoch)
            self._epoch, self._order = epoch, torch.randperm(self.pairs, generator=generator).tolist()
        return self._order[place]


class Batches:
    """The batch of any step.

    Arguments:
        settings: The run's settings.
        base: The base, on whose device batches are used.
        encoded: The encoded pairs.
        dataset: Where hints come from of which the cache has no copy.
        slots: The slots of each batch that are wanted; None means all.
    """

    def __init__(
        self,
        settings: TrainSettings,
        base: Base,
        encoded: EncodedDataset,
        dataset: PairDataset,
        slots: range | None = None,
    ) -> None:
        self.base = base
        self.encoded = encoded
        self.dataset = dataset
        self.draws = StepDraws(
            settings, len(dataset), encoded.latent_shape, len(base.schedule.alphas_cumprod), slots
        )

    def at(self, step: int) -> Batch:
        """What step `step`, counted from 0, trains on: drawn on the CPU and moved to the base's device."""
        draws, device = self.draws.at(step), self.base.device
        latents = self.encoded.distribution(draws.pairs).sample(draws.posterior)
        text = self.encoded.text(draws.pairs, draws.dropped)
        kept = self.encoded.hints(draws.pairs)
        hints = self.dataset.hints(draws.pairs) if kept is None else kept
        # Convolutions on thin images are twice as fast on a CPU with the channels last.
        hints = hints.to(device, memory_format=torch.channels_last)
        return Batch(
            latents.to(device), draws.noise.to(device), draws.timesteps.to(device), hints, text.to(device)
        )
