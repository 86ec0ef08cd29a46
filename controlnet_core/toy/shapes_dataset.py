"""Pairs made by the shapes generator."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from ..data.dataset import Content, Pair
from ..errors import DatasetError
from ..keyed import digest, keyed_generator
from . import drawing
from .scenes import UNIFORMS_PER_SCENE, Scenes, captions, scenes_from_uniforms

GENERATOR_VERSION = 1
"""Part of every fingerprint of shapes: raise it with any change that makes a scene look or read differently."""
Renderer = Callable[[Scenes, int, torch.device | str | None], Tensor]
HINTS: Mapping[str, Renderer] = MappingProxyType({"outline": drawing.outlines, "colour_map": drawing.colour_maps})


@dataclass(frozen=True)
class ShapesDataset:
    """Pairs that the shapes generator draws on demand; pair i depends on (seed, held_out, i) alone.

    Datasets of one seed and different `count` therefore begin with the same pairs.

    Arguments:
        count: Number of pairs, at least 1.
        size: Side of the pictures in pixels, at least 16.
        seed: Chooses one endless sequence of scenes.
        held_out: Draw the scenes that training never sees (see `scenes`).
        hint: "outline" or "colour_map".

    Raises:
        DatasetError: If an argument is out of range or unknown.
    """

    count: int
    size: int
    seed: int
    held_out: bool = False
    hint: str = "outline"

    def __post_init__(self) -> None:
        if self.count < 1:
            raise DatasetError(f"count {self.count}", "at least 1 pair", "ask for more pairs")
        if self.size < 16:
            raise DatasetError(f"size {self.size}", "at least 16 pixels", "ask for larger pictures")
        if self.hint not in HINTS:
            raise DatasetError(f"hint {self.hint!r}", f"one of {', '.join(HINTS)}", "choose one of these kinds")

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Pair:
        """Draw pair `index`, counted from 0; raises IndexError beyond the last."""
        scene = self.scenes([index])
        image, hint = drawing.images(scene, self.size), HINTS[self.hint](scene, self.size, None)
        return Pair(image[0], hint[0], captions(scene)[0])

    @property
    def fingerprint(self) -> str:
        """Name the content: equal fingerprints are equal pairs."""
        parts = ("shapes", GENERATOR_VERSION, self.count, self.size, self.seed, self.held_out, self.hint)
        return digest(*map(str, parts))

    def scenes(self, indices: Sequence[int]) -> Scenes:
        """Return the scenes of the pairs, the truth against which pictures are scored.

        Raises:
            IndexError: If an index is negative or beyond the last pair.
        """
        uniforms = [self._uniforms(index) for index in indices]
        return scenes_from_uniforms(torch.stack(uniforms), self.held_out)

    def images(self, indices: Sequence[int], device: torch.device | str | None = None) -> Tensor:
        """Draw the pictures of many pairs at once, (N, 3, size, size) in [0, 1]."""
        return drawing.images(self.scenes(indices), self.size, device)

    def hints(self, indices: Sequence[int]) -> Tensor:
        """Draw the hints of many pairs at once, (N, 3, size, size) in [0, 1]."""
        return HINTS[self.hint](self.scenes(indices), self.size, None)

    def captions(self, indices: Sequence[int]) -> list[str]:
        """Return the captions of many pairs."""
        return captions(self.scenes(indices))

    def contents(self, indices: Sequence[int]) -> list[Content]:
        """Name the parts of many pairs: a picture by what it is drawn from, whatever the number of pairs."""
        drawn_from = ("shapes", GENERATOR_VERSION, self.size, self.seed, self.held_out)
        pairs = zip(indices, self.captions(indices), strict=True)
        return [Content(digest(*drawn_from, int(index)), caption) for index, caption in pairs]

    def _uniforms(self, index: int) -> Tensor:
        if not 0 <= index < self.count:
            raise IndexError(f"pair {index} of {self.count}")
        split = "held out" if self.held_out else "training"
        return torch.rand(UNIFORMS_PER_SCENE, generator=keyed_generator("shapes", self.seed, split, int(index)))
