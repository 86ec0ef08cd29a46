"""A model inside a file: its config, where its tensors are, and its state dict when it is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from ..config import AutoencoderConfig, TextEncoderConfig, UNetConfig
from .keymap import KeyMap
from .source import TensorFile

Config = TypeVar("Config", UNetConfig, AutoencoderConfig, TextEncoderConfig)


@dataclass(frozen=True)
class Part(Generic[Config]):
    """One model inside a file that was compared with its key map.

    Attributes:
        config: Its sizes.
        keymap: Which keys of the file are which of ours.
        file: The file; it is opened only while `state_dict` reads.
    """

    config: Config
    keymap: KeyMap
    file: TensorFile

    def state_dict(
        self, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> dict[str, Tensor]:
        """Read the weights, under our names, for `load_state_dict(..., assign=True)`.

        Arguments:
            device: Where to put them; the CPU by default.
            dtype: What to turn them into; None keeps the file's.
        """
        with self.file.tensors(device=device, dtype=dtype) as tensors:
            return dict(self.keymap.read(tensors))
