"""What is known about a kind of weights file: the keys that tell it and, where it can be read, sizes and key maps."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import ClassVar, Generic, TypeVar

from ...config import AutoencoderConfig, TextEncoderConfig, UNetConfig
from ...model.hint import HintEncoderKind
from ..facts import Facts
from ..keymap import KeyMap, Shapes

Config = TypeVar("Config")


@dataclass(frozen=True)
class Kind:
    """A kind of weights file, told by its keys.

    Attributes:
        description: What it is, for messages.
        has_all: Patterns of keys that are all there; the first names the prefix by its `*`.
        has_any: Patterns of keys of which one is there.
    """

    description: str
    has_all: tuple[str, ...] = ()
    has_any: tuple[str, ...] = ("*",)

    def prefix_in(self, keys: tuple[str, ...]) -> str | None:
        """What stands before this kind's keys, or None if the keys are not of this kind."""
        if not all(matches_any(pattern, keys) for pattern in self.has_all):
            return None
        if not any(matches_any(pattern, keys) for pattern in self.has_any):
            return None
        if not self.has_all or not self.has_all[0].startswith("*"):
            return ""
        tail = self.has_all[0][1:]
        return min((key[: -len(tail)] for key in keys if key.endswith(tail)), key=len, default="")


def matches_any(pattern: str, keys: Iterable[str]) -> bool:
    """Whether one of the keys has that pattern."""
    return any(fnmatchcase(key, pattern) for key in keys)


@dataclass(frozen=True)
class ForeignKind(Kind):
    """A kind that is known by name and cannot be read.

    Attributes:
        do: What to do with such a file.
    """

    do: str = "use a ControlNet of Stable Diffusion 1.5, 2.1 or SDXL"


@dataclass(frozen=True, kw_only=True)
class Layout(Kind):
    """A kind that can be read.

    Attributes:
        model: What it holds, as reports name it.
        name: Whose key names it has, as reports and `save_controlnet` name them.
    """

    model: ClassVar[str]
    name: str


@dataclass(frozen=True, kw_only=True)
class BaseLayout(Layout):
    """A whole base in one file; its models have layouts of their own."""

    model = "base"


@dataclass(frozen=True, kw_only=True)
class ModelLayout(Layout, Generic[Config]):
    """How one program names the tensors of one model.

    Attributes:
        sizes: Reads the model's sizes from its shapes, the keys without prefix, and from what is known beside them.
            It raises CheckpointError if they are those of no model that can be built here.
        keymap: The map of a model of some sizes, its keys without prefix.
        older: Maps of files with earlier names, each with the pattern of a key that tells them.
    """

    sizes: Callable[[Shapes, Facts], Config]
    keymap: Callable[[Config], KeyMap]
    older: tuple[tuple[str, Callable[[Config], KeyMap]], ...] = ()

    def keymap_for(self, config: Config, keys: Iterable[str]) -> KeyMap:
        """The map of a model of some sizes with the names, today's or earlier ones, that a file's keys have."""
        keys = tuple(keys)
        makes = (make for sign, make in self.older if matches_any(sign, keys))
        return next(makes, self.keymap)(config)


@dataclass(frozen=True)
class ControlNetConfig:
    """The sizes of a ControlNet.

    Attributes:
        unet: Those that it shares with its UNet.
        hint_channels: Channels of its hint image.
        hint_encoder: Which hint encoder it has.
        pooled: Whether its residuals are averaged over the picture.
    """

    unet: UNetConfig
    hint_channels: int = 3
    hint_encoder: HintEncoderKind = "reference"
    pooled: bool = False


@dataclass(frozen=True, kw_only=True)
class ControlNetLayout(ModelLayout[ControlNetConfig]):
    """A ControlNet.

    Attributes:
        saves: The hint encoders that it has names for; nets with these are saved in it.
    """

    model = "controlnet"
    saves: tuple[HintEncoderKind, ...] = ()


@dataclass(frozen=True, kw_only=True)
class UNetLayout(ModelLayout[UNetConfig]):
    """A UNet."""

    model = "unet"


@dataclass(frozen=True, kw_only=True)
class AutoencoderLayout(ModelLayout[AutoencoderConfig]):
    """An autoencoder."""

    model = "autoencoder"


@dataclass(frozen=True, kw_only=True)
class TextEncoderLayout(ModelLayout[TextEncoderConfig]):
    """A text encoder; `sizes` wants to be told what `family_facts` says."""

    model = "text_encoder"
