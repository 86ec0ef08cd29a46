"""Pictures to tensors: files, arrays and PIL images to float32 pixels from 0 to 1."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from ..errors import HintError

HintImage = Tensor | numpy.ndarray[Any, Any] | Image.Image
FORMATS = (
    *("PNG", "JPEG", "MPO", "WEBP", "AVIF", "GIF", "BMP", "DIB", "TIFF", "PPM", "JPEG2000"),
    *("ICO", "TGA", "PCX", "PSD", "DDS", "SGI", "QOI", "SUN", "XBM", "XPM"),
)
"""Formats that Pillow decodes by itself. Of the others, some hand a file to another program: PostScript is one."""
PNG = b"\x89PNG\r\n\x1a\n"
PNG_CHUNK = 12
"""The bytes of a PNG's chunk beside its content: length, kind and checksum."""
PNG_TEXTS = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")
MAKE_SMALLER = "make it smaller"
SMALLEST_SIDE = 8
"""Pixels of one latent position: a smaller image cannot say where anything is."""
ROUNDING = 1e-3
"""How far outside [0, 1] a pixel may lie by rounding."""

LYING = (5, 6, 7, 8)
"""EXIF orientations in which rows are columns."""


@dataclass(frozen=True)
class PictureHeader:
    """What an image file says about itself before it is decoded.

    Attributes:
        sides: Height and width in pixels, rotated by the EXIF orientation; that of a PNG may stand after its pixels,
            where it is not seen.
        levels: The whole number that each pixel is a fraction of: 255, or 65535; None for floats.
    """

    sides: tuple[int, int]
    levels: int | None


def read_header(path: str | Path) -> PictureHeader:
    """Read what an image file says about itself; raises what `Image.open` does."""
    try:
        return _header(path)
    except ValueError:  # as `decoded_picture`
        return _header(io.BytesIO(_png_pixels(Path(path).read_bytes())))


def _header(file: str | Path | io.BytesIO) -> PictureHeader:
    with open_picture(file) as image:
        # Asked for an orientation that it lacks, Pillow decodes a PNG to look for one after the pixels.
        seen = image.format != "PNG" or "exif" in image.info
        lies = seen and image.getexif().get(ExifTags.Base.Orientation) in LYING
        width, height = image.size
        return PictureHeader((width, height) if lies else (height, width), _levels(image.mode))


def decoded_picture(path: str | Path) -> Image.Image:
    """Decode an image file of one of `FORMATS`, whatever its name, rotated by its EXIF orientation.

    Raises:
        HintError: If the file is missing, empty, truncated, too large or no image; the message names it.
    """
    try:
        try:
            return _decoded(path)
        except ValueError:  # Pillow refuses a PNG whose texts or colour profile are long
            return _decoded(io.BytesIO(_png_pixels(Path(path).read_bytes())))
    except Image.DecompressionBombError as error:
        raise HintError(
            found=f"{path}, which is too large ({error})",
            expected=f"at most {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels",
            do=MAKE_SMALLER,
        ) from error
    except Exception as error:  # decoders of damaged files raise of everything
        raise HintError(
            found=_fault(Path(path), error),
            expected="an image file, such as PNG, JPEG or WebP",
            do="check the path and the file",
        ) from error


def open_picture(file: str | Path | io.BytesIO) -> Image.Image:
    """Open an image file of one of `FORMATS`, whatever its name; raises what `Image.open` does."""
    Image.init()
    return Image.open(file, formats=[kind for kind in FORMATS if kind in Image.OPEN])


def _decoded(file: str | Path | io.BytesIO) -> Image.Image:
    with open_picture(file) as image:
        image.load()
        return ImageOps.exif_transpose(image)


def _png_pixels(content: bytes) -> bytes:
    """The content of a PNG without its texts and colour profile; any other content as it is."""
    if not content.startswith(PNG):
        return content
    kept, start = [PNG], len(PNG)
    while start < len(content):
        end = start + PNG_CHUNK + int.from_bytes(content[start : start + 4], "big")
        if content[start + 4 : start + 8] not in PNG_TEXTS:
            kept.append(content[start:end])
        start = end
    return b"".join(kept)


def picture_extensions() -> set[str]:
    """The extensions of the image files that can be opened."""
    Image.init()
    known = Image.registered_extensions().items()
    return {extension for extension, kind in known if kind in FORMATS and kind in Image.OPEN}


