"""Pairs of pictures and hints from a folder on disk, in one of three layouts.

By name: `images/NAME.png` and `hints/NAME.png`, with the caption in `captions/NAME.txt` or `images/NAME.txt`. Any kind
of image file will do, and the two may be of different kinds.

By list, as in fill50k: `prompt.json` holds one JSON object a line, whose "source" is the file of the hint, "target"
that of the picture and "prompt" the caption. If there is a list, only the files that it names count.

By list, as Hugging Face does: `metadata.jsonl` likewise, with the picture in "file_name" or "image", the hint in
"conditioning_image", "conditioning_image_file_name" or "hint", and the caption in "text", "caption" or "prompt".

If hints are made from the pictures, hint files are ignored, and the pictures may be in the folder itself.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor

from ...control.hint import fit_hint
from ...control.notes import crop_note
from ...errors import DatasetError, HintError
from ...keyed import digest
from ...pictures.read import MAKE_SMALLER, load_image
from ..dataset import Pair
from ..hints import HintKind, HintMaker
from .faults import EVEN_STEP, OTHER_ASPECT, UNEQUAL, UNEVEN, first_error
from .file_hashes import hash_files
from .find import PairFiles, find_pairs

SIDE_STEP = 8
"""Pixels of one latent position."""


class DatasetWarning(UserWarning):
    """Training data that can be used but may not be what was meant."""


class FolderDataset:
    """The pairs of a folder, sorted by name or in the order of the list; a picture is read when its pair is indexed.

    Pictures and hints are rotated by their EXIF orientation; transparency is laid over black; grey becomes RGB.
    A picture without a caption gets the empty one, and a warning counts them.

    Arguments:
        path: The folder.
        size: Side of the pictures in pixels, a multiple of 8: the central square of each picture is resized to it;
            hints likewise. None keeps pictures as they are: all must have one size, each side a multiple of 64.
        hint: "files" reads the hints from the folder; "canny", "blur" and "grey" make them from the resized pictures.
        canny: The lower and the upper threshold of "canny", as `canny_hint` takes them.
        blur: The standard deviation of "blur", in pixels of the resized picture.
        index: A file that keeps the hashes of pictures, so that the fingerprint reads only those that changed; None
            reads all of them.

    Attributes:
        files: The files of each pair.

    Raises:
        DatasetError: If the folder is missing or has no layout, a picture or hint lacks its partner, two files share
            a name, a listed file is missing or outside the folder, there is no pair, a text is not UTF-8, or the
            size or the kind of hint is impossible. A picture that cannot be read, and a hint of another aspect than its
            picture, is an error when its pair is indexed.
        HintError: If hints cannot be made: a parameter is impossible, or "canny" lacks kornia or scipy.
    """

    def __init__(
        self,
        path: str | Path,
        size: int | None = None,
        hint: HintKind = "files",
        canny: tuple[float, float] = (0.1, 0.2),
        blur: float = 8.0,
        index: Path | None = None,
    ) -> None:
        check_choices(size, hint)
        self._maker = None if hint == "files" else HintMaker(hint, canny, blur)
        if self._maker is not None:
            self._maker(torch.zeros(1, 3, SIDE_STEP, SIDE_STEP))  # fail now, not in the middle of training
        found = find_pairs(Path(path), with_hints=hint == "files")
        if error := first_error(Path(path), found.faults):
            raise error
        self.files = found.pairs
        self._size = size
        self._index = index
        self._resized = size is not None
        self._sides = (size, size) if size is not None else _common_sides(self.files[0].image)
        without_caption = [files.image for files in self.files if files.caption is None]
        if without_caption:
            share = f"{len(without_caption)} of {len(self.files)}"
            message = f"{share} pictures have no caption, such as {without_caption[0]}: they get the empty one"
            warnings.warn(message, DatasetWarning, stacklevel=2)

    def __len__(self) -> int:
        return len(self.files)

    @cached_property
    def fingerprint(self) -> str:
        """Name the content: the bytes of pictures and hints, the captions, the size, and how hints are made.

        Names and times of files, and the path of the folder, do not count.

        Raises:
            DatasetError: If a file cannot be read.
            WriteError: If the index cannot be written.
        """
        made = () if self._maker is None else self._maker.name
        paths = [path for files in self.files for path in files.paths]
        hashes = dict(zip(paths, hash_files(paths, self._index), strict=True))
        pairs = [([hashes[path] for path in files.paths], files.caption) for files in self.files]
        return digest("folder", self._size, *made, pairs)

    def __getitem__(self, index: int) -> Pair:
        """Read pair `index`, counted from 0.

        Raises:
            IndexError: If the index is negative or beyond the last pair.
            DatasetError: If the picture or the hint cannot be read, or they do not fit each other.
        """
        files = self._files(index)
        image = load_picture(files.image)
        if not self._resized and tuple(image.shape[-2:]) != self._sides:
            raise DatasetError(
                found=f"{files.image} of {in_pixels(image.shape[-2:])}",
                expected=f"{in_pixels(self._sides)}, as {self.files[0].image} has",
                do=UNEQUAL.do,
            )
        fitted = self._fitted(image)
        hint = self._hint(files, fitted, image.shape[-2:])[0]
        return Pair(fitted[0], hint, files.caption or "", str(files.image))

    def hints(self, indices: Sequence[int]) -> Tensor:
        """Read or make the hints of many pairs, (N, 3, H, W) in [0, 1].

        Raises:
            IndexError: If an index is negative or beyond the last pair.
            DatasetError: If a file cannot be read.
        """
        return torch.cat([self._hint_alone(self._files(index)) for index in indices])

    def _files(self, index: int) -> PairFiles:
        if not 0 <= index < len(self.files):
            raise IndexError(f"pair {index} of {len(self.files)}")
        return self.files[index]

    def _hint(self, files: PairFiles, fitted: Tensor, sides: Sequence[int]) -> Tensor:
        """The hint of a picture with these sides, made from the fitted picture or read, (1, 3, H, W)."""
        if self._maker is not None:
            return self._maker(fitted)
        hint = load_picture(files.hint)
        if crop_note(hint, sides[0], sides[1]) is not None:
            raise DatasetError(
                found=f"{files.hint} of {in_pixels(hint.shape[-2:])} for a picture of {in_pixels(sides)}",
                expected=OTHER_ASPECT.expected,
                do=OTHER_ASPECT.do,
            )
        return self._fitted(hint)

    def _hint_alone(self, files: PairFiles) -> Tensor:
        """The hint of a pair, (1, 3, H, W); its picture is read only if the hint is made from it."""
        fitted = self._fitted(load_picture(files.hint))
        return fitted if self._maker is None else self._maker(fitted)

    def _fitted(self, pixels: Tensor) -> Tensor:
        """Crop and resize (1, 3, H, W) to the size of the dataset."""
        return fit_hint(pixels, *self._sides)


def check_choices(size: int | None, hint: str) -> None:
    """Check the size and the kind of hint of a dataset.

    Raises:
        DatasetError: If the size is no multiple of 8 pixels, or the kind of hint is unknown.
    """
    if size is not None and (size < SIDE_STEP or size % SIDE_STEP):
        raise DatasetError(f"size {size}", f"a multiple of {SIDE_STEP} pixels", "use for example 512")
    if hint not in get_args(HintKind):
        raise DatasetError(f"hint {hint!r}", f"one of {', '.join(get_args(HintKind))}", "choose one of these kinds")


def load_picture(path: Path) -> Tensor:
    """Read a picture as `load_image` does, (1, 3, H, W) in [0, 1].

    Raises:
        DatasetError: If it cannot be read; the message names it.
    """
    try:
        return load_image(path)
    except HintError as error:
        found = error.found if str(path) in error.found else f"{path}: {error.found}"
        do = error.do if error.do == MAKE_SMALLER else "replace the file or remove the pair"
        raise DatasetError(found, error.expected, do) from error


def in_pixels(sides: Sequence[int]) -> str:
    """Height and width as text, the width first."""
    height, width = sides
    return f"{width} x {height} pixels"


def _common_sides(path: Path) -> tuple[int, int]:
    """Height and width of the first picture, which sets the size of all others."""
    height, width = load_picture(path).shape[-2:]
    if height % EVEN_STEP or width % EVEN_STEP:
        raise DatasetError(
            found=f"{path} of {in_pixels((height, width))}",
            expected=UNEVEN.expected,
            do=UNEVEN.do,
        )
    return height, width
