"""The faults that a folder of pictures can have, and how each is described."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...errors import DatasetError

IMAGES, HINTS, CAPTIONS = "images", "hints", "captions"
"""The folders in which pairs are found by their names."""
EVEN_STEP = 64
"""Pixels of one position at the lowest level of a UNet: multiples of it divide evenly at every level."""
NAMED_IN_ERRORS = 5
"""Places that an error message names."""


@dataclass(frozen=True)
class Fault:
    """One kind of fault.

    Attributes:
        what: What is wrong; in the plural if it has places.
        expected: What would have been right.
        do: What to do about it.
    """

    what: str
    expected: str
    do: str


Faults = Mapping[Fault, Sequence[str]]
"""The places of each fault: files relative to the folder, or lines of a list. A fault of the folder itself has none."""
LAYOUTS = f"a folder with {IMAGES} and {HINTS} in it, or with prompt.json or metadata.jsonl"
NO_FOLDER = Fault("no such folder", LAYOUTS, "check the path")
NO_LAYOUT = Fault(f"no prompt.json, no metadata.jsonl, and no {IMAGES} with {HINTS}", LAYOUTS, "check the path")
EMPTY = Fault("no pair", "at least 1 picture with its hint", "put pictures and hints there")
NO_PICTURE = Fault("no picture", f"pictures, in {IMAGES} or in the folder itself", "put pictures there")
UNREADABLE_FOLDER = Fault("folders that cannot be read", "readable folders", "change the folder's permissions")
DUPLICATE_NAME = Fault("files that share a name", "one file of each name", "rename or remove one")
UNPAIRED = Fault(
    what="unpaired files",
    expected=f"for every {IMAGES}/NAME.png one {HINTS}/NAME.png",
    do="add what is missing or remove these files",
)
UNREADABLE_TEXT = Fault("texts that cannot be read", "a text in UTF-8", "save the file as UTF-8")
BROKEN_LINE = Fault("broken lines", "one JSON object a line", "correct the line")
OUTSIDE = Fault("paths that leave the folder", "paths inside it, relative to it", "move the files into the folder")
MISSING = Fault("missing files", "every file that the list names", "add the files or remove their lines")
UNREADABLE_PICTURE = Fault("pictures that cannot be decoded", "image files", "replace the file or remove the pair")
OTHER_ASPECT = Fault(
    what="hints of another aspect than their picture",
    expected="a hint of the picture's aspect, which covers it pixel by pixel",
    do="make the hint from the whole picture",
)
UNEQUAL = Fault(
    what="pictures of another size than the first",
    expected="without a size, pictures of one size",
    do="set a size to resize and crop all pictures to",
)
UNEVEN = Fault(
    what=f"a first picture whose sides are not multiples of {EVEN_STEP} pixels",
    expected=f"without a size, pictures whose sides are multiples of {EVEN_STEP} pixels",
    do=UNEQUAL.do,
)


def description(fault: Fault, places: Sequence[str], limit: int) -> str:
    """Say what is wrong, and name the first places."""
    if not places:
        return fault.what
    more = f" and {len(places) - limit} more" if len(places) > limit else ""
    return f"{fault.what} ({len(places)}): {', '.join(places[:limit])}{more}"


def first_error(folder: Path, faults: Faults) -> DatasetError | None:
    """The first fault as an error; None if there is no fault."""
    for fault, places in faults.items():
        return DatasetError(f"{folder}: {description(fault, places, NAMED_IN_ERRORS)}", fault.expected, fault.do)
    return None
