"""Looks through a folder of pictures before any training, and says all that is wrong with it at once."""

from __future__ import annotations

import hashlib
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, ImageOps

from ...control.notes import crop_note
from ...errors import DatasetError
from ..dataset import Progress
from ..held_out import held_out_count
from ..hints import HintKind
from .faults import EVEN_STEP, OTHER_ASPECT, UNEQUAL, UNEVEN, UNREADABLE, Fault, words
from .find import FoundPairs, PairFiles, find_pairs
from .folder_dataset import check_choices, in_pixels, load_picture

NAMED = 8
"""Places of each fault that a report names."""
READERS = 4
"""Pictures that are decoded at a time."""
FEW = 100
"""Pairs below which a net hardly learns anything."""
HUGE_PICTURE = 64_000_000
"""Pixels above which a picture takes seconds to read."""
SIZES_SHOWN = 3
PLAIN_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK")
"""Kinds of picture, as Pillow calls them, of which no pixel can be out of range."""
NO_CAPTION = Fault("pictures without a caption", "a caption for each", "they are learned with the empty one")
SMALL = Fault("pictures smaller than the size of training", "larger pictures", "they are enlarged")
HUGE = Fault(
    what=f"pictures of over {HUGE_PICTURE // 1_000_000} million pixels",
    expected="smaller pictures",
    do="they are slow to read: make them smaller beforehand",
)
Sides = tuple[int, int]
"""Height and width in pixels."""


@dataclass(frozen=True)
class FolderReport:
    """What there is to say about a folder.

    Attributes:
        pairs: How many pairs were found.
        problems: What a run on the folder would fail on.
        warnings: What can be used but may not be what was meant.
        facts: What else is known.
    """

    pairs: int
    problems: tuple[str, ...]
    warnings: tuple[str, ...]
    facts: tuple[str, ...]

    @property
    def text(self) -> str:
        """The report in lines."""
        lines = [_counted(self.pairs)]
        for title, notes in (("Problems", self.problems), ("Warnings", self.warnings), ("Facts", self.facts)):
            lines += [f"{title}:", *(f"  - {note}" for note in notes)] if notes else []
        return "\n".join(lines)


@dataclass(frozen=True)
class _Look:
    """What one file holds: its sides, or why it cannot be read; and a hash of its bytes."""

    sides: Sides | None
    fault: str
    content: bytes


Looks = Mapping[Path, _Look]


def examine(
    path: str | Path, size: int | None = None, hint: HintKind = "files", progress: Progress | None = None
) -> FolderReport:
    """Look through a folder for `FolderDataset`, and decode all its pictures and hints.

    Arguments:
        path: The folder.
        size: As for `FolderDataset`.
        hint: As for `FolderDataset`.
        progress: Told how many files are read; it is called from the calling thread, and may raise to stop.

    Raises:
        DatasetError: If the size or the kind of hint is impossible. What is wrong with the data is never raised.
    """
    check_choices(size, hint)
    folder = Path(path)
    found = find_pairs(folder, with_hints=hint == "files")
    looks = _look_at(list(dict.fromkeys(path for files in found.pairs for path in files.paths)), progress)
    faults = {**found.faults, **_broken(folder, found.pairs, looks, size)}
    return FolderReport(
        pairs=len(found.pairs),
        problems=tuple(_note(fault, places) for fault, places in faults.items()),
        warnings=_warnings(folder, found.pairs, looks, size),
        facts=_facts(found, looks),
    )


def _look_at(paths: Sequence[Path], progress: Progress | None) -> Looks:
    """Decode all files."""
    looks: dict[Path, _Look] = {}
    pool = ThreadPoolExecutor(min(READERS, os.cpu_count() or 1))
    try:
        for path, look in zip(paths, pool.map(_look, paths), strict=True):
            looks[path] = look
            if progress is not None:
                progress(len(looks), len(paths))
    finally:
        pool.shutdown(cancel_futures=True)
    return looks


def _look(path: Path) -> _Look:
    try:
        sides = _sides(path)
        with path.open("rb") as file:
            return _Look(sides, "", hashlib.file_digest(file, "blake2b").digest())
    except (DatasetError, OSError) as error:
        return _Look(None, error.found if isinstance(error, DatasetError) else str(error), b"")


