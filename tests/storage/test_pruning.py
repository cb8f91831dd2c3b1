import pytest

from edged.storage import check, frames, labels, objects, pruning, samples, snapshots, views

DAY = 86400.0


@pytest.fixture
def old(store, add, frame, clock):
    """Ten stored frames of two samples and two withheld ones, a year ago, without their pictures; one of today."""
    for n in range(10):
        add(store, n)
    for n in (50, 51):
        frames.settle(store, frame(n), "withheld", "dark")
    with store.transaction():
        objects.forget(store, [r[0] for r in store.rows("select id from object")])
    clock.at += 366 * DAY
    add(store, 99)
    return store


def ids(store, table="frame"):
    return [r[0] for r in store.rows(f"select id from {table} order by received, id")]


def test_rows_of_long_ago_go_and_no_total_falls(old, clock):
    before = frames.count(old), frames.count(old, "withheld"), views.now(old, clock.now()).samples
    done = pruning.run(old, clock.now() - 365 * DAY, young=0)
    assert (done.frames, done.samples) == (12, 20)
    assert (ids(old), ids(old, "sample")) == (["boot-99"], ["gate:boot-99:0", "gate:boot-99:1"])
    assert (frames.count(old), frames.count(old, "withheld"), views.now(old, clock.now()).samples) == before
    assert check.run(old) == []


def test_what_has_a_picture_a_label_or_stands_in_a_snapshot_stays(old, add, clock):
    undone = labels.add(old, "gate:boot-1:0", "car", "human", "anna")
    labels.undo(old, undone, "anna")
    labels.add(old, "gate:boot-2:0", "car", "teacher", "t")
    body = {"classes": ["car"], "train": [], "tune": [["gate:boot-3:1", "car"]], "holdout": [], "holdout_ratio": 0.2}
    snapshots.add(old, {**body, "block_s": 900, "seed": 1})
    pruning.run(old, clock.now() + DAY, young=0)
    assert ids(old) == ["boot-1", "boot-2", "boot-3", "boot-99"]
    assert samples.count(old) == 3 + 2


def test_what_is_young_stays(old, clock):
    assert pruning.run(old, clock.now() - 367 * DAY, young=clock.now()).frames == 0


def test_a_catalogue_that_takes_too_much_loses_the_oldest_rows_but_none_of_this_week(old, add, clock):
    for n in range(100, 104):
        add(old, n)
        clock.at += 2 * DAY
    with old.transaction():
        objects.forget(old, [r[0] for r in old.rows("select id from object")])
    assert pruning.run(old, 0, young=clock.now() - 7 * DAY, max_bytes=1).frames == 14  # number 100 came eight days ago
    assert ids(old) == ["boot-101", "boot-102", "boot-103"]


def test_one_run_is_bounded(old, clock, monkeypatch):
    monkeypatch.setattr(pruning, "BATCH", 3)
    assert pruning.run(old, clock.now() - 365 * DAY, young=0, most=5).frames == 5


def test_without_rows_of_samples_the_number_of_samples_does_not_begin_anew(old, clock):
    with old.transaction():
        objects.forget(old, [r[0] for r in old.rows("select id from object")])
    most = old.value("select max(rowid) from sample")
    pruning.run(old, clock.now() + DAY, young=0)
    assert old.value("select max(rowid) from sample") == most
