"""Warnings about pairs to train on: they can be used, but a net may learn nothing from them."""

from __future__ import annotations

from ..hint_statistics import ONE_SHADE, hint_notes
from .dataset import PairDataset

LOOKED_AT = 32
"""So many pairs tell what is wrong with all."""


class PairsWarning(UserWarning):
    """Pairs from which a net may learn nothing."""


def looked_at(dataset: PairDataset) -> list[int]:
    """Pairs that stand for all, at most 32 of them, spread over the dataset."""
    count = min(len(dataset), LOOKED_AT)
    return [number * len(dataset) // count for number in range(count)]


def pair_notes(dataset: PairDataset) -> list[str]:
    """Say that hints show nothing, are all the same, or are the pictures themselves; some pairs are looked at."""
    rows = looked_at(dataset)
    hints = dataset.hints(rows)
    notes = hint_notes(hints, None)
    images = [dataset[row].image for row in rows]
    own = sum(
        hint.shape == image.shape and bool((hint - image).abs().max() < ONE_SHADE)
        for hint, image in zip(hints, images, strict=True)
    )
    if own > len(rows) // 2:
        notes.append(f"{own} of {len(rows)} hints are the pictures themselves: the net can only learn to copy")
    return [f"of the pairs to train on, {note}" for note in notes]

