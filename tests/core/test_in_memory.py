"""Pairs in memory: what they hold, what names them, what is refused; and the preview."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from controlnet_core.data.in_memory import InMemoryDataset, preview
from controlnet_core.errors import DatasetError
from controlnet_core.pictures.sheet import sheet
from controlnet_core.toy.shapes_dataset import ShapesDataset


def pixels(seed: int, *shape: int) -> Tensor:
    return torch.rand(shape or (3, 3, 16, 24), generator=torch.Generator().manual_seed(seed))


def test_pairs_are_what_was_given() -> None:
    images, hints = pixels(0), pixels(1)
    pairs = InMemoryDataset(images, hints, ["one", "two", "three"])
    assert len(pairs) == 3
    assert torch.equal(pairs[2].image, images[2]) and torch.equal(pairs[2].hint, hints[2])
    assert [pairs[index].caption for index in range(3)] == ["one", "two", "three"]
    assert torch.equal(pairs.hints([2, 0]), hints[[2, 0]])
    assert InMemoryDataset(images, hints, "one for all")[1].caption == "one for all"
    for index in (-1, 3):
        with pytest.raises(IndexError):
            pairs[index]
        with pytest.raises(IndexError):
            pairs.hints([index])


def test_the_fingerprint_names_the_content() -> None:
    images, hints = pixels(0), pixels(1)
    first = InMemoryDataset(images, hints, "a").fingerprint
    assert InMemoryDataset(images.clone(), hints.double(), ["a", "a", "a"]).fingerprint == first
    changed = images.clone()
    changed[2, 2, -1, -1] = 0.5
    others = [
        InMemoryDataset(changed, hints, "a"),
        InMemoryDataset(hints, images, "a"),
        InMemoryDataset(images, hints, "b"),
        InMemoryDataset(images[:2], hints[:2], "a"),
        InMemoryDataset(images.reshape(3, 3, 24, 16), hints.reshape(3, 3, 24, 16), "a"),
    ]
    assert len({first, *(pairs.fingerprint for pairs in others)}) == 1 + len(others)


def test_rounding_outside_the_range_is_cut_off() -> None:
    images = torch.full((1, 3, 8, 8), 1.0005)
    assert float(InMemoryDataset(images, images, "")[0].image.max()) == 1


@pytest.mark.parametrize(
    ("images", "hints", "captions", "message"),
    [
        (pixels(0, 3, 16, 16), pixels(0), "", r"pictures of shape \(3, 16, 16\); expected \(N, 3, H, W\)"),
        (pixels(0, 1, 4, 16, 16), pixels(0), "", r"pictures of shape \(1, 4, 16, 16\)"),
        (torch.zeros(0, 3, 16, 16), torch.zeros(0, 3, 16, 16), "", "at least 1"),
        (pixels(0, 1, 3, 16, 20), pixels(0, 1, 3, 16, 20), "", "multiples of 8 pixels"),
        (pixels(0, 2, 3, 16, 16), pixels(0, 1, 3, 16, 16), "", "as many hints as pictures"),
        (pixels(0, 1, 3, 16, 16), pixels(0, 1, 3, 8, 8), "", "in the same size"),
        (pixels(0), pixels(1), ["a", "b"], "2 captions for 3 pictures"),
        (pixels(0) * 255, pixels(1), "", "pictures with pixels from .* expected values from 0 to 1"),
        (pixels(0), pixels(1) - 1, "", "hints with pixels from -"),
        (pixels(0), pixels(1).log().sqrt(), "", "hints with pixels from nan to nan"),
    ],
)
def test_what_cannot_be_learned_from_is_refused(
    images: Tensor, hints: Tensor, captions: str | list[str], message: str
) -> None:
    with pytest.raises(DatasetError, match=message):
        InMemoryDataset(images, hints, captions)


@pytest.mark.parametrize(("count", "places"), [(1, [0]), (2, [0, 8]), (3, [0, 4, 8]), (6, [0, 2, 3, 5, 6, 8])])
def test_a_preview_shows_evenly_spaced_pairs(count: int, places: list[int]) -> None:
    dataset = ShapesDataset(9, 64, 0)
    pairs = [dataset[place] for place in places]
    rows = [[pair.image, pair.hint] for pair in pairs]
    expected = sheet(rows, ("picture", "hint"), [pair.caption for pair in pairs])
    assert preview(dataset, count).tobytes() == expected.tobytes()


def test_a_preview_takes_few_pairs_and_any_caption() -> None:
    images = pixels(0)
    for captions in ("", ["two\nlines  \u2603", "\U0001f600", "long " * 200]):
        pairs = InMemoryDataset(images, images, captions)
        assert preview(pairs).size == preview(pairs, 3).size
    assert preview(InMemoryDataset(images, images, "")).width < preview(InMemoryDataset(images, images, "a")).width
    with pytest.raises(DatasetError, match="a preview of 0 pairs"):
        preview(pairs, 0)
