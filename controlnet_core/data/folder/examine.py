"""Examines a folder of pictures before training, and reports all its faults at once."""

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

from ...errors import DatasetError, HintError
from ...pictures.read import decoded_picture
from ..dataset import Progress
from ..held_out import held_out_count
from ..hints import HintKind
from .faults import EVEN_STEP, OTHER_ASPECT, UNEQUAL, UNEVEN, UNREADABLE_PICTURE, Fault, description
from .find import FoundPairs, PairFiles, find_pairs
from .folder_dataset import check_choices, differs_in_aspect, in_pixels, load_picture

NAMED_IN_REPORTS = 8
"""Places of each fault that a report names."""
READERS = 4
"""Pictures that are decoded at the same time."""
FEW = 100
"""Pairs below which a net hardly learns anything."""
HUGE_PICTURE = 64_000_000
"""Pixels above which a picture takes seconds to read."""
SIZES_SHOWN = 3
PLAIN_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK")
"""Kinds of picture, as Pillow calls them, of which no pixel can be out of range."""
NO_CAPTION = Fault("pictures without a caption", "a caption for each", "they get the empty caption")
SMALL = Fault("pictures smaller than the training size", "larger pictures", "they are enlarged")
HUGE = Fault(
    what=f"pictures of over {HUGE_PICTURE // 1_000_000} million pixels",
    expected="smaller pictures",
    do="they are slow to read: make them smaller beforehand",
)
Sides = tuple[int, int]
"""Height and width in pixels."""


@dataclass(frozen=True)
class FolderReport:
    """The result of examining a folder.

    Attributes:
        pairs: How many pairs were found.
        problems: Faults on which training would fail.
        warnings: Data that can be used but may not be what was meant.
        facts: Layout, held-out pairs and sizes.
    """

    pairs: int
    problems: tuple[str, ...]
    warnings: tuple[str, ...]
    facts: tuple[str, ...]

    @property
    def text(self) -> str:
        """The report as lines of text."""
        lines = [_counted(self.pairs)]
        for title, notes in (("Problems", self.problems), ("Warnings", self.warnings), ("Facts", self.facts)):
            lines += [f"{title}:", *(f"  - {note}" for note in notes)] if notes else []
        return "\n".join(lines)


@dataclass(frozen=True)
class _Scan:
    """The content of one file: its sides, or why it cannot be read; and a hash of its bytes."""

    sides: Sides | None
    fault: str
    content: bytes


Scans = Mapping[Path, _Scan]


def examine(
    path: str | Path, size: int | None = None, hint: HintKind = "files", progress: Progress | None = None
) -> FolderReport:
    """Examine a folder for `FolderDataset`: find its pairs and decode all pictures and hints.

    Arguments:
        path: The folder.
        size: As for `FolderDataset`.
        hint: As for `FolderDataset`.
        progress: Told how many files are read; it is called from the calling thread, and may raise to stop.

    Raises:
        DatasetError: If the size or the kind of hint is impossible. Faults of the data are only reported.
    """
    check_choices(size, hint)
    folder = Path(path)
    found = find_pairs(folder, with_hints=hint == "files")
    scans = _scan_all(list(dict.fromkeys(path for files in found.pairs for path in files.paths)), progress)
    faults = {**found.faults, **_faults(folder, found.pairs, scans, size)}
    return FolderReport(
        pairs=len(found.pairs),
        problems=tuple(_note(fault, places) for fault, places in faults.items()),
        warnings=_warnings(folder, found.pairs, scans, size),
        facts=_facts(found, scans),
    )


def _scan_all(paths: Sequence[Path], progress: Progress | None) -> Scans:
    """Decode all files."""
    scans: dict[Path, _Scan] = {}
    pool = ThreadPoolExecutor(min(READERS, os.cpu_count() or 1))
    try:
        for path, scan in zip(paths, pool.map(_scan, paths), strict=True):
            scans[path] = scan
            if progress is not None:
                progress(len(scans), len(paths))
    finally:
        pool.shutdown(cancel_futures=True)
    return scans


def _scan(path: Path) -> _Scan:
    try:
        sides = _sides(path)
        with path.open("rb") as file:
            return _Scan(sides, "", hashlib.file_digest(file, "blake2b").digest())
    except (DatasetError, OSError) as error:
        return _Scan(None, error.found if isinstance(error, DatasetError) else str(error), b"")


