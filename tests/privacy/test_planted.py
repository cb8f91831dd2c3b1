"""Planted pictures: the same for ever, one thing of each size, never covered from the start."""

import cv2
import numpy as np
import pytest

from edged.errors import Refused
from edged.privacy import planted
from edged.privacy.picture import fill
from edged.privacy.planted import scene
from edged.privacy.sizes import EXPECTED, HIDDEN, PICTURES, SIZES, size_of
from edged.privacy.talk import Inspect, Plant, Spot

# Mean colours (B, G, R) of six fields of picture 1 at 1280x720, as drawn when this was written.
FIELDS_OF_1 = np.array(
    [[[103, 106, 129], [112, 110, 107], [141, 136, 161]], [[102, 129, 136], [100, 142, 132], [101, 135, 149]]]
)


def fields(image):
    return cv2.resize(image, (3, 2), interpolation=cv2.INTER_AREA).astype(int)


@pytest.mark.parametrize("seed", range(4))
def test_there_is_one_thing_of_every_kind_and_size_inside_the_picture(seed):
    drawn = scene.draw(seed, 1280, 720)
    assert sorted((s.kind, size_of(s.kind, s.w)) for s in drawn.spots) == sorted(
        (k, s) for k in SIZES for s in SIZES[k]
    )
    for spot in drawn.spots:
        low, below = SIZES[spot.kind][size_of(spot.kind, spot.w)]
        assert low - 1 <= spot.w <= below
        assert spot.x >= 0
        assert spot.y >= 0
        assert spot.x + spot.w <= 1280
        assert spot.y + spot.h <= 720


def test_no_two_things_overlap():
    for seed in range(8):
        spots = scene.draw(seed, 640, 360).spots
        for i, a in enumerate(spots):
            for b in spots[i + 1 :]:
                apart = a.x + a.w <= b.x or b.x + b.w <= a.x or a.y + a.h <= b.y or b.y + b.h <= a.y
                assert apart, (seed, a, b)


def test_a_seed_gives_the_same_picture_now_and_next_year():
    one, again, other = (scene.draw(seed, 1280, 720).image for seed in (1, 1, 2))
    assert np.array_equal(one, again)
    assert np.abs(fields(one) - fields(other)).max() > 10
    assert np.abs(fields(one) - FIELDS_OF_1).max() <= 2


def test_light_varies_and_only_large_things_by_day_are_easy():
    drawn = [scene.draw(seed, 640, 360) for seed in range(16)]
    assert {d.light for d in drawn} == {"day", "dusk", "night"}
    for d in drawn:
        for spot, easy in zip(d.spots, d.easy, strict=True):
            assert not easy or (d.light == "day" and size_of(spot.kind, spot.w * 2) == "large")
    assert {s.kind for d in drawn for s, easy in zip(d.spots, d.easy, strict=True) if easy} == {"face", "plate"}


@pytest.mark.parametrize("seed", range(6))
def test_what_is_planted_is_to_be_seen_until_it_is_covered(seed, pixels, encode):
    made = planted.plant(Plant(7, seed, 640, 360))
    assert max(planted.inspect(Inspect(1, made.jpeg, made.spots))) < 0.1
    image = pixels(made.jpeg)
    fill(image, np.ones((-(-360 // 16), 40), bool))
    assert planted.inspect(Inspect(1, encode(image), made.spots)) == (1.0,) * len(made.spots)


def test_a_box_outside_the_picture_is_not_covered(encode):
    grey = np.full((64, 64, 3), 128, np.uint8)
    shares = planted.inspect(Inspect(1, encode(grey), (Spot("face", 80, 80, 10, 10), Spot("face", 60, 60, 10, 10))))
    assert shares == (0.0, 1.0)


def test_what_is_no_picture_is_refused():
    with pytest.raises(Refused):
        planted.inspect(Inspect(1, b"no picture", ()))


def test_what_a_healthy_scrubber_hides_is_known_for_every_kind_and_size():
    assert set(EXPECTED) == {(k, s) for k in SIZES for s in SIZES[k]}
    assert all(0.5 < share <= 1 for share in EXPECTED.values())
    assert HIDDEN <= 1 < PICTURES


@pytest.mark.parametrize(("kind", "px", "size"), [("face", 3, "small"), ("face", 32, "medium"), ("face", 900, "large"),
                                                   ("plate", 109.9, "small"), ("plate", 300.4, "large")])  # fmt: skip
def test_every_width_has_a_size(kind, px, size):
    assert size_of(kind, px) == size
