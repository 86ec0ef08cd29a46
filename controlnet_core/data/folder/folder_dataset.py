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
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ...control.hint import fit_hint
from ...control.notes import crop_note
from ...errors import DatasetError, HintError
from ...keyed import digest
from ...pictures.read import MAKE_SMALLER, load_image, read_header
from ..dataset import Content, Pair
from ..hints import HintKind, HintMaker
from ..levels import rounded
from .faults import EVEN_STEP, OTHER_ASPECT, UNEQUAL, UNEVEN, first_error
from .file_hashes import hash_files
from .find import PairFiles, find_pairs

SIDE_STEP = 8
"""Pixels of one latent position."""
MADE_LEVELS = 255
"""A hint that is made has 8 bits, as its file would."""


class DatasetWarning(UserWarning):
    """Training data that can be used but may not be what was meant."""


class FolderDataset:
    """The pairs of a folder, sorted by name or in the order of the list; a picture is read when its pair is indexed.

    Pictures and hints are rotated by their EXIF orientation; transparency is laid over black; grey becomes RGB.
    A hint that is resized keeps the 8 or 16 bits of its file, and one that is made has 8. A picture without a caption
    gets the empty one, and a warning counts them.

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
        pairs = [
            ([content.decode() for content in row[: len(files.paths)]], files.caption)
            for files, row in zip(self.files, self._hashes, strict=True)
        ]
        return digest("folder", self._size, *made, pairs)

    @cached_property
    def _hashes(self) -> NDArray[Any]:
        """The hashes of each pair's picture and hint, (N, 2); a list of them would be three times as large."""
        paths = list(dict.fromkeys(path for files in self.files for path in files.paths))
        found = dict(zip(paths, hash_files(paths, self._index), strict=True))
        return np.array([(found[files.image], found[files.hint]) for files in self.files], dtype=bytes)

    def __getitem__(self, index: int) -> Pair:
        """Read pair `index`, counted from 0.

        Raises:
            IndexError: If the index is negative or beyond the last pair.
            DatasetError: If the picture or the hint cannot be read, or they do not fit each other.
        """
        files = self._files(index)
        image = self._image(files)
        hint = self._read_hint(files) if self._maker is None else self._made_hint(self._maker, image)
        return Pair(image[0], hint[0], files.caption or "", str(files.image))

    def images(self, indices: Sequence[int]) -> Tensor:
        """Read the pictures of many pairs, (N, 3, H, W) in [0, 1]; raises as `hints` does."""
        return torch.cat([self._image(self._files(index)) for index in indices])

    def hints(self, indices: Sequence[int]) -> Tensor:
        """Read or make the hints of many pairs, (N, 3, H, W) in [0, 1].

        Raises:
            IndexError: If an index is negative or beyond the last pair.
            DatasetError: If a file cannot be read, or picture and hint do not fit each other.
        """
        return torch.cat([self._hint(self._files(index)) for index in indices])

    def contents(self, indices: Sequence[int]) -> list[Content]:
        """Name the parts of many pairs by the bytes of their files; raises as `fingerprint` does."""
        return [self._content(index) for index in indices]

    def _content(self, index: int) -> Content:
        files = self._files(index)
        image, hint = (content.decode() for content in self._hashes[index])
        picture = digest("picture", image, self._sides)
        if self._maker is not None:
            return Content(picture, files.caption or "", digest("made hint", self._maker.name, picture))
        return Content(picture, files.caption or "", digest("hint", hint, self._sides))

    def _files(self, index: int) -> PairFiles:
        if not 0 <= index < len(self.files):
            raise IndexError(f"pair {index} of {len(self.files)}")
        return self.files[index]

    def _image(self, files: PairFiles) -> Tensor:
        """The picture of a pair, (1, 3, H, W)."""
        image = load_picture(files.image)
        if not self._resized and _sides(image) != self._sides:
            raise DatasetError(
                found=f"{files.image} of {in_pixels(image.shape[-2:])}",
                expected=f"{in_pixels(self._sides)}, as {self.files[0].image} has",
                do=UNEQUAL.do,
            )
        if files.hint != files.image:
            _check_aspect(files, _header_sides(files.hint), _sides(image))
        return self._fitted(image)

    def _hint(self, files: PairFiles) -> Tensor:
        """The hint of a pair, (1, 3, H, W); its picture is read only if the hint is made from it."""
        return self._read_hint(files) if self._maker is None else self._made_hint(self._maker, self._image(files))

    def _read_hint(self, files: PairFiles) -> Tensor:
        """The hint of a pair in as many bits as its file has, (1, 3, H, W)."""
        hint = load_picture(files.hint)
        _check_aspect(files, _sides(hint), _header_sides(files.image))
        return hint if _sides(hint) == self._sides else rounded(self._fitted(hint), read_header(files.hint).levels)

    def _made_hint(self, maker: HintMaker, image: Tensor) -> Tensor:
        """The hint made from a picture (1, 3, H, W), in as many bits as the file of a hint would have."""
        return rounded(maker(image), MADE_LEVELS)

    def _fitted(self, pixels: Tensor) -> Tensor:
        """Crop and resize (1, 3, H, W) to the size of the dataset."""
        return fit_hint(pixels, *self._sides)


def differs_in_aspect(hint: tuple[int, int], picture: tuple[int, int]) -> bool:
    """Whether a hint of some height and width has another aspect than its picture."""
    return crop_note(torch.empty(1, 1, *hint, device="meta"), *picture) is not None


def _check_aspect(files: PairFiles, hint: tuple[int, int], picture: tuple[int, int]) -> None:
    """Check that a hint has its picture's aspect, by what headers say; only if they deny it are the files decoded."""
    if not differs_in_aspect(hint, picture):
        return
    hint, picture = (_sides(load_picture(path)) for path in (files.hint, files.image))
    if differs_in_aspect(hint, picture):
        raise DatasetError(
            found=f"{files.hint} of {in_pixels(hint)} for a picture of {in_pixels(picture)}",
            expected=OTHER_ASPECT.expected,
            do=OTHER_ASPECT.do,
        )


def _sides(pixels: Tensor) -> tuple[int, int]:
    """Height and width of (1, 3, H, W)."""
    height, width = pixels.shape[-2:]
    return height, width


def _header_sides(path: Path) -> tuple[int, int]:
    """Height and width of a picture, from its header; raises DatasetError if it cannot be read."""
    try:
        return read_header(path).sides
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return _sides(load_picture(path))  # says what is wrong


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
    height, width = _sides(load_picture(path))
    if height % EVEN_STEP or width % EVEN_STEP:
        raise DatasetError(
            found=f"{path} of {in_pixels((height, width))}",
            expected=UNEVEN.expected,
            do=UNEVEN.do,
        )
    return height, width