def _sides(path: Path) -> Sides:
    """Height and width of a picture that can be decoded to its end; raises DatasetError for any other."""
    with suppress(HintError):
        image = decoded_picture(path)
        if image.mode in PLAIN_MODES:
            return image.height, image.width
    # Many times slower: this checks every number, and says what is wrong.
    height, width = load_picture(path).shape[-2:]
    return height, width


def _faults(folder: Path, pairs: Sequence[PairFiles], scans: Scans, size: int | None) -> dict[Fault, list[str]]:
    """The faults that the decoded files show."""
    both = ((files.hint, scans[files.hint].sides, scans[files.image].sides) for files in pairs)
    other_aspect = [path for path, hint, picture in both if hint and picture and differs_in_aspect(hint, picture)]
    faults = {
        UNREADABLE_PICTURE: [
            scan.fault.replace(f"{folder}{os.sep}", "") for scan in scans.values() if scan.sides is None
        ],
        OTHER_ASPECT: _with_sizes(folder, other_aspect, scans),
    }
    if size is None:
        faults |= _size_faults(folder, pairs, scans)
    return {fault: places for fault, places in faults.items() if places}


def _size_faults(folder: Path, pairs: Sequence[PairFiles], scans: Scans) -> dict[Fault, list[str]]:
    """The faults in the sizes of pictures that are not resized: the first picture sets the size of all."""
    readable = [files.image for files in pairs if scans[files.image].sides is not None]
    sides = [scans[path].sides for path in readable]
    uneven = [path for path in readable[:1] if any(side % EVEN_STEP for side in scans[path].sides or ())]
    unequal = [path for path, own in zip(readable, sides, strict=True) if own != sides[0]]
    return {UNEVEN: _with_sizes(folder, uneven, scans), UNEQUAL: _with_sizes(folder, unequal, scans)}


def _with_sizes(folder: Path, paths: Sequence[Path], scans: Scans) -> list[str]:
    """Paths of files relative to the folder, with their sizes."""
    return [f"{path.relative_to(folder).as_posix()} ({in_pixels(scans[path].sides or (0, 0))})" for path in paths]


def _warnings(folder: Path, pairs: Sequence[PairFiles], scans: Scans, size: int | None) -> tuple[str, ...]:
    """The warnings about data that can be used but may not be what was meant."""
    without_caption = [files.image.relative_to(folder).as_posix() for files in pairs if files.caption is None]
    images = {files.image: sides for files in pairs if (sides := scans[files.image].sides) is not None}
    small = [path for path, sides in images.items() if min(sides) < (size or 0)]
    large = [path for path, sides in images.items() if math.prod(sides) > HUGE_PICTURE]
    hints = [scans[files.hint].content for files in pairs]
    faults = {
        NO_CAPTION: without_caption,
        SMALL: _with_sizes(folder, small, scans),
        HUGE: _with_sizes(folder, large, scans),
    }
    notes = [_note(fault, places) for fault, places in faults.items() if places]
    if 0 < len(pairs) < FEW:
        notes.append(f"only {_counted(len(pairs))}: a net needs hundreds at least")
    if len(hints) > 1 and len(set(hints)) == 1:
        notes.append("all hints are the same picture: a net learns nothing from them")
    return tuple(notes)


def _counted(pairs: int) -> str:
    return f"{pairs} pair{'' if pairs == 1 else 's'}"


def _note(fault: Fault, places: Sequence[str]) -> str:
    return f"{description(fault, places, NAMED_IN_REPORTS)}; {fault.do}"


def _facts(found: FoundPairs, scans: Scans) -> tuple[str, ...]:
    """How the pairs were found, how many are held out, and the sizes of the pictures."""
    facts = [f"layout: {found.layout}"]
    if held_out := held_out_count(len(found.pairs)):
        facts.append(f"{_counted(held_out)} are held out to measure the training")
    sizes = Counter(sides for files in found.pairs if (sides := scans[files.image].sides) is not None)
    if sizes:
        small, large = min(sizes, key=math.prod), max(sizes, key=math.prod)
        common = ", ".join(f"{in_pixels(sides)} ({count} times)" for sides, count in sizes.most_common(SIZES_SHOWN))
        facts += [f"smallest picture: {in_pixels(small)}; largest: {in_pixels(large)}", f"most frequent: {common}"]
    return tuple(facts)
