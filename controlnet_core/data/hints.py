"""Hints made from the pictures themselves, for pictures without hint files."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy
import torch
from torch import Tensor
from torch.nn import functional

from ..control.hint import read_hint
from ..errors import HintError
from ..pictures.read import HintImage

MadeHint = Literal["canny", "blur", "grey"]
HintKind = Literal["files", "canny", "blur", "grey"]
"""Where hints come from: files beside the pictures, or the pictures themselves."""
LUMA = (0.299, 0.587, 0.114)
"""The shares of red, green and blue in the brightness (ITU-R BT.601)."""
REACH = 3
"""Standard deviations at which a Gaussian is cut off."""


@dataclass(frozen=True)
class HintMaker:
    """Makes one kind of hint.

    Attributes:
        kind: "canny", "blur" or "grey".
        canny: The lower and the upper threshold of `canny_hint`, for "canny" alone.
        blur: The standard deviation of the blur in pixels, for "blur" alone.
    """

    kind: MadeHint
    canny: tuple[float, float] = (0.1, 0.2)
    blur: float = 8.0

    def __call__(self, image: Tensor) -> Tensor:
        """Make the hint of one picture, (1, 3, H, W) in [0, 1], in the same shape.

        Raises:
            HintError: If a parameter is impossible, or "canny" lacks kornia or scipy.
        """
        if self.kind == "canny":
            return canny_hint(image, *self.canny)
        return blur_hint(image, self.blur) if self.kind == "blur" else grey_hint(image)

    @property
    def name(self) -> tuple[str, ...]:
        """The kind and the parameters that it depends on."""
        parameters = {"canny": self.canny, "blur": (self.blur,), "grey": ()}[self.kind]
        return self.kind, *(repr(float(value)) for value in parameters)


def blur_hint(image: Tensor, deviation: float) -> Tensor:
    """Blur a picture; its border pixels are repeated outside.

    Arguments:
        image: (1, 3, H, W) in [0, 1].
        deviation: The standard deviation of the Gaussian in pixels.

    Returns:
        (1, 3, H, W) in [0, 1].

    Raises:
        HintError: If the deviation is not above 0.
    """
    if not 0 < deviation < math.inf:
        raise HintError(f"a blur of {deviation}", "a standard deviation above 0 pixels", "use for example 8")
    radius = math.ceil(REACH * deviation)
    distances = torch.arange(-radius, radius + 1, dtype=torch.float32)
    weights = torch.exp(-((distances / deviation) ** 2) / 2)
    kernel = (weights / weights.sum()).view(1, 1, 1, -1)
    channels = image.movedim(1, 0)
    for _ in ("along rows", "along columns"):
        padded = functional.pad(channels, (radius, radius, 0, 0), mode="replicate")
        channels = functional.conv2d(padded, kernel).transpose(-1, -2)
    return channels.movedim(0, 1).clamp(0, 1)


def grey_hint(image: Tensor) -> Tensor:
    """Turn a picture (1, 3, H, W) in [0, 1] grey, in the same shape."""
    weights = torch.tensor(LUMA).view(1, 3, 1, 1)
    return (image * weights).sum(1, keepdim=True).clamp(0, 1).expand(-1, 3, -1, -1)


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
        HintError: If kornia or scipy is not installed, the thresholds are not 0 < low < high, or the blur is not
            positive.
    """
    try:
        from kornia.filters import canny
        from scipy import ndimage
    except ImportError as error:
        missing = (error.name or "kornia").partition(".")[0]
        raise HintError(
            found=f"no {missing}", expected="kornia and scipy, which find the edges", do=f"run `pip install {missing}`"
        ) from error
    if not (0 < low < high and blur > 0):
        raise HintError(
            found=f"low = {low}, high = {high}, blur = {blur}",
            expected="0 < low < high and blur above 0",
            do="use for example low 0.1, high 0.2, blur 1",
        )
    size = 2 * round(2 * blur) + 1
    _, edges = canny(read_hint(image)[:1], low, high, (size, size), (blur, blur), hysteresis=False)
    found = edges[0, 0].cpu().numpy()
    # kornia would look at all pixels again for each pixel of the longest weak edge.
    lines, _ = ndimage.label(found > 0, structure=numpy.ones((3, 3)))
    kept = numpy.zeros(lines.max() + 1, dtype=found.dtype)
    kept[lines[found == 1]] = 1
    return torch.from_numpy(kept[lines]).to(edges.device).expand(1, 3, -1, -1)
