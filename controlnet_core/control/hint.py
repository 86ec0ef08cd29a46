"""Hint images: from any common layout to a checked tensor (B, channels, H, W) in [0, 1]."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from ..errors import HintError
from ..pictures.read import SMALLEST_SIDE, HintImage, in_range, read_pixels

MASKED = -1.0
"""The value of hint pixels that an inpainting net fills."""


def read_hint(image: HintImage, channels: int = 3) -> Tensor:
    """Read a hint image of any size.

    Arguments:
        image: A torch tensor ([B,] C, H, W), a numpy array ([B,] H, W, C), either without the channel if it is grey;
            uint8 in 0 to 255 or float in 0 to 1, or -1 in all channels of a pixel that an inpainting net fills. Or a
            PIL image.
        channels: How many the net reads; a grey image is repeated to fill them, a PIL image turned to grey for 1.

    Returns:
        Shape (B, channels, H, W), float32 in [0, 1], -1 in masked pixels; the same tensor if it already is that.

    Raises:
        HintError: If the image is too small or has another layout, or its values are not finite or out of range.
    """
    pixels = read_pixels(image, channels)
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
    masked = (pixels == MASKED).all(dim=1, keepdim=True)
    return in_range(pixels.masked_fill(masked, 0)).masked_fill(masked, MASKED) if masked.any() else in_range(pixels)


def read_mask(mask: HintImage) -> Tensor:
    """Read a mask of where a net acts, 0 to 1: shape (H, W); a torch tensor also (B, H, W) or (B, 1, H, W).

    Returns:
        Shape (B, 1, H, W), float32 in [0, 1].

    Raises:
        HintError: If the mask has colours or another layout, or its values are not finite or out of range.
    """
    pixels = read_pixels(mask.unsqueeze(1) if isinstance(mask, Tensor) and mask.ndim == 3 else mask)
    if pixels.shape[1] != 1:
        raise HintError(
            found=f"a mask of shape {tuple(pixels.shape)}", expected="(B, 1, H, W)", do="convert the mask to grey"
        )
    return in_range(pixels)


def fit_hint(hint: Tensor, height: int, width: int) -> Tensor:
    """Crop a hint (B, C, H, W) around its centre to the wanted aspect, then resize (bilinear, with antialiasing).

    A hint with masked pixels is resized to the nearest pixels, so that none is a mixture.
    """
    if hint.shape[-2:] == (height, width):
        return hint
    cropped = _cropped(hint, height, width)
    if (cropped == MASKED).any():
        return functional.interpolate(cropped, size=(height, width), mode="nearest-exact")
    return functional.interpolate(cropped, size=(height, width), mode="bilinear", antialias=True).clamp(0, 1)


def fit_mask(mask: Tensor, height: int, width: int) -> Tensor:
    """Crop a mask (B, 1, H, W) as `fit_hint` does, then resize by averaging, so that its edges stay where they are."""
    return functional.interpolate(_cropped(mask, height, width), size=(height, width), mode="area")


def cropped_size(hint: Tensor, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of the largest part of a hint that has the aspect of height x width."""
    rows, columns = hint.shape[-2:]
    return min(rows, max(1, round(columns * height / width))), min(columns, max(1, round(rows * width / height)))


def _cropped(hint: Tensor, height: int, width: int) -> Tensor:
    """The central part of a hint that has the aspect of height x width."""
    rows, columns = cropped_size(hint, height, width)
    top, left = (hint.shape[-2] - rows) // 2, (hint.shape[-1] - columns) // 2
    return hint[..., top : top + rows, left : left + columns]


def _advice(pixels: Tensor, channels: int) -> str:
    """What to do about a wrong number of channels."""
    if pixels.shape[-1] == channels:
        return "a torch tensor has its channels first: use image.movedim(-1, -3)"
    return "convert the image to the channels the net reads"
