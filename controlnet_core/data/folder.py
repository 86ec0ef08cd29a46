"""Pairs of pictures and hints from a folder on disk, in one of two layouts.

By name: `images/NAME.png` and `hints/NAME.png`, with the caption in `captions/NAME.txt` or `images/NAME.txt`. Any kind
of image file will do, and the two need not be of one kind.

By list, as in fill50k: `prompt.json` holds one JSON object a line, whose "source" is the file of the hint, "target"
that of the picture and "prompt" the caption. Where there is such a list, only what it names is looked at.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
import warnings
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from ..control.hint_image import crop_note, fit_hint, load_image
from ..errors import DatasetError, HintError
from .pairs import Pair

IMAGES, HINTS, CAPTIONS, LIST = "images", "hints", "captions", "prompt.json"
SIDE_STEP = 8
"""Pixels of one latent position."""
EVEN_STEP = 64
"""Pixels of one position at the lowest level of a UNet: multiples of it are halved evenly at every level."""


class DatasetWarning(UserWarning):
    """Training data that can be used but may not be what was meant."""


@dataclass(frozen=True)
class PairFiles:
    """Where a pair is found; `caption` is None if there is none."""

    image: Path
    hint: Path
    caption: str | None


class FolderDataset:
    """The pairs of a folder, sorted by name or in the order of the list; pictures are read as they are asked for.

    Pictures and hints are turned as their camera says; transparency is laid over black; grey becomes RGB.
    A picture without a caption gets the empty one, and a warning counts them.

    Arguments:
        path: The folder.
        size: Pictures are resized until their short side has so many pixels, a multiple of 8, and the middle square is
            cut out; hints likewise. None takes pictures as they are: all must have one size, a multiple of 64 each way.

    Attributes:
        files: Where each pair is found.
        fingerprint: A hash of `size`, the captions, and the names, sizes and times of change of all files.

    Raises:
        DatasetError: If the folder is missing or has neither layout, a picture or hint lacks its partner, two files
            claim one name, there is no pair at all, a text is not UTF-8, or the size is impossible. A picture that
            cannot be read, and a hint of another aspect than its picture, is an error when it is asked for.
    """

    def __init__(self, path: str | Path, size: int | None = None) -> None:
        folder = Path(path)
        if size is not None and (size < SIDE_STEP or size % SIDE_STEP):
            raise DatasetError(f"size {size}", f"a multiple of {SIDE_STEP} pixels", "use for example 512")
        self.files = _find_pairs(folder)
        self.fingerprint = _fingerprint(self.files, size)
        self._resized = size is not None
        self._sides = (size, size) if size is not None else _common_sides(self.files[0].image)
        bare = [files.image for files in self.files if files.caption is None]
        if bare:
            message = f"{len(bare)} of {len(self.files)} pictures have no caption, such as {bare[0]}: it is left empty"
            warnings.warn(message, DatasetWarning, stacklevel=2)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Pair:
        """Read pair `index`, which runs from 0.

        Raises:
            IndexError: If the index is negative or beyond the last pair.
            DatasetError: If the picture or the hint cannot be read, or they do not fit each other.
        """
        files = self._files(index)
        image, hint = _load(files.image), _load(files.hint)
        if not self._resized and tuple(image.shape[-2:]) != self._sides:
            raise DatasetError(
                found=f"{files.image} of {_words(image.shape[-2:])}",
                expected=f"{_words(self._sides)}, as {self.files[0].image} has",
                do="set a size to resize and crop all pictures to",
            )
        if crop_note(hint, *image.shape[-2:]) is not None:
            raise DatasetError(
                found=f"{files.hint} of {_words(hint.shape[-2:])} for a picture of {_words(image.shape[-2:])}",
                expected="a hint of the picture's aspect, pixel over pixel",
                do="make the hint from the whole picture",
            )
        return Pair(self._fitted(image), self._fitted(hint), files.caption or "")

    def hints(self, indices: Sequence[int]) -> Tensor:
        """Read the hints of many pairs, (N, 3, H, W) in [0, 1], without their pictures.

        Raises:
            IndexError: If an index is negative or beyond the last pair.
            DatasetError: If a hint cannot be read.
        """
        return torch.stack([self._fitted(_load(self._files(index).hint)) for index in indices])

    def _files(self, index: int) -> PairFiles:
        if not 0 <= index < len(self.files):
            raise IndexError(f"pair {index} of {len(self.files)}")
        return self.files[index]

    def _fitted(self, pixels: Tensor) -> Tensor:
        """Crop and resize (1, 3, H, W) to the sides of all pictures, without the first dimension."""
        return fit_hint(pixels, *self._sides)[0]


def _find_pairs(folder: Path) -> list[PairFiles]:
    """Find all pairs of a folder; there is at least one."""
    layouts = f"a folder with {IMAGES} and {HINTS} in it, or {LIST}"
    if not folder.is_dir():
        raise DatasetError(f"no folder {folder}", layouts, "check the path")
    if (folder / LIST).is_file():
        pairs = list(_listed_pairs(folder))
        _check_files(folder, [path for files in pairs for path in (files.hint, files.image) if not path.is_file()])
    elif (folder / IMAGES).is_dir() and (folder / HINTS).is_dir():
        pairs = _named_pairs(folder)
    else:
        raise DatasetError(f"{folder} without {LIST}, and without {IMAGES} and {HINTS}", layouts, "check the path")
    if not pairs:
        raise DatasetError(f"no pair in {folder}", "at least 1 picture with its hint", "put pictures and hints there")
    return pairs


def _named_pairs(folder: Path) -> list[PairFiles]:
    """Pair pictures, hints and captions by their names without ending."""
    readable = {ending for ending, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    images, hints = (_by_name(folder / place, readable) for place in (IMAGES, HINTS))
    lonely = images.keys() ^ hints.keys()
    _check_partners(folder, [images.get(name) or hints[name] for name in sorted(lonely)])
    texts = _by_name(folder / IMAGES, (".txt",)) | _by_name(folder / CAPTIONS, (".txt",))
    captions = {name: _read_text(texts[name]).strip() for name in images.keys() & texts.keys()}
    return [PairFiles(images[name], hints[name], captions.get(name)) for name in sorted(images)]


def _by_name(folder: Path, endings: Collection[str]) -> dict[str, Path]:
    """List the files with certain endings by their names without them; hidden files are passed over."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.name.startswith(".") or path.suffix.lower() not in endings or not path.is_file():
            continue
        # Some systems store an accented letter as one sign, others as a letter and its accent.
        name = unicodedata.normalize("NFC", path.stem)
        if name in found:
            raise DatasetError(f"both {found[name]} and {path}", "one file of each name", "rename or remove one")
        found[name] = path
    return found


