"""The detector and the scores: right on true pictures, sharp or blurred; nothing is found on blank ones."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from controlnet_core.errors import TensorShapeError
from controlnet_core.keyed import keyed_generator
from controlnet_core.toy import detector, drawing
from controlnet_core.toy.detector import NOTHING, find_masks, recognise
from controlnet_core.toy.scenes import Scenes, draw_scenes
from controlnet_core.toy.scores import clarity, following_scores, intersection_over_union, picture_scores

NAMES = ("colour", "background", "shape")


def scenes_of(count: int) -> Scenes:
    return draw_scenes(count, keyed_generator("detect"), held_out=True)


def blurred(images: Tensor, sigma: float) -> Tensor:
    reach = int(3 * sigma) + 1
    kernel = torch.exp(-(torch.arange(-reach, reach + 1.0) ** 2) / (2 * sigma**2))
    square = (kernel[:, None] * kernel / kernel.sum() ** 2).expand(3, 1, -1, -1)
    return functional.conv2d(functional.pad(images, (reach,) * 4, mode="replicate"), square, groups=3)


def noisy(images: Tensor, strength: float) -> Tensor:
    noise = torch.randn(images.shape, generator=keyed_generator("noise"))
    return (images + strength * noise).clamp(0, 1)


@pytest.mark.parametrize(
    ("size", "blur", "noise", "least_following"),
    [(128, 0.0, 0.0, 0.98), (64, 0.0, 0.0, 0.98), (128, 1.5, 0.05, 0.95), (64, 0.8, 0.05, 0.95), (96, 0.0, 0.1, 0.95)],
)
def test_true_pictures_are_found_and_named(size: int, blur: float, noise: float, least_following: float) -> None:
    scenes = scenes_of(250)
    images = drawing.images(scenes, size)
    images = noisy(blurred(images, blur) if blur else images, noise)
    following = float(following_scores(images, scenes).mean())
    accuracy = picture_scores(images, scenes)
    assert following >= least_following, f"following score {following:.4f}"
    assert min(accuracy[name] for name in NAMES) >= 0.99, f"{accuracy}"


def test_pictures_of_other_scenes_score_low() -> None:
    scenes = scenes_of(120)
    others = torch.arange(120).roll(1)
    score = float(following_scores(drawing.images(scenes[others], 64), scenes).mean())
    assert score < 0.35, f"wrong pictures score {score:.3f}"
    accuracy = picture_scores(drawing.images(scenes[others], 64), scenes)
    assert max(accuracy[name] for name in NAMES) < 0.4, f"{accuracy}"


def test_a_blank_picture_shows_nothing() -> None:
    blank = torch.tensor([0.05, 0.72, 0.15])[None, :, None, None].expand(2, 3, 64, 64)
    seen = recognise(blank)
    assert not find_masks(blank).any()
    assert seen.shape.tolist() == seen.colour.tolist() == [NOTHING, NOTHING]
    assert seen.background.tolist() == [3, 3]


def test_clarity_tells_good_pictures_from_bad_ones_whatever_they_show() -> None:
    scenes = draw_scenes(64, keyed_generator("clarity"))
    images = drawing.images(scenes, 64)
    noise = torch.rand(images.shape, generator=keyed_generator("noise"))
    blobs = functional.interpolate(noise[:, :, :8, :8], size=64, mode="bicubic").clamp(0, 1)
    levels = [clarity(pictures).mean().item() for pictures in (images, images.lerp(noise, 0.3), blobs, noise)]
    assert levels[0] >= 0.95 and clarity(images).min() >= 0.85, levels
    assert 0.4 < levels[1] < 0.8 and max(levels[2:]) < 0.3, levels
    assert clarity(torch.full((1, 3, 64, 64), 0.3)).tolist() == [0.0]


def regions(mask: Tensor) -> list[set[tuple[int, int]]]:
    """All regions of a mask, pixels touching by sides or corners, found pixel by pixel."""
    left, found = {tuple(place) for place in mask.nonzero().tolist()}, []
    while left:
        region, edge = set(), [left.pop()]
        while edge:
            row, column = edge.pop()
            region.add((row, column))
            around = {(row + down, column + right) for down in (-1, 0, 1) for right in (-1, 0, 1)} & left
            left -= around
            edge.extend(around)
        found.append(region)
    return found


@pytest.mark.parametrize("share", [0.1, 0.35, 0.5])
def test_the_largest_region_is_that_of_a_walk_over_pixels(share: float) -> None:
    masks = torch.rand(6, 40, 33, generator=keyed_generator("regions")) < share
    for mask, kept in zip(masks, detector._largest_region(masks), strict=True):
        found = {tuple(place) for place in kept.nonzero().tolist()}
        every = regions(mask)
        assert found in every
        assert len(found) == max(len(region) for region in every)


def test_intersection_over_union_by_hand() -> None:
    a, b = torch.zeros(2, 4, 4, dtype=torch.bool), torch.zeros(2, 4, 4, dtype=torch.bool)
    a[0, :2], b[0, 1:3] = True, True
    assert intersection_over_union(a, b).tolist() == pytest.approx([1 / 3, 1.0])
    assert torch.equal(intersection_over_union(a, b), intersection_over_union(b, a))
    with pytest.raises(TensorShapeError, match="equal shapes"):
        intersection_over_union(a, b[:, :3])
