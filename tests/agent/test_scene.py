"""The generated street: the same each time, truthful about what is in it, and different by night."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime

import numpy as np
import pytest

from agent.scene import CLASSES, VARIANTS, Picture, Scene, Thing, next_ts, truth_of
from agent.scene_street import HEIGHT, WIDTH

MORNING = datetime(2026, 3, 2, 8, tzinfo=UTC).timestamp()


@pytest.fixture(scope="module")
def north() -> Scene:
    return Scene("north", 1)


def hour(ts: float) -> float:
    moment = datetime.fromtimestamp(ts, UTC)
    return moment.hour + moment.minute / 60


def test_the_same_seed_paints_the_same_picture_whatever_was_painted_before(north: Scene) -> None:
    again = Scene("north", 1)
    again.picture(3, "night")
    a, b = north.picture(7, "day"), again.picture(7, "day")
    assert np.array_equal(a.image, b.image)
    assert a.things == b.things


def test_another_seed_is_the_same_place_with_other_passers_by(north: Scene) -> None:
    other = Scene("north", 2)
    assert np.array_equal(north.street.day, other.street.day)
    assert any(north.picture(i, "day").things != other.picture(i, "day").things for i in range(4))


@pytest.mark.parametrize("place", sorted(VARIANTS))
def test_every_place_is_painted_at_720p_in_colour(place: str) -> None:
    image = Scene(place, 1).picture(2, "day").image
    assert image.shape == (720, 1280, 3)
    assert image.dtype == np.uint8
    assert image.std(axis=(0, 1)).min() > 20


def test_two_places_do_not_look_alike(north: Scene) -> None:
    gap = np.abs(north.street.day.astype(int) - Scene("south", 1).street.day.astype(int))
    assert gap.mean() > 10


def test_all_kinds_of_things_come_by_within_a_hundred_pictures(north: Scene) -> None:
    seen = Counter(thing.class_ for i in range(100) for thing in north.picture(i, "day").things)
    assert set(seen) == set(CLASSES)
    assert min(seen.values()) >= 30


def test_boxes_lie_inside_the_picture_and_people_have_the_sizes_that_the_specification_names(north: Scene) -> None:
    for i in range(60):
        for thing in north.picture(i, "day").things:
            x, y, w, h = thing.box
            assert 0 <= x < x + w <= WIDTH
            assert 0 <= y < y + h <= HEIGHT
            if thing.class_.startswith("person") and 2 < x < x + w < WIDTH - 2:
                assert 110 <= h <= 360


def test_the_picture_differs_from_the_empty_street_where_a_thing_is_said_to_be_and_not_elsewhere(north: Scene) -> None:
    checked = 0
    for i in range(40):
        picture = north.picture(i, "day")
        changed = np.abs(picture.image.astype(int) - north.street.day.astype(int)).max(axis=2) > 30
        outside = changed.copy()
        for thing in picture.things:
            x, y, w, h = thing.box
            outside[max(0, y - 12) : y + h + 25, max(0, x - 90) : x + w + 90] = False
            if thing.class_ != "nothing" and thing.seen == 1:
                assert changed[y : y + h, x : x + w].mean() > 0.2, (i, thing)
                checked += 1
        if len(picture.things) and all(min(t.box[2:]) > 30 for t in picture.things):
            assert outside.mean() < 0.02, i
    assert checked > 40


def test_the_night_is_dark_and_has_lights(north: Scene) -> None:
    day, night = north.picture(1, "day").image, north.picture(1, "night").image
    assert night.mean() < 0.4 * day.mean()
    assert (night.max(axis=2) > 240).mean() > 0.0005


def test_a_thing_behind_another_is_said_to_be_hidden(north: Scene) -> None:
    seen = [thing.seen for i in range(80) for thing in north.picture(i, "day").things]
    assert min(seen) < 0.6
    assert seen.count(1.0) > len(seen) / 3


def test_the_scene_clock_walks_by_its_step_in_the_hours_of_its_phase() -> None:
    assert next_ts(MORNING, 20, "day") == MORNING + 20
    assert hour(next_ts(MORNING, 20, "night")) == 19


@pytest.mark.parametrize(("phase", "low", "high"), [("day", 8, 17), ("night", 19, 29)])
def test_the_scene_clock_never_goes_back_nor_leaves_the_phase(phase: str, low: int, high: int) -> None:
    ts = MORNING
    for _ in range(4000):
        after = next_ts(ts, 20, "day" if phase == "day" else "night")
        assert after > ts
        ts = after
        assert low <= hour(ts) < high or low <= hour(ts) + 24 < high


def test_after_the_night_the_day_is_the_next_one() -> None:
    night = next_ts(MORNING, 20, "night")
    assert next_ts(night, 20, "day") == MORNING + 86400


def things(*found: tuple[tuple[int, int, int, int], str]) -> tuple[Thing, ...]:
    return tuple(Thing(box, class_, 1.0) for box, class_ in found)


def test_a_region_around_a_thing_has_its_class() -> None:
    assert truth_of((90, 90, 120, 220), things(((100, 100, 100, 200), "person"))) == "person"


def test_a_region_with_two_kinds_has_no_truth() -> None:
    both = things(((100, 100, 100, 200), "person"), ((210, 100, 100, 200), "vehicle"))
    assert truth_of((90, 90, 230, 220), both) is None


def test_a_region_with_half_a_person_has_no_truth_and_is_not_nothing() -> None:
    assert truth_of((100, 200, 100, 60), things(((100, 100, 100, 200), "person"))) is None


def test_a_region_on_a_part_too_small_to_count_is_still_not_nothing() -> None:
    assert truth_of((100, 260, 100, 40), things(((100, 100, 100, 200), "person"))) is None


def test_a_region_beside_everything_is_nothing() -> None:
    assert truth_of((800, 100, 100, 100), things(((100, 100, 100, 200), "person"))) == "nothing"


def test_a_picture_is_a_value() -> None:
    picture = Picture(np.zeros((720, 1280, 3), np.uint8), ())
    with pytest.raises(AttributeError):
        picture.things = ()  # type: ignore[misc]
