"""Finds pairs of pictures and hints in a folder; the layouts are those that `folder` describes."""

from __future__ import annotations

import json
import os
import unicodedata
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from PIL import Image

from .faults import (
    BROKEN_LINE,
    CAPTIONS,
    DOUBLE,
    EMPTY,
    HINTS,
    IMAGES,
    MISSING,
    NO_FOLDER,
    NO_LAYOUT,
    NO_PICTURE,
    NO_TEXT,
    OUTSIDE,
    UNLISTED,
    UNPAIRED,
    Fault,
    Faults,
)


@dataclass(frozen=True)
class PairFiles:
    """Where a pair is found; `hint` is the picture itself where hints are made, `caption` None where there is none."""

    image: Path
    hint: Path
    caption: str | None

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files of the pair."""
        return (self.image,) if self.hint == self.image else (self.image, self.hint)


@dataclass(frozen=True)
class FoundPairs:
    """What a folder holds.

    Attributes:
        pairs: The whole pairs.
        faults: What keeps others from being one, and what else is wrong.
        layout: How the pairs were found, in words.
    """

    pairs: tuple[PairFiles, ...]
    faults: Faults
    layout: str


@dataclass(frozen=True)
class _Columns:
    """The names under which a list holds picture, hint and caption; the first that is there counts."""

    image: tuple[str, ...]
    hint: tuple[str, ...]
    caption: tuple[str, ...]


LISTS: Mapping[str, _Columns] = MappingProxyType({
    "prompt.json": _Columns(("target",), ("source",), ("prompt",)),
    "metadata.jsonl": _Columns(
        image=("file_name", "image"),
        hint=("conditioning_image", "conditioning_image_file_name", "hint"),
        caption=("text", "caption", "prompt"),
    ),
})


def find_pairs(folder: Path, with_hints: bool = True) -> FoundPairs:
    """Find all pairs of a folder, without opening a picture.

    Arguments:
        folder: The folder.
        with_hints: Whether each picture needs the file of a hint; else hints are not looked for.
    """
    return _Search(folder, with_hints).found()


class _Search:
    """One look through a folder, which notes faults as it meets them."""

    def __init__(self, folder: Path, with_hints: bool) -> None:
        self._folder = folder
        self._with_hints = with_hints
        self._faults: dict[Fault, list[str]] = {}

    def found(self) -> FoundPairs:
        pairs, layout = self._pairs()
        if not pairs and not self._faults:
            self._note(EMPTY if self._with_hints else NO_PICTURE)
        return FoundPairs(tuple(pairs), self._faults, layout)

    def _note(self, fault: Fault, *places: str) -> None:
        self._faults.setdefault(fault, []).extend(places)

    def _inside(self, path: Path) -> str:
        """A file's name as seen from the folder."""
        return path.relative_to(self._folder).as_posix()

    def _pairs(self) -> tuple[list[PairFiles], str]:
        """The pairs and how they were found."""
        images, hints = self._folder / IMAGES, self._folder / HINTS
        if not self._folder.is_dir():
            self._note(NO_FOLDER)
            return [], "none"
        for name, columns in LISTS.items():
            if (self._folder / name).is_file():
                return list(self._listed_pairs(name, columns)), f"listed in {name}"
        if self._with_hints and images.is_dir() and hints.is_dir():
            return self._named_pairs(images, hints), f"{IMAGES}/NAME, {HINTS}/NAME and {CAPTIONS}/NAME.txt"
        if self._with_hints:
            self._note(NO_LAYOUT)
            return [], "none"
        if images.is_dir():
            return self._pictures(images), f"{IMAGES}/NAME and {CAPTIONS}/NAME.txt"
        return self._pictures(self._folder), "NAME and NAME.txt"

    def _named_pairs(self, image_folder: Path, hint_folder: Path) -> list[PairFiles]:
        """Pair pictures and hints by their names without ending."""
        images, hints = self._by_name(image_folder, _readable()), self._by_name(hint_folder, _readable())
        lonely = [images.get(name) or hints[name] for name in sorted(images.keys() ^ hints.keys())]
        if lonely:
            self._note(UNPAIRED, *map(self._inside, lonely))
        captions = self._captions(image_folder, images)
        whole = sorted(images.keys() & hints.keys())
        return [PairFiles(images[name], hints[name], captions.get(name)) for name in whole]

    def _pictures(self, folder: Path) -> list[PairFiles]:
        """The pictures of a folder, which need no hints."""
        images = self._by_name(folder, _readable())
        captions = self._captions(folder, images)
        return [PairFiles(images[name], images[name], captions.get(name)) for name in sorted(images)]

    def _captions(self, folder: Path, images: Collection[str]) -> dict[str, str | None]:
        """The captions of pictures by name, from texts beside them or in a folder of their own."""
        texts = self._by_name(folder, (".txt",)) | self._by_name(self._folder / CAPTIONS, (".txt",))
        return {name: self._caption(texts[name]) for name in sorted(texts) if name in images}

    def _caption(self, path: Path) -> str | None:
        text = self._text(path)
        return None if text is None else text.strip()

    def _by_name(self, folder: Path, endings: Collection[str]) -> dict[str, Path]:
        """The files with certain endings by their names without them; hidden files are passed over."""
        found: dict[str, Path] = {}
        for path in self._entries(folder):
            if path.name.startswith(".") or path.suffix.lower() not in endings or not path.is_file():
                continue
            # Some systems store an accented letter as one sign, others as a letter and its accent.
            name = unicodedata.normalize("NFC", path.stem)
            if name in found:
                self._note(DOUBLE, f"both {self._inside(found[name])} and {self._inside(path)}")
            found.setdefault(name, path)
        return found

    def _entries(self, folder: Path) -> list[Path]:
        """All that is in a folder; nothing where there is none."""
        try:
            return sorted(folder.iterdir()) if folder.is_dir() else []
        except OSError as error:
            self._note(UNLISTED, str(error))
            return []

    def _listed_pairs(self, name: str, columns: _Columns) -> Iterator[PairFiles]:
        """Read the list of pairs."""
        for number, line in enumerate((self._text(self._folder / name) or "").split("\n"), 1):
            entry = self._entry(line, f"line {number} of {name}", columns) if line.strip() else None
            if entry is None:
                continue
            missing = [path for path in entry.paths if not os.path.isfile(path)]
            if missing:
                self._note(MISSING, *map(self._inside, missing))
            else:
                yield entry

    def _entry(self, line: str, place: str, columns: _Columns) -> PairFiles | None:
        """Read one line of the list; None, with a note, if it cannot be used."""
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:
            self._note(BROKEN_LINE, f"{place}: {error}")
            return None
        values = _values(entry, columns) if isinstance(entry, dict) else None
        if values is None or (self._with_hints and values[1] is None):
            self._note(_wrong_line(columns, self._with_hints), f"{place}: {line.strip()[:80]}")
            return None
        image, hint, caption = values
        files = (image, hint) if hint is not None and self._with_hints else (image,)
        if outside := [file for file in files if _leaves(file)]:
            self._note(OUTSIDE, f"{place}: {outside[0]}")
            return None
        paths = [self._folder / file for file in files]
        return PairFiles(paths[0], paths[-1], caption)

    def _text(self, path: Path) -> str | None:
        """Read a text; None, with a note, if that fails."""
        try:
            return path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            self._note(NO_TEXT, f"{self._inside(path)}: {error}")
            return None