def load_image(path: str | Path, channels: int = 3) -> Tensor:
    """Read an image file, rotated by its EXIF orientation, with transparency laid over black.

    Arguments:
        path: The file.
        channels: 3 for colours, 1 for grey, 4 for colours and transparency.

    Returns:
        Shape (1, channels, H, W), float32 in [0, 1]; 16-bit files keep their precision.

    Raises:
        HintError: As `decoded_picture`, or if the file has too few channels, or floats outside 0 to 1.
    """
    pixels = read_pixels(decoded_picture(path), channels)
    if pixels.shape[1] not in (1, channels):
        raise HintError(
            found=f"{path} with {pixels.shape[1]} channels",
            expected=f"an image with {channels} channels, which the net reads",
            do="save it with transparency" if channels == 4 else "use an image that belongs to this net",
        )
    return in_range(pixels.expand(-1, channels, -1, -1))


def read_pixels(image: HintImage, channels: int = 3) -> Tensor:
    """Convert any layout to (B, C, H, W) and any dtype to float32; integers are scaled to 0 to 1.

    A PIL image is given in grey for 1 channel, with its transparency for 4, and else laid over black.
    """
    if isinstance(image, Image.Image):
        image = _array(image, channels)
    if isinstance(image, numpy.ndarray):
        channels_last = image[..., None] if image.ndim == 2 else image
        image = _tensor(channels_last).movedim(-1, -3) if channels_last.ndim >= 3 else _tensor(channels_last)
    if not isinstance(image, Tensor) or image.ndim not in (2, 3, 4):
        shape = f" of shape {tuple(image.shape)}" if isinstance(image, Tensor) else ""
        raise HintError(
            found=f"a {type(image).__name__}{shape}",
            expected="a PIL image, a numpy array ([B,] H, W, C) or a torch tensor ([B,] C, H, W)",
            do="convert the image to one of these",
        )
    return _scaled(image.reshape((1,) * (4 - image.ndim) + tuple(image.shape)))


def _tensor(array: numpy.ndarray[Any, Any]) -> Tensor:
    """Copy an array to a tensor; 16-bit images, with which torch does not compute, become float first."""
    if array.dtype == numpy.uint16:
        array = array / 65535
    try:
        return torch.from_numpy(numpy.array(array))
    except TypeError as error:
        raise HintError(
            found=f"an array of {array.dtype}", expected="numbers", do="give uint8 from 0 to 255 or floats from 0 to 1"
        ) from error


def _scaled(pixels: Tensor) -> Tensor:
    """Scale pixels to float32 in [0, 1], or raise what is wrong with their dtype."""
    if pixels.dtype in (torch.uint8, torch.bool):
        return pixels.float() / (255 if pixels.dtype == torch.uint8 else 1)
    if pixels.dtype.is_floating_point:
        return pixels.float()
    raise HintError(
        found=f"pixels of {pixels.dtype}",
        expected="uint8 from 0 to 255 or floats from 0 to 1",
        do="convert them to one of these",
    )


def in_range(pixels: Tensor) -> Tensor:
    """Check that pixels are finite and in [0, 1]; rounding errors are clamped."""
    if not pixels.isfinite().all():
        raise HintError(found="pixels that are NaN or infinite", expected="values from 0 to 1", do="check their source")
    low, high = float(pixels.min()), float(pixels.max())
    if low < -ROUNDING or high > 1 + ROUNDING:
        raise HintError(
            found=f"pixels from {low:.4g} to {high:.4g}",
            expected="values from 0 to 1",
            do="divide by 255, or map -1..1 with (x + 1) / 2",
        )
    return pixels if low >= 0 and high <= 1 else pixels.clamp(0, 1)


def _array(image: Image.Image, channels: int) -> numpy.ndarray[Any, Any]:
    """Lay an image over black, unless 4 channels are read; one of 16 bits or floats stays grey in its own precision."""
    levels = _levels(image.mode)
    if levels is None:
        return numpy.array(image)
    if levels > 255:
        return numpy.array(image, dtype=numpy.float32) / levels
    grey = image.mode in ("L", "1", "LA")
    transparent = image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info
    if transparent and channels == 4:
        return numpy.array(image.convert("RGBA"))
    if transparent:
        colours = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", colours.size, "black"), colours)
    return numpy.array(image.convert("L" if grey or channels == 1 else "RGB"))


def _levels(mode: str) -> int | None:
    """What pixels are fractions of in an image of a mode, as Pillow calls it; None for floats."""
    return None if mode == "F" else 65535 if mode.startswith("I") else 255


def _fault(path: Path, error: Exception) -> str:
    """Why a file could not be read, naming it."""
    if not path.is_file():
        return f"no file {path}" if not path.exists() else f"{path}, which is a folder"
    if path.stat().st_size == 0:
        return f"{path}, which is empty"
    if isinstance(error, UnidentifiedImageError):
        return f"{path}, which is no image that can be read"
    return f"{path}, which cannot be decoded ({error})"
