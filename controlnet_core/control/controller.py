"""The interface that an applied net of any kind has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from ..config import BlockLevels
from ..hint_statistics import HintStatistics
from ..model.residuals import Residuals


class Controller(Protocol):
    """A net that reads a hint and gives residuals for a UNet; `ControlNet` is one.

    Attributes:
        hint_channels: Channels of the hint image.
        pooled: Whether its residuals are averaged over the picture.
        hint_statistics: What its hints look like; None if that is not known.
    """

    hint_channels: int
    pooled: bool
    hint_statistics: HintStatistics | None

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that it computes in, which may be another than the UNet's."""
        ...

    @property
    def family(self) -> str:
        """The name of the model family it is for, in messages."""
        ...

    @property
    def joints(self) -> Mapping[str, object]:
        """The sizes in which it and a UNet must agree, by the names of `UNetConfig`."""
        ...

    @property
    def block_levels(self) -> BlockLevels:
        """The levels of the blocks that it gives residuals for."""
        ...

    def embed_hint(self, hint: Tensor) -> Tensor:
        """Encode a hint (B, hint_channels, 8h, 8w), which is the same at every step and can be kept."""
        ...

    def __call__(
        self,
        x: Tensor,
        hint: Tensor | None,
        timesteps: Tensor,
        context: Tensor,
        y: Tensor | None = None,
        *,
        embedded_hint: Tensor | None = None,
        blocks: int | None = None,
    ) -> Residuals:
        """Compute the residuals of one step; arguments as for `ControlNet.forward`."""
        ...
