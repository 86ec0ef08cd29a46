"""Hint images: pixels in any common layout to a checked tensor (B, channels, H, W) in [0, 1]."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.nn import functional

from ..errors import HintError

HintImage = Tensor | numpy.ndarray[Any, Any] | Image.Image
SMALLEST_SIDE = 8
"""Pixels of one latent position: a smaller image says nothing about place."""
ROUNDING = 1e-3
"""How far outside [0, 1] a pixel may lie by rounding."""


class ControlWarning(UserWarning):
    """Control that was asked for and does not act as one may expect; the picture is still drawn."""


def prepare_hint(image: HintImage, height: int, width: int, channels: int = 3) -> Tensor:
    """Read and fit a hint: see `read_hint` and `fit_hint`. Warns with `ControlWarning` if it is cropped."""
    hint = read_hint(image, channels)
    note = crop_note(hint, height, width)
    if note is not None:
        warnings.warn(note, ControlWarning, stacklevel=2)
    return fit_hint(hint, height, width)


def read_hint(image: HintImage, channels: int = 3) -> Tensor:
    """Read a hint image of any size.

    Arguments:
        image: A torch tensor ([B,] C, H, W), a numpy array ([B,] H, W, C), either without the channel if it is grey;
            uint8 in 0 to 255 or float in 0 to 1. Or a PIL image.
        channels: What the net reads; a grey image is repeated to fill them.

    Returns:
        Shape (B, channels, H, W), float32 in [0, 1]; the same tensor if it already was that.

    Raises:
        HintError: If the image is too small, of another layout, not finite or out of range.
    """
    pixels = _pixels(image)
    if pixels.shape[1] == 1 and channels > 1:
        pixels = pixels.expand(-1, channels, -1, -1)
    if pixels.shape[1] != channels or pixels.shape[0] < 1:
        raise HintError(
            found=f"an image of shape {tuple(pixels.shape)}",
            expected=f"(B, {channels}, H, W) with {channels} channels, or 1",
            do=_advice(pixels, channels),
        )
    if min(pixels.shape[-2:]) < SMALLEST_SIDE:
        raise HintError(
            found=f"an image of {pixels.shape[-1]} x {pixels.shape[-2]} pixels",
            expected=f"at least {SMALLEST_SIDE} x {SMALLEST_SIDE}",
            do="give the hint in about the size of the picture to draw",
        )
    return _in_range(pixels)


def read_mask(mask: HintImage) -> Tensor:
    """Read where a net should act: shape (H, W), a torch tensor also (B, H, W) or (B, 1, H, W); 0 to 1.

    Returns:
        Shape (B, 1, H, W), float32 in [0, 1].

    Raises:
        HintError: If it has colours, is of another layout, not finite or out of range.
    """
    pixels = _pixels(mask.unsqueeze(1) if isinstance(mask, Tensor) and mask.ndim == 3 else mask)
    if pixels.shape[1] != 1:
        raise HintError(
            found=f"a mask of shape {tuple(pixels.shape)}", expected="(B, 1, H, W)", do="convert the mask to grey"
        )
    return _in_range(pixels)


def fit_hint(hint: Tensor, height: int, width: int) -> Tensor:
    """Crop a hint (B, C, H, W) around its centre to the wanted aspect, then resize (bilinear, with antialiasing)."""
    if hint.shape[-2:] == (height, width):
        return hint
    cropped = _cropped(hint, height, width)
    return functional.interpolate(cropped, size=(height, width), mode="bilinear", antialias=True).clamp(0, 1)


def fit_mask(mask: Tensor, height: int, width: int) -> Tensor:
    """Crop a mask (B, 1, H, W) as `fit_hint` does, then resize by averaging, so that its edges stay where they are."""
    return functional.interpolate(_cropped(mask, height, width), size=(height, width), mode="area")


def crop_note(image: Tensor, height: int, width: int, name: str = "hint") -> str | None:
    """In words, what `fit_hint` will cut off; None if the image has the picture's aspect to within a pixel."""
    rows, columns = _cropped_size(image, height, width)
    lost = max(image.shape[-2] - rows, image.shape[-1] - columns)
    if lost <= 1:
        return None
    return (
        f"the {name} has {image.shape[-1]} x {image.shape[-2]} pixels, another aspect than the picture's "
        f"{width} x {height}: {lost} {'rows' if rows < image.shape[-2] else 'columns'} at its borders are cut off"
    )


def load_image(path: str | Path) -> Tensor:
    """Read an image file, turned as its camera says, with transparency laid over black.

    Returns:
        Shape (1, 3, H, W), float32 in [0, 1]; 16-bit files keep their precision.

    Raises:
        HintError: If the file is missing, empty, cut short or no image; the message names it. If it holds floats
            outside 0 to 1.
    """
    try:
        with Image.open(path) as image:
            image.load()
            pixels = _pixels(ImageOps.exif_transpose(image))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise HintError(
            found=_fault(Path(path), error), expected="an image file", do="check the path and the file"
        ) from error
    return _in_range(pixels.expand(-1, 3, -1, -1))


