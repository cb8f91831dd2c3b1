"""The cameras' accuracy over time."""

import pytest

from edged.storage import labels, trend
from tests.storage.test_views import label_all, release

HOUR = 3600.0


def test_an_empty_store_has_no_series(store, clock):
    assert trend.accuracy(store, clock.now()).cameras == {}


def test_the_newest_label_of_a_sample_counts_and_undone_ones_do_not(store, add, clock):
    frame = add(store, 1, regions=1)
    label_all(store, frame, "person", 1)
    (last,) = label_all(store, frame, "car", 1)
    (point,) = trend.accuracy(store, clock.now()).cameras["gate"]
    assert (point.right, point.n) == (1, 1)
    labels.undo(store, last, "ann")
    (point,) = trend.accuracy(store, clock.now()).cameras["gate"]
    assert (point.right, point.n) == (0, 1)


def test_bad_crops_and_unpredicted_samples_are_not_in_the_series(store, add, clock):
    label_all(store, add(store, 1), "")
    label_all(store, add(store, 2, label=""), "car")
    labels.add(store, f"gate:{add(store, 3).header.id}:0", "car", "teacher", "t")
    assert trend.accuracy(store, clock.now()).cameras == {}


def test_the_series_is_cut_by_camera_and_time_and_carries_the_releases(store, add, clock):
    for n in range(50):
        clock.sleep(60)
        if n == 25:
            release(store, 1, "m1")
        for camera in ("gate", "dock"):
            label_all(store, add(store, n, camera=camera), "car" if camera == "gate" or n < 25 else "person")
    series = trend.accuracy(store, clock.now())
    assert list(series.cameras) == ["dock", "gate"]
    assert all(len(line) <= trend.POINTS + 1 for line in series.cameras.values())
    assert sum(p.n for p in series.cameras["dock"]) == 100
    assert [p.share for p in series.cameras["gate"]] == [1.0] * len(series.cameras["gate"])
    assert (series.cameras["dock"][0].share, series.cameras["dock"][-1].share) == (1.0, 0.0)
    assert all(series.start < p.ts < series.end for line in series.cameras.values() for p in line)
    ((at, number, state),) = series.releases
    assert (series.start < at < series.end, number, state) == (True, 1, "rolling")


@pytest.mark.parametrize("span", [0, 1, 100, HOUR, 24 * HOUR, 365 * 24 * HOUR])
def test_the_step_keeps_the_points_few(span):
    step = trend.step_for(span)
    assert span / step <= trend.POINTS or step == trend.STEPS[-1]
