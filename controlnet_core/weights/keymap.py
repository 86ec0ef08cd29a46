"""Two-way maps between a file's keys and ours: what a file must hold follows from the config, not from a module."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Literal

import torch
from torch import Tensor, nn

from ..errors import CheckpointError

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]
Form = Literal["same", "pointwise", "transposed", "joined"]


@dataclass(frozen=True)
class Entry:
    """One tensor of a file, and what it is here.

    Attributes:
        ours: Our key, or several that the file joins to one tensor.
        theirs: The file's key.
        form: "same"; "pointwise", a linear layer here and a 1x1 convolution in the file; "transposed";
            or "joined", our tensors stacked along the first dimension.
    """

    ours: tuple[str, ...]
    theirs: str
    form: Form = "same"

    def shape(self, ours: Shapes) -> Shape:
        """The shape in the file, from our shapes."""
        first = ours[self.ours[0]]
        if self.form == "pointwise":
            return (*first, 1, 1)
        if self.form == "transposed":
            return first[::-1]
        return (len(self.ours) * first[0], *first[1:])

    def accepts(self, found: Shape, ours: Shapes) -> bool:
        """Whether a tensor of that shape can be read; a 1x1 convolution may have been stored as a linear layer."""
        expected = self.shape(ours)
        return found == expected or (self.form == "pointwise" and found == expected[:2])

    def split(self, tensor: Tensor) -> tuple[Tensor, ...]:
        """Turn the file's tensor into ours."""
        if self.form == "pointwise":
            return (tensor.flatten(1),)
        if self.form == "transposed":
            return (tensor.t().contiguous(),)
        return tensor.chunk(len(self.ours)) if self.form == "joined" else (tensor,)

    def join(self, tensors: tuple[Tensor, ...]) -> Tensor:
        """Turn our tensors into the file's."""
        if self.form == "pointwise":
            return tensors[0][:, :, None, None]
        if self.form == "transposed":
            return tensors[0].t().contiguous()
        return torch.cat(tensors) if self.form == "joined" else tensors[0]


def layer(ours: str, theirs: str, form: Form = "same") -> Iterator[Entry]:
    """The entries of a layer's weight and bias; only the weight can have another form."""
    yield Entry((f"{ours}.weight",), f"{theirs}.weight", form)
    yield Entry((f"{ours}.bias",), f"{theirs}.bias")


def layers(names: Mapping[str, str], ours: str, theirs: str) -> Iterator[Entry]:
    """The entries of several layers, from their names under `ours` here and under `theirs` in the file."""
    for our, their in names.items():
        yield from layer(f"{ours}.{our}", f"{theirs}.{their}")


