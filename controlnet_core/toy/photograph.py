"""The photograph that comes with the package, an ancient coin, and the hint made from its edges."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor
from torch.nn import functional

from ..config import FAMILIES
from ..control.hint import fit_hint
from ..data.hints import canny_hint
from ..pictures.read import load_image

COIN = Path(__file__).parent / "files" / "coin.png"
SIDE = FAMILIES["TINY"].image_size
"""Side of the hint in pixels."""
FINENESS = 3
"""How many times larger the picture is in which edges are found. Their lines, thickened there to three pixels, become
as wide as the outlines that nets are trained on: `drawing.LINE_WIDTH`."""
BLUR = 4.0
"""Standard deviation in pixels of that larger picture: most of a coin's relief vanishes, its rim stays."""


def coin_photograph() -> Tensor:
    """Load the coin: (1, 3, S, S) in [0, 1], at the photograph's own resolution."""
    return load_image(COIN)


def coin_hint() -> Tensor:
    """Draw the edges of the coin: (1, 3, SIDE, SIDE) in [0, 1]."""
    return edge_hint(coin_photograph())


def edge_hint(photograph: Tensor) -> Tensor:
    """Draw the edges of a photograph as the shapes generator draws outlines: thin, soft white lines on black.

    Arguments:
        photograph: (1, 3, H, W) in [0, 1]; the middle square is used.

    Returns:
        (1, 3, SIDE, SIDE) in [0, 1].

    Raises:
        HintError: If kornia or scipy, which find the edges, is not installed.
    """
    large = fit_hint(photograph, FINENESS * SIDE, FINENESS * SIDE)
    edges = functional.max_pool2d(canny_hint(large, blur=BLUR), FINENESS, stride=1, padding=FINENESS // 2)
    return functional.avg_pool2d(edges, FINENESS)
