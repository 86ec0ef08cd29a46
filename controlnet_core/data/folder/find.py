"""Finds pairs of pictures and hints in a folder; `folder_dataset` describes the layouts."""

from __future__ import annotations

import json
import os
import unicodedata
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from ...errors import UNREADABLE
from ...pictures.read import picture_extensions
from .faults import (
    BROKEN_LINE,
    CAPTIONS,
    DUPLICATE_NAME,
    EMPTY,
    HINTS,
    IMAGES,
    MISSING,
    NO_FOLDER,
    NO_LAYOUT,
    NO_PICTURE,
    OUTSIDE,
    UNPAIRED,
    UNREADABLE_FOLDER,
    UNREADABLE_TEXT,
    Fault,
    Faults,
)


@dataclass(frozen=True)
class PairFiles:
    """The files of a pair; `hint` is the picture itself if hints are made from it, `caption` None if there is none."""

    image: Path
    hint: Path
    caption: str | None

    @property
    def paths(self) -> tuple[Path, ...]:
        """The distinct files of the pair."""
        return (self.image,) if self.hint == self.image else (self.image, self.hint)


@dataclass(frozen=True)
class FoundPairs:
    """What a folder holds.

    Attributes:
        pairs: The complete pairs.
        faults: Everything that is wrong, such as files without a partner.
        layout: How the pairs were found, as a report says it.
    """

    pairs: tuple[PairFiles, ...]
    faults: Faults
    layout: str


@dataclass(frozen=True)
class _Columns:
    """The keys of picture, hint and caption in a line of a list; the first one present counts."""

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
        with_hints: Whether each picture needs a hint file; otherwise hints are ignored.
    """
    return _Search(folder, with_hints).run()


class _Search:
    """One search through a folder, which collects faults."""

    def __init__(self, folder: Path, with_hints: bool) -> None:
        self._folder = folder
        self._with_hints = with_hints
        self._faults: dict[Fault, list[str]] = {}

    def run(self) -> FoundPairs:
        pairs, layout = self._pairs()
        if not pairs and not self._faults:
            self._note(EMPTY if self._with_hints else NO_PICTURE)
        return FoundPairs(tuple(pairs), self._faults, layout)

    def _note(self, fault: Fault, *places: str) -> None:
        self._faults.setdefault(fault, []).extend(places)

    def _relative(self, path: Path) -> str:
        """A file's path relative to the folder."""
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
        """Pair pictures and hints by their names without extension."""
        images, hints = (self._by_name(folder, picture_extensions()) for folder in (image_folder, hint_folder))
        unpaired = [images.get(name) or hints[name] for name in sorted(images.keys() ^ hints.keys())]
        if unpaired:
            self._note(UNPAIRED, *map(self._relative, unpaired))
        captions = self._captions(image_folder, images)
        paired = sorted(images.keys() & hints.keys())
        return [PairFiles(images[name], hints[name], captions.get(name)) for name in paired]

    def _pictures(self, folder: Path) -> list[PairFiles]:
        """The pictures of a folder, from which hints are made."""
        images = self._by_name(folder, picture_extensions())
        captions = self._captions(folder, images)
        return [PairFiles(images[name], images[name], captions.get(name)) for name in sorted(images)]

    def _captions(self, folder: Path, images: Collection[str]) -> dict[str, str | None]:
        """The captions of pictures by name, from text files next to them or in a folder of their own."""
        texts = self._by_name(folder, (".txt",)) | self._by_name(self._folder / CAPTIONS, (".txt",))
        return {name: self._caption(texts[name]) for name in sorted(texts) if name in images}

    def _caption(self, path: Path) -> str | None:
        text = self._text(path)
        return None if text is None else text.strip()

    def _by_name(self, folder: Path, extensions: Collection[str]) -> dict[str, Path]:
        """The files with certain extensions, by name without extension; hidden files are skipped."""
        found: dict[str, Path] = {}
        for path in self._entries(folder):
            if path.name.startswith(".") or path.suffix.lower() not in extensions or not path.is_file():
                continue
            # Some systems store an accented letter as one character, others as a letter and its accent.
            name = unicodedata.normalize("NFC", path.stem)
            if name in found:
                self._note(DUPLICATE_NAME, f"both {self._relative(found[name])} and {self._relative(path)}")
            found.setdefault(name, path)
        return found

    def _entries(self, folder: Path) -> list[Path]:
        """The content of a folder; empty if there is no folder."""
        try:
            return sorted(folder.iterdir()) if folder.is_dir() else []
        except OSError as error:
            self._note(UNREADABLE_FOLDER, str(error))
            return []

    def _listed_pairs(self, name: str, columns: _Columns) -> Iterator[PairFiles]:
        """Read the list of pairs."""
        for number, line in enumerate((self._text(self._folder / name) or "").split("\n"), 1):
            entry = self._entry(line, f"line {number} of {name}", columns) if line.strip() else None
            if entry is None:
                continue
            missing = [path for path in entry.paths if not os.path.isfile(path)]
            if missing:
                self._note(MISSING, *map(self._relative, missing))
            else:
                yield entry

    def _entry(self, line: str, place: str, columns: _Columns) -> PairFiles | None:
        """Read one line of the list; None, with a note, if it cannot be used."""
        try:
            entry = json.loads(line)
        except UNREADABLE as error:
            self._note(BROKEN_LINE, f"{place}: {error}")
            return None
        values = _values(entry, columns) if isinstance(entry, dict) else None
        if values is None or (self._with_hints and values[1] is None):
            self._note(_wrong_line(columns, self._with_hints), f"{place}: {line.strip()[:80]}")
            return None
        image, hint, caption = values
        files = (image, hint) if hint is not None and self._with_hints else (image,)
        if outside := [file for file in files if _is_outside(file)]:
            self._note(OUTSIDE, f"{place}: {outside[0]}")
            return None
        paths = [self._folder / file for file in files]
        return PairFiles(paths[0], paths[-1], caption)

    def _text(self, path: Path) -> str | None:
        """Read a text file; None, with a note, if that fails."""
        try:
            return path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            self._note(UNREADABLE_TEXT, f"{self._relative(path)}: {error}")
            return None


def _values(entry: Mapping[str, object], columns: _Columns) -> tuple[str, str | None, str | None] | None:
    """Picture, hint and caption of a line; None if one is no string or the picture is missing."""
    image, hint, caption = (_first(entry, names) for names in (columns.image, columns.hint, columns.caption))
    if not (isinstance(image, str) and isinstance(hint, str | None) and isinstance(caption, str | None)):
        return None
    return image, hint, caption


def _first(entry: Mapping[str, object], names: tuple[str, ...]) -> object:
    """The value of the first name that the entry has."""
    return next((entry[name] for name in names if entry.get(name) is not None), None)


def _wrong_line(columns: _Columns, with_hints: bool) -> Fault:
    """The fault of a line that lacks a value; it shows a correct line."""
    example = {columns.image[0]: "picture.png", columns.hint[0]: "hint.png", columns.caption[0]: "a caption"}
    if not with_hints:
        del example[columns.hint[0]]
    return Fault("lines that lack a value", json.dumps(example), "correct the line")


def _is_outside(file: str) -> bool:
    """Whether a relative path leaves its folder, or a path is absolute."""
    return bool(Path(file).anchor) or Path(os.path.normpath(file)).parts[:1] == ("..",)