@dataclass(frozen=True)
class Comparison:
    """How the tensors of a file differ from what a key map expects.

    Attributes:
        missing: Expected keys that the file lacks.
        extra: Keys of the file that nothing is known about.
        unused: Keys of the file that are known and not needed.
        misshapen: "key: found shape, not expected shape" for each tensor of another shape.
    """

    missing: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    misshapen: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether the weights can be read as they are."""
        return not (self.missing or self.extra or self.misshapen)

    def explain(self) -> str:
        """The differences as text, naming the first few keys of each kind."""
        kinds = (("missing", self.missing), ("unknown", self.extra), ("of another shape", self.misshapen))
        return "; ".join(f"{len(keys)} {word} ({_first(keys)})" for word, keys in kinds if keys)


@dataclass(frozen=True)
class KeyMap:
    """A complete two-way map between one file layout and one of our modules.

    Attributes:
        name: What it maps, such as "an SD1.5 UNet in the LDM layout".
        entries: One for each tensor of the file.
        shapes: Our keys and the shapes the config gives them.
        unused: Patterns of keys that such files hold and that are not needed.
    """

    name: str
    entries: tuple[Entry, ...]
    shapes: Shapes
    unused: tuple[str, ...] = ()

    @classmethod
    def of(cls, name: str, module: nn.Module, entries: Iterable[Entry], unused: tuple[str, ...] = ()) -> KeyMap:
        """Make a map for a module built on the meta device, leaving out entries for layers that it does not have."""
        shapes = {key: tuple(tensor.shape) for key, tensor in module.state_dict().items()}
        return cls(name, tuple(entry for entry in entries if entry.ours[0] in shapes), shapes, unused)

    def prefixed(self, prefix: str) -> KeyMap:
        """The same map for files whose keys start with `prefix`."""
        entries = tuple(replace(entry, theirs=prefix + entry.theirs) for entry in self.entries)
        return replace(self, entries=entries, unused=tuple(prefix + pattern for pattern in self.unused))

    def ignoring(self, *patterns: str) -> KeyMap:
        """The same map, with more keys declared as known and not needed."""
        return replace(self, unused=self.unused + patterns)

    @property
    def file_shapes(self) -> dict[str, Shape]:
        """The file's keys and shapes."""
        return {entry.theirs: entry.shape(self.shapes) for entry in self.entries}

    def compare(self, found: Shapes) -> Comparison:
        """Compare a file's keys and shapes with what this map expects."""
        known = {entry.theirs: entry for entry in self.entries}
        others = [key for key in found if key not in known]
        unused = [key for key in others if any(fnmatchcase(key, pattern) for pattern in self.unused)]
        return Comparison(
            missing=tuple(key for key in known if key not in found),
            extra=tuple(sorted(set(others) - set(unused))),
            unused=tuple(unused),
            misshapen=tuple(
                f"{key}: {found[key]}, not {entry.shape(self.shapes)}"
                for key, entry in known.items()
                if key in found and not entry.accepts(found[key], self.shapes)
            ),
        )

    def require(self, found: Shapes, place: str) -> Comparison:
        """Compare, and refuse whatever does not fit.

        Arguments:
            found: A file's keys and shapes.
            place: Where they come from, for the message.

        Raises:
            CheckpointError: If a key is missing or unknown, or a tensor has another shape.
        """
        comparison = self.compare(found)
        if comparison.complete:
            return comparison
        raise CheckpointError(
            found=f"tensors in {place} that do not fit: {comparison.explain()}",
            expected=f"the {len(self.entries)} tensors of {self.name}",
            do="see what the file is with `controlnet-core inspect`; if it was cut short, fetch or save it again",
        )

    def read(self, tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        """Yield our keys and tensors one by one, from tensors that were already compared."""
        for entry in self.entries:
            yield from zip(entry.ours, entry.split(tensors[entry.theirs]), strict=True)

    def to_ours(self, tensors: Mapping[str, Tensor], place: str = "the weights") -> dict[str, Tensor]:
        """Turn a file's tensors into our state dict; raises as `require` does."""
        self.require(shapes_of(tensors), place)
        return dict(self.read(tensors))

    def to_theirs(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Turn our state dict into a file's tensors.

        Raises:
            CheckpointError: If the state dict is not that of the module this map was made for.
        """
        ours = KeyMap("our module", tuple(Entry((key,), key) for key in self.shapes), self.shapes)
        ours.require(shapes_of(state), "the state dict")
        return {entry.theirs: entry.join(tuple(state[key] for key in entry.ours)) for entry in self.entries}


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, Shape]:
    """The keys and shapes of tensors."""
    return {key: tuple(tensor.shape) for key, tensor in tensors.items()}


def merged(name: str, maps: Mapping[str, KeyMap]) -> KeyMap:
    """One map for a file that holds several modules; our keys get each module's name as prefix."""
    entries: list[Entry] = []
    shapes: dict[str, Shape] = {}
    for part, keymap in maps.items():
        shapes.update({f"{part}.{key}": shape for key, shape in keymap.shapes.items()})
        entries += [replace(entry, ours=tuple(f"{part}.{key}" for key in entry.ours)) for entry in keymap.entries]
    unused = tuple(pattern for keymap in maps.values() for pattern in keymap.unused)
    return KeyMap(name, tuple(entries), shapes, unused)


def _first(keys: tuple[str, ...], count: int = 3) -> str:
    """The first few keys, and a sign that there are more."""
    return ", ".join(keys[:count]) + (", ..." if len(keys) > count else "")
