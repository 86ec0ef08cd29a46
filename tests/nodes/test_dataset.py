"""Pictures that come in batches, one by one or both are one dataset; what does not fit together is told."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.extension import Extension

COUNT = 5


def images(count: int = COUNT, seed: int = 0, width: int = 16, height: int = 8, channels: int = 3) -> Tensor:
    """An IMAGE of random pictures."""
    return torch.rand(count, height, width, channels, generator=torch.Generator().manual_seed(seed))


def dataset(extension: Extension, *, pictures: list[Tensor], hints: list[Tensor], captions: list[str]) -> Any:  # noqa: ANN401
    """What the node makes of what ComfyUI gives it: the values of each input, in lists."""
    source = {"source": ["images"], "images": pictures, "hints": hints, "captions": captions, "hint": ["images"]}
    data, preview, report = extension.run("ControlNetCoreDataset", source=source)
    assert preview.shape[0] == 1 and preview.shape[-1] == 3
    assert report == f"{len(data.source)} pairs of 16 x 8 pixels"
    return data.source


PICTURES, HINTS, TEXTS = images(), images(seed=1), [f"picture {number}" for number in range(COUNT)]
LISTS = {
    "batches": ([PICTURES], [HINTS], ["\n".join(TEXTS)]),
    "lists": (list(PICTURES.split(1)), list(HINTS.split(1)), TEXTS),
    "single pictures": (list(PICTURES), list(HINTS), TEXTS),
    "both": (list(PICTURES.split([2, 1, 2])), list(HINTS.split([1, 4])), TEXTS),
    "a list of pictures, texts in lines": (list(PICTURES.split(1)), [HINTS], ["\n".join(TEXTS) + "\n"]),
    "with transparency": ([torch.cat([PICTURES, HINTS[..., :1]], -1)], [HINTS], TEXTS),
}


@pytest.mark.parametrize("name", LISTS)
def test_it_is_one_dataset(extension: Extension, name: str) -> None:
    pictures, hints, captions = LISTS[name]
    found = dataset(extension, pictures=pictures, hints=hints, captions=captions)
    assert [found[index].caption for index in range(len(found))] == TEXTS
    for index in range(COUNT):
        assert torch.equal(found[index].image, PICTURES[index].movedim(-1, 0))
        assert torch.equal(found[index].hint, HINTS[index].movedim(-1, 0))
    expected = dataset(extension, pictures=[PICTURES], hints=[HINTS], captions=["\n".join(TEXTS)])
    assert found.fingerprint == expected.fingerprint, "the same pairs are the same dataset, however they come"


def test_one_caption_is_for_all_and_one_of_a_list_may_have_lines(extension: Extension) -> None:
    found = dataset(extension, pictures=[PICTURES], hints=[HINTS], captions=["a shape\n"])
    assert {found[index].caption for index in range(COUNT)} == {"a shape"}
    texts = ["a shape,\nred", "", *TEXTS[2:]]
    found = dataset(extension, pictures=list(PICTURES.split(1)), hints=[HINTS], captions=texts)
    assert [found[index].caption for index in range(COUNT)] == texts


def test_grey_hints_have_three_equal_channels(extension: Extension) -> None:
    grey = images(seed=1, channels=1)
    found = dataset(extension, pictures=[PICTURES], hints=list(grey.split(1)), captions=[""])
    assert torch.equal(found[0].hint, grey[0].movedim(-1, 0).expand(3, -1, -1))


def test_hints_are_made_of_all_pictures(extension: Extension) -> None:
    source = {"source": ["images"], "images": list(PICTURES.split(1)), "captions": TEXTS, "hint": ["grey"]}
    data, _, _ = extension.run("ControlNetCoreDataset", source=source)
    assert len(data.source) == COUNT
    assert all(not torch.equal(data.source[0].hint, data.source[index].hint) for index in range(1, COUNT))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"hints": [HINTS[:3]]}, "found 3 hints for 5 pictures; expected a hint for each picture"),
        ({"captions": ["a\nb"]}, "found 2 captions for 5 pictures"),
        ({"hints": list(HINTS[:3].split(1)), "captions": TEXTS[:4]}, "found 3 hints and 4 captions for 5 pictures"),
        ({"hints": [images(6)], "captions": [*TEXTS, "more"]}, "found 6 hints and 6 captions for 5 pictures"),
        ({"captions": []}, "0 captions"),
        ({"hints": []}, "no hints"),
        ({"images": []}, "an empty list of pictures"),
        (
            {"images": [PICTURES[:3], images(1, width=24), PICTURES[:1]]},
            r"pictures of 2 sizes \(4 of 16 x 8 pixels, 1 of 24 x 8 pixels\); .*Crop Image",
        ),
        ({"hints": [HINTS[:4], images(1, height=16)]}, "hints of 2 sizes"),
        ({"hints": [images(width=24)]}, "the same size"),
        ({"hint": ["images", "canny"]}, r"2 values for hint \('images', 'canny'\)"),
    ],
)
def test_what_does_not_fit_is_told(extension: Extension, given: dict[str, Any], words: str) -> None:
    source = {"source": ["images"], "images": [PICTURES], "hints": [HINTS], "captions": TEXTS, "hint": ["images"]}
    with extension.refusing("DatasetError", words):
        extension.run("ControlNetCoreDataset", source={**source, **given})


def test_other_sources_take_one_value_of_each_input(extension: Extension) -> None:
    shapes = {"source": ["shapes"], "count": [3], "seed": [1, 1], "hint": ["outline"]}
    data, _, report = extension.run("ControlNetCoreDataset", source=shapes)
    assert (data.source.count, data.source.seed) == (3, 1) and report.startswith("3 pairs")
    refused = r"2 values for seed \(1, 2\); expected one; give each dataset its own node"
    with extension.refusing("DatasetError", refused):
        extension.run("ControlNetCoreDataset", source={**shapes, "seed": [1, 2]})
