"""What moves is found, what stands still is not, and a change of light is no movement."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from agent.motion import MIN_SIDE, Box, Motion, merged, padded

NOISE = np.random.default_rng(0).normal(0, 3, (784, 1344, 3)).astype(np.int8)


def still(level: int = 110, seed: int = 0) -> NDArray[np.uint8]:
    """An empty 1280x720 scene with sensor noise, another part of one sheet of noise for each seed."""
    dy, dx = (int(v) for v in np.random.default_rng(seed).integers(0, 64, 2))
    return (level + NOISE[dy : dy + 720, dx : dx + 1280].astype(np.int16)).astype(np.uint8)


def with_box(image: NDArray[np.uint8], box: Box, level: int = 230) -> NDArray[np.uint8]:
    x, y, w, h = box
    image[y : y + h, x : x + w] = level
    return image


def used_to(pictures: int = 12) -> Motion:
    motion = Motion()
    for i in range(pictures):
        assert motion.regions(still(seed=i)) == ()
    return motion


def covers(region: Box, box: Box, slack: int = 8) -> bool:
    return (
        region[0] <= box[0] + slack
        and region[1] <= box[1] + slack
        and region[0] + region[2] >= box[0] + box[2] - slack
        and region[1] + region[3] >= box[1] + box[3] - slack
    )


def test_an_empty_noisy_scene_has_no_regions() -> None:
    motion = used_to()
    assert all(motion.regions(still(seed=100 + i)) == () for i in range(20))


def test_a_thing_that_appears_is_one_region_around_it() -> None:
    box = (400, 300, 120, 240)
    (region,) = used_to().regions(with_box(still(seed=50), box))
    assert covers(region, box)
    assert region[2] * region[3] < 2.5 * box[2] * box[3]


def test_two_things_apart_are_two_regions_largest_first() -> None:
    small, large = (100, 500, 90, 90), (800, 200, 260, 200)
    regions = used_to().regions(with_box(with_box(still(seed=50), small), large))
    assert len(regions) == 2
    assert covers(regions[0], large)
    assert covers(regions[1], small)


def test_at_most_four_regions_come_and_the_largest_win() -> None:
    image = still(seed=50)
    boxes = [(60 + 200 * i, 300, 60 + 14 * i, 60 + 14 * i) for i in range(6)]
    for box in boxes:
        with_box(image, box)
    regions = used_to().regions(image)
    assert len(regions) == 4
    assert all(covers(region, box) for region, box in zip(regions, reversed(boxes), strict=False))


def test_something_smaller_than_can_be_classified_is_ignored() -> None:
    assert used_to().regions(with_box(still(seed=50), (600, 300, 16, 16))) == ()


def test_lights_that_are_switched_off_are_not_movement_and_are_learnt() -> None:
    motion = used_to()
    assert all(motion.regions(still(level=30, seed=100 + i)) == () for i in range(20))
    box = (400, 300, 120, 240)
    (region,) = motion.regions(with_box(still(level=30, seed=50), box, level=120))
    assert covers(region, box)


def test_a_new_picture_size_starts_anew() -> None:
    motion = used_to()
    assert motion.regions(still()[:480, :640]) == ()


def test_the_same_pictures_give_the_same_regions() -> None:
    pictures = [with_box(still(seed=i), (300 + 20 * i, 300, 120, 200)) for i in range(10)]
    runs = [[motion.regions(p) for p in pictures] for motion in (used_to(), used_to())]
    assert runs[0] == runs[1]
    assert any(runs[0])


@pytest.mark.parametrize("box", [(0, 0, 10, 10), (1270, 710, 10, 10), (0, 300, 30, 420), (5, 5, 1270, 710)])
def test_a_padded_box_stays_inside_and_is_not_slim(box: Box) -> None:
    x, y, w, h = padded(box, 1280, 720)
    assert x >= 0
    assert y >= 0
    assert x + w <= 1280
    assert y + h <= 720
    assert min(w, h) >= MIN_SIDE
    assert covers((x, y, w, h), box, slack=0)
    assert w >= 0.5 * h


def test_boxes_that_touch_through_others_become_one() -> None:
    assert merged([(0, 0, 10, 10), (30, 0, 10, 10), (9, 0, 22, 5)]) == [(0, 0, 40, 10)]


def test_boxes_apart_stay_apart() -> None:
    assert merged([(0, 0, 10, 10), (30, 0, 10, 10)]) == [(0, 0, 10, 10), (30, 0, 10, 10)]