def _sides(path: Path) -> Sides:
    """Height and width of a picture that can be decoded to its end; raises DatasetError for any other."""
    with suppress(OSError, SyntaxError, ValueError, Image.DecompressionBombError), Image.open(path) as image:
        image.load()
        if image.mode in PLAIN_MODES:
            width, height = ImageOps.exif_transpose(image).size
            return height, width
    # Many times slower: it looks at each number, and says what is wrong.
    height, width = load_picture(path).shape[-2:]
    return height, width


def _broken(folder: Path, pairs: Sequence[PairFiles], looks: Looks, size: int | None) -> dict[Fault, list[str]]:
    """What the decoded files show to be wrong."""
    slanted = [files.hint for files in pairs if _is_slanted(looks[files.image], looks[files.hint])]
    faults = {
        UNREADABLE: [look.fault.replace(f"{folder}{os.sep}", "") for look in looks.values() if look.sides is None],
        OTHER_ASPECT: _sized(folder, slanted, looks),
    }
    if size is None:
        faults |= _misfits(folder, pairs, looks)
    return {fault: places for fault, places in faults.items() if places}


def _is_slanted(image: _Look, hint: _Look) -> bool:
    """Whether a hint has another aspect than its picture."""
    if image.sides is None or hint.sides is None:
        return False
    return crop_note(torch.empty(1, 1, *hint.sides, device="meta"), *image.sides) is not None


def _misfits(folder: Path, pairs: Sequence[PairFiles], looks: Looks) -> dict[Fault, list[str]]:
    """What is wrong with the sizes of pictures that are taken as they are: the first gives all others theirs."""
    readable = [files.image for files in pairs if looks[files.image].sides is not None]
    sides = [looks[path].sides for path in readable]
    uneven = [path for path in readable[:1] if any(side % EVEN_STEP for side in looks[path].sides or ())]
    unequal = [path for path, own in zip(readable, sides, strict=True) if own != sides[0]]
    return {UNEVEN: _sized(folder, uneven, looks), UNEQUAL: _sized(folder, unequal, looks)}


def _sized(folder: Path, paths: Sequence[Path], looks: Looks) -> list[str]:
    """Files as seen from the folder, with their sizes."""
    return [f"{path.relative_to(folder).as_posix()} ({in_pixels(looks[path].sides or (0, 0))})" for path in paths]


def _warnings(folder: Path, pairs: Sequence[PairFiles], looks: Looks, size: int | None) -> tuple[str, ...]:
    """What can be used but may not be what was meant."""
    bare = [files.image.relative_to(folder).as_posix() for files in pairs if files.caption is None]
    images = {files.image: sides for files in pairs if (sides := looks[files.image].sides) is not None}
    small = [path for path, sides in images.items() if min(sides) < (size or 0)]
    large = [path for path, sides in images.items() if math.prod(sides) > HUGE_PICTURE]
    hints = [looks[files.hint].content for files in pairs]
    concerned = {NO_CAPTION: bare, SMALL: _sized(folder, small, looks), HUGE: _sized(folder, large, looks)}
    notes = [_note(fault, places) for fault, places in concerned.items() if places]
    if 0 < len(pairs) < FEW:
        notes.append(f"only {_counted(len(pairs))}: a net needs hundreds at least")
    if len(hints) > 1 and len(set(hints)) == 1:
        notes.append("all hints are the same picture: a net learns nothing from them")
    return tuple(notes)


def _counted(pairs: int) -> str:
    return f"{pairs} pair{'' if pairs == 1 else 's'}"


def _note(fault: Fault, places: Sequence[str]) -> str:
    return f"{words(fault, places, NAMED)}; {fault.do}"


def _facts(found: FoundPairs, looks: Looks) -> tuple[str, ...]:
    """How the pairs were found, how many are held out, and the sizes of the pictures."""
    facts = [f"layout: {found.layout}"]
    if kept := held_out_count(len(found.pairs)):
        facts.append(f"{_counted(kept)} are kept from training, to measure it")
    sizes = Counter(sides for files in found.pairs if (sides := looks[files.image].sides) is not None)
    if sizes:
        small, large = min(sizes, key=math.prod), max(sizes, key=math.prod)
        common = ", ".join(f"{in_pixels(sides)} ({count} times)" for sides, count in sizes.most_common(SIZES_SHOWN))
        facts += [f"smallest picture: {in_pixels(small)}; largest: {in_pixels(large)}", f"most frequent: {common}"]
    return tuple(facts)