def _check_partners(folder: Path, lonely: Sequence[Path]) -> None:
    if lonely:
        raise DatasetError(
            found=f"{len(lonely)} unpaired files, such as {lonely[0]}",
            expected=f"for every {folder / IMAGES / 'NAME.png'} one {folder / HINTS / 'NAME.png'}",
            do="add what is missing or take these files away",
        )


def _listed_pairs(folder: Path) -> Iterator[PairFiles]:
    """Read the list of pairs."""
    for number, line in enumerate(_read_text(folder / LIST).split("\n"), 1):
        if line.strip():
            source, target, prompt = _read_entry(line, f"line {number} of {folder / LIST}")
            yield PairFiles(image=folder / target, hint=folder / source, caption=prompt)


def _read_entry(line: str, place: str) -> tuple[str, str, str | None]:
    """Read one line of the list: source, target and prompt."""
    try:
        entry = json.loads(line)
    except ValueError as error:
        raise DatasetError(f"{place}: {error}", "one JSON object a line", "correct the line") from error
    match entry:
        case {"source": str(source), "target": str(target), "prompt": str(prompt)}:
            return source, target, prompt
        case {"source": str(source), "target": str(target)} if "prompt" not in entry:
            return source, target, None
    raise DatasetError(
        found=f"{place}: {line.strip()[:80]}",
        expected='{"source": "hint.png", "target": "picture.png", "prompt": "a caption"}',
        do="correct the line",
    )


def _check_files(folder: Path, missing: Sequence[Path]) -> None:
    if missing:
        raise DatasetError(
            found=f"{len(missing)} missing files, such as {missing[0]}",
            expected=f"every file that {folder / LIST} names",
            do="add the files or remove their lines",
        )


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: {error}", "a text in UTF-8", "correct the file") from error


def _fingerprint(pairs: Sequence[PairFiles], size: int | None) -> str:
    digest = hashlib.blake2b(repr(("folder", size)).encode(), digest_size=16)
    for files in pairs:
        states = [(path.name, path.stat()) for path in (files.image, files.hint)]
        facts = [(name, state.st_size, state.st_mtime_ns) for name, state in states]
        digest.update(repr((facts, files.caption)).encode())
    return digest.hexdigest()


def _common_sides(path: Path) -> tuple[int, int]:
    """Height and width of a picture that gives all others their size."""
    height, width = _load(path).shape[-2:]
    if height % EVEN_STEP or width % EVEN_STEP:
        raise DatasetError(
            found=f"{path} of {_words((height, width))}",
            expected=f"without a size, pictures whose sides are multiples of {EVEN_STEP} pixels",
            do="set a size to resize and crop all pictures to",
        )
    return height, width


def _load(path: Path) -> Tensor:
    """Read a picture as `load_image` does, (1, 3, H, W) in [0, 1]."""
    try:
        return load_image(path)
    except HintError as error:
        found = error.found if str(path) in error.found else f"{path}: {error.found}"
        raise DatasetError(found, error.expected, "replace the file, or take the pair away") from error


def _words(sides: Sequence[int]) -> str:
    height, width = sides
    return f"{width} x {height} pixels"