def _values(entry: Mapping[str, object], columns: _Columns) -> tuple[str, str | None, str | None] | None:
    """Picture, hint and caption of a line; None if one is no text, or the picture is not there."""
    image, hint, caption = (_first(entry, names) for names in (columns.image, columns.hint, columns.caption))
    if not (isinstance(image, str) and isinstance(hint, str | None) and isinstance(caption, str | None)):
        return None
    return image, hint, caption


def _first(entry: Mapping[str, object], names: tuple[str, ...]) -> object:
    """The value of the first name that the entry has."""
    return next((entry[name] for name in names if entry.get(name) is not None), None)


def _wrong_line(columns: _Columns, with_hints: bool) -> Fault:
    """The fault of a line that lacks something; it shows what a line looks like."""
    example = {columns.image[0]: "picture.png", columns.hint[0]: "hint.png", columns.caption[0]: "a caption"}
    if not with_hints:
        del example[columns.hint[0]]
    return Fault("lines without what is needed", json.dumps(example), "correct the line")


def _leaves(file: str) -> bool:
    """Whether a path leads out of the folder that it starts in."""
    return bool(Path(file).anchor) or Path(os.path.normpath(file)).parts[:1] == ("..",)


def _readable() -> set[str]:
    """The endings of all pictures that can be read."""
    return {ending for ending, kind in Image.registered_extensions().items() if kind in Image.OPEN}
