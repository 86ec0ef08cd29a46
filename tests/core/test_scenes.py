"""The shapes generator: keyed scenes, two disjoint sides, exact drawings, and the pairs made of them."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from controlnet_core.data.shuffled import ShuffledHints
from controlnet_core.errors import DatasetError
from controlnet_core.keyed import keyed_generator
from controlnet_core.toy import drawing
from controlnet_core.toy import scenes as shapes
from controlnet_core.toy.scenes import COLOURS, SHAPES, Scenes, captions, draw_scenes, is_held_out, palette
from controlnet_core.toy.shapes_dataset import ShapesDataset


def scenes_of(count: int, seed: int = 0, held_out: bool = False) -> Scenes:
    return draw_scenes(count, keyed_generator("test", seed), held_out)


def same(a: Scenes, b: Scenes) -> bool:
    return all(torch.equal(getattr(a, field.name), getattr(b, field.name)) for field in fields(Scenes))


def bare(scenes: Scenes) -> Scenes:
    return replace(scenes, gaps=torch.zeros_like(scenes.gaps), strokes=torch.zeros_like(scenes.strokes))


def gap_between(a: Tensor, b: Tensor) -> float:
    return float((a.float() - b.float()).abs().max())


def cells(scenes: Scenes) -> set[tuple[int, ...]]:
    return {tuple(cell) for cell in (scenes.centre * shapes.CELLS).long().tolist()}


def test_the_two_sides_share_no_cell_and_the_centre_tells_the_side() -> None:
    training, held_out = scenes_of(20_000), scenes_of(20_000, held_out=True)
    assert not is_held_out(training).any()
    assert is_held_out(held_out).all()
    assert not cells(training) & cells(held_out)
    share = len(cells(held_out)) / len(cells(training) | cells(held_out))
    assert 0.15 < share < 0.25, f"{share:.3f} of the cells are held out, 0.2 expected"


def test_a_seed_gives_the_same_bits_and_another_seed_others() -> None:
    assert same(scenes_of(50, seed=1), scenes_of(50, seed=1))
    assert not same(scenes_of(50, seed=1), scenes_of(50, seed=2))
    assert torch.equal(drawing.outlines(scenes_of(9), 64), drawing.outlines(scenes_of(9), 64))


def test_every_choice_is_drawn_evenly_and_no_shape_vanishes_in_its_background() -> None:
    scenes = scenes_of(20_000)
    for name, count in (("shape", 5), ("colour", 12), ("background", 12), ("phrasing", 5)):
        share = torch.bincount(getattr(scenes, name), minlength=count) / len(scenes) * count
        assert share.numel() == count and gap_between(share, torch.ones(count)) < 0.12, f"{name}: {share.tolist()}"
    assert (scenes.colour != scenes.background).all()
    closest = float(torch.pdist(palette()).min())
    assert closest > 0.49, f"two colours are only {closest:.3f} apart"


@pytest.mark.parametrize("size", [64, 128])
def test_shapes_lie_inside_the_picture_with_the_area_their_radius_says(size: int) -> None:
    scenes = scenes_of(400)
    masks = drawing.masks(scenes, size)
    edge = torch.cat((masks[:, 0], masks[:, -1], masks[:, :, 0], masks[:, :, -1]), 1)
    assert not edge.any()
    coverage = (drawing.images(scenes, size) - palette()[scenes.background][:, :, None, None]).abs().sum((1, 2, 3))
    contrast = (palette()[scenes.colour] - palette()[scenes.background]).abs().sum(1)
    area, expected = coverage / contrast / size**2, math.pi * scenes.radius**2
    worst = float((area / expected - 1).abs().max())
    assert worst < 0.02, f"an area is off by {worst:.4f} of itself"
    smallest, largest = float(expected.min()), float(expected.max())
    assert smallest > 0.03 and largest < 0.25, f"areas run from {smallest:.3f} to {largest:.3f}"


def polygon(shape: str) -> Tensor:
    """All corners of a shape of area pi at rotation 0, independent of the code under test."""
    if shape == "cross":
        arm = torch.tensor([(3.0, -1.0), (3.0, 1.0), (1.0, 1.0)])
        turns = [torch.tensor([(c, s), (-s, c)]) for c, s in ((1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0))]
        corners = torch.cat([arm @ turn for turn in turns])
    else:
        tips = {"triangle": 3, "square": 4, "star": 5}[shape]
        count = 2 * tips if shape == "star" else tips
        angle = torch.arange(count) * 2 * math.pi / count
        corners = torch.stack((angle.cos(), angle.sin()), 1)
        if shape == "star":
            corners[1::2] *= drawing.STAR_NOTCH
    after = corners.roll(-1, 0)
    area = 0.5 * (corners[:, 0] * after[:, 1] - corners[:, 1] * after[:, 0]).sum()
    return corners * (math.pi / area).sqrt()


def polygon_distance(points: Tensor, corners: Tensor) -> Tensor:
    """Signed distance of points (P, 2) to a polygon by all of its edges, inside by counting crossings."""
    start, edge = corners, corners.roll(-1, 0) - corners
    offset = points[:, None] - start
    along = ((offset * edge).sum(-1) / edge.square().sum(-1)).clamp(0, 1)
    distance = (offset - along[..., None] * edge).norm(dim=-1).amin(1)
    crosses_row = (offset[..., 1] >= 0) != (offset[..., 1] >= edge[:, 1])
    crossing = start[:, 0] + offset[..., 1] / edge[:, 1] * edge[:, 0]
    inside = (crosses_row & (points[:, :1] < crossing)).sum(1) % 2 == 1
    return torch.where(inside, -distance, distance)


@pytest.mark.parametrize("shape", [name for name in SHAPES if name != "circle"])
def test_distances_are_those_of_the_whole_polygon(shape: str) -> None:
    scenes = scenes_of(200)
    scenes = scenes[scenes.shape == SHAPES.index(shape)][:8]
    found, _, _ = drawing._distances(scenes, 48)
    grid = torch.arange(48) + 0.5
    points = torch.cartesian_prod(grid, grid).flip(1)
    expected = []
    for row in range(len(scenes)):
        cos, sin = float(scenes.rotation[row].cos()), float(scenes.rotation[row].sin())
        corners = polygon(shape) @ torch.tensor([(cos, sin), (-sin, cos)]) * scenes.radius[row] * 48
        expected.append(polygon_distance(points, corners + scenes.centre[row] * 48).view(48, 48))
    difference = gap_between(found, torch.stack(expected))
    assert difference < 1e-4, f"distances differ by {difference:.2e} pixels"
    reach = polygon(shape).norm(dim=1).max()
    assert gap_between(reach, torch.tensor(shapes.CIRCUMRADII[SHAPES.index(shape)])) < 1e-4


def test_pictures_are_flat_colours_with_one_soft_pixel_between() -> None:
    scenes = scenes_of(60)
    images, (distance, _, _) = drawing.images(scenes, 96), drawing._distances(scenes, 96)
    inside, outside = distance < -0.5, distance > 0.5
    for where, colour in ((inside, scenes.colour), (outside, scenes.background)):
        flat = palette()[colour][:, :, None, None].expand_as(images)
        difference = gap_between(images * where[:, None], flat * where[:, None])
        assert difference == 0, f"a flat colour is off by {difference:.2e}"
    assert torch.equal(drawing.masks(scenes, 96), distance < 0)


def test_a_bare_outline_is_a_thin_closed_line() -> None:
    scenes = bare(scenes_of(60))
    outlines, (distance, _, _) = drawing.outlines(scenes, 128)[:, 0], drawing._distances(scenes, 128)
    on_line, off_line = distance.abs() < 0.1, distance.abs() > 1.2
    assert float(outlines[on_line].min()) == 1.0
    assert float(outlines[off_line].max()) == 0.0


def test_clutter_takes_from_the_line_and_adds_elsewhere_in_some_scenes_only() -> None:
    scenes = scenes_of(300)
    cluttered, plain = drawing.outlines(scenes, 128), drawing.outlines(bare(scenes), 128)
    changed = (cluttered != plain).flatten(1).any(1)
    share = float(changed.float().mean())
    assert 0.5 < share < 0.7, f"{share:.2f} of the hints are cluttered, 0.6 expected"
    has_gap, has_stroke = (scenes.gaps[..., 1] > 0).any(1), (scenes.strokes[..., 3] > 0).any(1)
    assert torch.equal(changed, has_gap | has_stroke)
    kept = (cluttered * plain).sum((1, 2, 3)) / plain.square().sum((1, 2, 3))
    only_gaps = drawing.outlines(replace(scenes, strokes=torch.zeros_like(scenes.strokes)), 128)
    assert (only_gaps <= plain).all() and (only_gaps < plain).flatten(1).any(1)[has_gap].all()
    assert float(kept.min()) > 0.6, f"a hint lost all but {float(kept.min()):.2f} of its line"


def test_a_colour_map_is_flat_in_16_cells_and_has_the_mean_of_the_picture() -> None:
    scenes = scenes_of(20)
    maps, images = drawing.colour_maps(scenes, 64), drawing.images(scenes, 64)
    tiles = maps.unfold(2, 16, 16).unfold(3, 16, 16).flatten(-2)
    assert gap_between(tiles.amax(-1), tiles.amin(-1)) == 0
    difference = gap_between(maps.mean((2, 3)), images.mean((2, 3)))
    assert difference < 1e-5, f"means differ by {difference:.2e}"


def test_captions_name_the_shape_and_both_colours_in_all_phrasings() -> None:
    scenes = scenes_of(500)
    for row, caption in enumerate(captions(scenes)):
        words = caption.replace(",", "").split()
        colour, background = COLOURS[int(scenes.colour[row])], COLOURS[int(scenes.background[row])]
        shape = SHAPES[int(scenes.shape[row])]
        assert words[words.index(shape) - 1] == colour and background in words, caption
        articles = [(article, noun) for article, noun in pairwise(words) if article in ("a", "an")]
        assert all((article == "an") == (noun == "orange") for article, noun in articles), caption
    assert "a red circle on a blue background" in captions(scenes_of(20_000))


def test_a_pair_depends_on_seed_side_and_index_alone() -> None:
    dataset, longer = ShapesDataset(20, 64, seed=3), ShapesDataset(500, 64, seed=3)
    assert same(dataset.scenes([4, 9]), longer.scenes([4, 9]))
    pair, rows = dataset[4], [9, 4]
    difference = max(gap_between(pair.image, longer.images(rows)[1]), gap_between(pair.hint, longer.hints(rows)[1]))
    assert difference < 1e-6, f"alone and in a batch a pair differs by {difference:.2e}"
    assert pair.caption == longer.captions(rows)[1]
    assert not same(dataset.scenes([4]), ShapesDataset(20, 64, seed=4).scenes([4]))
    assert is_held_out(ShapesDataset(20, 64, seed=3, held_out=True).scenes(range(20))).all()
    with pytest.raises(IndexError):
        dataset[20]


def test_the_fingerprint_names_the_content() -> None:
    dataset = ShapesDataset(20, 64, seed=3)
    changed = (
        replace(dataset, count=21),
        replace(dataset, size=96),
        replace(dataset, seed=4),
        replace(dataset, held_out=True),
        replace(dataset, hint="colour_map"),
    )
    others = {other.fingerprint for other in changed}
    assert len(others | {dataset.fingerprint}) == 6
    assert dataset.fingerprint == ShapesDataset(20, 64, seed=3).fingerprint
    assert ShuffledHints(dataset, 0).fingerprint not in others | {dataset.fingerprint}


@pytest.mark.parametrize(
    ("count", "size", "hint", "message"),
    [(0, 64, "outline", "1 pair"), (20, 8, "outline", "16 pixels"), (20, 64, "depth", "outline, colour_map")],
)
def test_impossible_datasets_are_errors(count: int, size: int, hint: str, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        ShapesDataset(count, size, seed=3, hint=hint)


def test_shuffled_hints_are_a_permutation_without_fixed_points() -> None:
    dataset = ShapesDataset(31, 32, seed=3)
    shuffled = ShuffledHints(dataset, seed=0)
    sources = [shuffled.hint_index(index) for index in range(31)]
    assert sorted(sources) == list(range(31))
    assert all(source != index for index, source in enumerate(sources))
    assert sources != [ShuffledHints(dataset, seed=1).hint_index(index) for index in range(31)]
    pair = shuffled[5]
    assert gap_between(pair.image, dataset[5].image) == 0 and pair.caption == dataset[5].caption
    assert gap_between(pair.hint, dataset[sources[5]].hint) == 0
    with pytest.raises(DatasetError, match="at least 2"):
        ShuffledHints(ShapesDataset(1, 32, seed=3), seed=0)