def canny_hint(image: HintImage, low: float = 0.1, high: float = 0.2, blur: float = 1.0) -> Tensor:
    """Draw the edges of one image, white on black (Canny 1986).

    Arguments:
        image: As for `read_hint`, one image.
        low: Edges weaker than this are dropped. Strength is that of Sobel's filter on pixels from 0 to 1, so a step
            from black to white has 4 without blur; a threshold meant for pixels from 0 to 255 is divided by 255.
        high: Edges at least this strong are kept, and weaker ones that touch them.
        blur: Standard deviation in pixels of the Gaussian blur that comes first.

    Returns:
        Shape (1, 3, H, W), 0 or 1.

    Raises:
        HintError: If kornia is not installed, the thresholds are not 0 < low < high, or the blur is not positive.
    """
    try:
        from kornia.filters import canny
    except ImportError as error:
        raise HintError(
            found="no kornia", expected="kornia, which finds the edges", do="run `pip install kornia`"
        ) from error
    if not (0 < low < high and blur > 0):
        raise HintError(
            found=f"low = {low}, high = {high}, blur = {blur}",
            expected="0 < low < high and blur above 0",
            do="use for example low 0.1, high 0.2, blur 1",
        )
    size = 2 * round(2 * blur) + 1
    _, edges = canny(read_hint(image)[:1], low, high, (size, size), (blur, blur))
    return edges.expand(-1, 3, -1, -1)


def _pixels(image: HintImage) -> Tensor:
    """Bring any layout to (B, C, H, W) and any dtype to float32, where whole numbers become 0 to 1."""
    if isinstance(image, Image.Image):
        image = _opaque_array(image)
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
    """Copy an array to a tensor; what torch does not compute with (16-bit images) becomes float first."""
    if array.dtype == numpy.uint16:
        array = array / 65535
    try:
        return torch.from_numpy(numpy.array(array))
    except TypeError as error:
        raise HintError(
            found=f"an array of {array.dtype}", expected="numbers", do="give uint8 from 0 to 255 or floats from 0 to 1"
        ) from error


def _scaled(pixels: Tensor) -> Tensor:
    """Give float32 pixels in [0, 1], or say what is wrong with their dtype."""
    if pixels.dtype in (torch.uint8, torch.bool):
        return pixels.float() / (255 if pixels.dtype == torch.uint8 else 1)
    if pixels.dtype.is_floating_point:
        return pixels.float()
    raise HintError(
        found=f"pixels of {pixels.dtype}",
        expected="uint8 from 0 to 255 or floats from 0 to 1",
        do="convert them to one of these",
    )


def _in_range(pixels: Tensor) -> Tensor:
    """Check that pixels are finite and in [0, 1]; what rounding put beside it is put back."""
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


def _opaque_array(image: Image.Image) -> numpy.ndarray[Any, Any]:
    """Lay an image over black; one of 16 bits or of floats stays a grey array of its own precision."""
    if image.mode.startswith("I"):
        return numpy.array(image, dtype=numpy.float32) / 65535
    if image.mode == "F":
        return numpy.array(image)
    grey = image.mode in ("L", "1", "LA")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        colours = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", colours.size, "black"), colours)
    return numpy.array(image.convert("L" if grey else "RGB"))


def _cropped_size(hint: Tensor, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of the largest part of a hint that has the aspect of height x width."""
    rows, columns = hint.shape[-2:]
    return min(rows, max(1, round(columns * height / width))), min(columns, max(1, round(rows * width / height)))


def _cropped(hint: Tensor, height: int, width: int) -> Tensor:
    """The central part of a hint that has the aspect of height x width."""
    rows, columns = _cropped_size(hint, height, width)
    top, left = (hint.shape[-2] - rows) // 2, (hint.shape[-1] - columns) // 2
    return hint[..., top : top + rows, left : left + columns]


def _advice(pixels: Tensor, channels: int) -> str:
    """What to do about a wrong number of channels."""
    if pixels.shape[-1] == channels:
        return "a torch tensor has its channels first: use image.movedim(-1, -3)"
    return "convert the image to the channels the net reads"


def _fault(path: Path, error: Exception) -> str:
    """Why a file could not be read, naming it."""
    if not path.is_file():
        return f"no file {path}" if not path.exists() else f"{path}, which is a folder"
    if path.stat().st_size == 0:
        return f"{path}, which is empty"
    if isinstance(error, UnidentifiedImageError):
        return f"{path}, which is no image that can be read"
    return f"{path}, which cannot be decoded ({error})"
