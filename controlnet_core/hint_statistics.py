"""What hints look like, in two numbers: is what a net is given of the kind that it was trained on?"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass

from torch import Tensor

DARK, BRIGHT = 0.1, 0.9
"""A pixel is nearly black if all its channels are below the first, and nearly white if all are above the second."""
ANOTHER_KIND = 0.5
"""Shares of pixels that differ by this much belong to hints of different kinds."""
ONE_SHADE = 2 / 255
"""Pixels that differ by less are one shade, however they were stored."""
METADATA_KEY = "training.hints"
LINES = re.compile(r"(?<![a-z])(canny|lineart|softedge|hed|pidi|mlsd|scribble|open_?pose|pose|outline)(?![a-z])")
"""Kinds of hints, in the names of files, that are bright lines on black."""


@dataclass(frozen=True)
class HintStatistics:
    """What some hints look like.

    Attributes:
        dark: The share of pixels that are nearly black.
        bright: The share of pixels that are nearly white.
    """

    dark: float
    bright: float

    @classmethod
    def of(cls, hints: Tensor) -> HintStatistics:
        """Those of hints (B, C, H, W) in [0, 1]."""
        dark, bright = (hints < DARK).all(1), (hints > BRIGHT).all(1)
        return cls(float(dark.float().mean()), float(bright.float().mean()))

    @property
    def text(self) -> str:
        """As they are stored in a net's metadata."""
        return json.dumps({name: round(share, 4) for name, share in asdict(self).items()})


def expected_hints(metadata: dict[str, str], name: str) -> HintStatistics | None:
    """What the hints of a net look like: as its training found, or as usual file names say; None if neither tells.

    Arguments:
        metadata: The metadata of its file.
        name: The name of its file.
    """
    try:
        stored = json.loads(metadata[METADATA_KEY])
        return HintStatistics(float(stored["dark"]), float(stored["bright"]))
    except (KeyError, TypeError, ValueError, RecursionError):  # not trained here, or changed by someone
        return HintStatistics(dark=0.9, bright=0.05) if LINES.search(name.lower()) else None


def hint_notes(hints: Tensor, expected: HintStatistics | None) -> list[str]:
    """Say that hints show nothing, are all the same, or are of another kind than a net was trained on.

    Arguments:
        hints: Shape (B, C, H, W), in [0, 1].
        expected: What the net's hints look like, if that is known.
    """
    low, high = hints.flatten(1).amin(1), hints.flatten(1).amax(1)
    empty = high - low < ONE_SHADE
    if empty.any():
        shade = "black" if high[empty].max() < DARK else "white" if low[empty].min() > BRIGHT else "one shade of grey"
        which = "the hint is" if len(hints) == 1 else f"{int(empty.sum())} of {len(hints)} hints are"
        return [f"{which} all {shade}, so there is nothing to follow"]
    notes = []
    if len(hints) > 1 and bool((hints[1:] == hints[:1]).all()):
        notes.append(f"all {len(hints)} hints are the same picture")
    if expected is not None:
        notes += _kind_notes(HintStatistics.of(hints), expected)
    return notes


def _kind_notes(found: HintStatistics, expected: HintStatistics) -> list[str]:
    """Say that hints look inverted, or like another kind."""
    given, own = (f"{hints.dark:.0%} black and {hints.bright:.0%} white" for hints in (found, expected))
    shares = f"it is {given}, the net's own hints are {own}"
    if abs(found.dark - expected.dark) <= ANOTHER_KIND and abs(found.bright - expected.bright) <= ANOTHER_KIND:
        return []
    inverted = HintStatistics(dark=found.bright, bright=found.dark)
    if abs(inverted.dark - expected.dark) <= ANOTHER_KIND and abs(inverted.bright - expected.bright) <= ANOTHER_KIND:
        return [f"the hint looks inverted: invert it ({shares})"]
    return [f"the hint looks like another kind than the net reads; is it the picture itself? ({shares})"]
