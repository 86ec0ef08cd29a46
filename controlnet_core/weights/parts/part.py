"""A model inside a source of weights: its sizes, where its tensors are, and its state dict when it is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Generic, TypeVar

import torch
from torch import Tensor

from ..facts import Facts
from ..keymap import Comparison, KeyMap, Shapes
from ..layouts.kinds import ModelLayout
from ..source import WeightSource

Config = TypeVar("Config")


@dataclass(frozen=True)
class Part(Generic[Config]):
    """One model inside a source.

    Attributes:
        source: What holds it; it is opened only while `state_dict` reads.
        layout: Whose names its tensors have.
        prefix: What stands before all its keys.
        config: Its sizes.
        beside: Patterns of further keys in the source that are known and not needed.
    """

    source: WeightSource
    layout: ModelLayout[Config]
    prefix: str
    config: Config
    beside: tuple[str, ...] = ()

    @cached_property
    def keymap(self) -> KeyMap:
        """Which keys of the source are which of ours."""
        keys = without_prefix(self.source.shapes, self.prefix)
        return self.layout.keymap_for(self.config, keys).prefixed(self.prefix).ignoring(*self.beside)

    def require(self) -> Comparison:
        """Compare the source with the key map, where it holds nothing else; raises CheckpointError if they differ."""
        return self.keymap.require(self.source.shapes, self.source.place)

    def state_dict(
        self, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> dict[str, Tensor]:
        """Read the weights, under our names, for `load_state_dict(..., assign=True)`.

        Arguments:
            device: Where to put them; the CPU by default.
            dtype: What to turn them into; None keeps the source's.
        """
        with self.source.tensors(device=device, dtype=dtype) as tensors:
            return dict(self.keymap.read(tensors))


def read_part(
    source: WeightSource, layout: ModelLayout[Config], facts: Facts, prefix: str = "", beside: tuple[str, ...] = ()
) -> Part[Config]:
    """Read the sizes of a model that stands under a prefix; its tensors are not compared with the key map yet.

    Raises:
        CheckpointError: If the sizes are those of no model that can be built here.
    """
    config = layout.sizes(without_prefix(source.shapes, prefix), facts)
    return Part(source, layout, prefix, config, beside)


def without_prefix(shapes: Shapes, prefix: str) -> Shapes:
    """The keys that start with a prefix, without it."""
    return {key.removeprefix(prefix): shape for key, shape in shapes.items() if key.startswith(prefix)}
