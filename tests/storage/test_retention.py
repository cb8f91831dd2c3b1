import pytest

from edged.storage import check, frames, labels, objects, outbox, retention, samples, snapshots

DAY = 86400.0


@pytest.fixture
def ten_days(store, add, clock):
    """One frame with one region a day, for ten days; each 3 kB or so. It is the evening of the tenth."""
    start = clock.now()
    for n in range(10):
        clock.at = start + n * DAY
        add(store, n, regions=1, ts=9e9 - n)  # the camera's clock runs backwards
    return store


def left(store):
    rows = store.rows("select frame from sample where object is not null order by received")
    return [int(r[0].removeprefix("boot-")) for r in rows]


def run(store, clock, **options):
    return retention.run(store, clock.now(), **({"max_age_s": 1e9, "max_bytes": 1 << 40, "max_share": 1.0} | options))


def test_by_age_the_oldest_by_receive_time_go_and_their_rows_stay(ten_days, clock, files):
    done = run(ten_days, clock, max_age_s=4 * DAY - 1)
    assert (done.objects, done.more) == (12, False)
    assert left(ten_days) == [6, 7, 8, 9]
    assert len(files()) == 8
    assert samples.count(ten_days) == 10
    assert frames.count(ten_days) == 10
    assert check.run(ten_days) == []


def test_by_size_the_oldest_go_until_it_fits(ten_days, clock):
    whole = retention.used(ten_days)
    done = run(ten_days, clock, max_bytes=whole // 2)
    assert whole - done.bytes == retention.used(ten_days) <= whole // 2
    assert done.objects == 10
    assert left(ten_days) == [5, 6, 7, 8, 9]
    assert run(ten_days, clock, max_bytes=whole // 2).objects == 0


def test_labelled_crops_outlive_age_and_go_for_space_before_the_held_out(ten_days, clock):
    for n in (0, 1, 2):
        labels.add(ten_days, f"gate:boot-{n}:0", "car", "human", "anna")
    labels.add(ten_days, "gate:boot-3:0", "car", "teacher", "t")  # a teacher's word protects nothing
    empty = {"classes": ["car"], "train": [], "tune": [], "holdout": [["gate:boot-0:0", "car"]]}
    snapshots.add(ten_days, {**empty, "holdout_ratio": 0.2, "block_s": 900, "seed": 1})
    run(ten_days, clock, max_age_s=0)
    assert left(ten_days) == [0, 1, 2, 9]
    one_crop = ten_days.value("select max(size) from object where kind = 'crop'")
    run(ten_days, clock, max_age_s=0, max_bytes=2 * one_crop)
    assert left(ten_days) == [0, 2]
    run(ten_days, clock, max_age_s=0, max_bytes=one_crop)
    assert left(ten_days) == [0]
    run(ten_days, clock, max_bytes=0)
    assert left(ten_days) == []
    assert check.run(ten_days) == []


def test_an_undone_label_protects_no_longer(ten_days, clock):
    label = labels.add(ten_days, "gate:boot-0:0", "car", "human", "anna")
    labels.undo(ten_days, label, "anna")
    run(ten_days, clock, max_age_s=5 * DAY)
    assert 0 not in left(ten_days)


def test_a_clock_that_jumps_ten_years_takes_only_a_twentieth(store, add, clock):
    for n in range(20):
        add(store, n, regions=1)
    clock.at += 3650 * DAY
    done = retention.run(store, clock.now(), max_age_s=30 * DAY, max_bytes=1 << 40)
    assert (done.objects, done.more) == (2, True)
    assert len(store.rows("select 1 from object")) == 38


def test_what_waits_in_the_outbox_stays_until_it_is_sent(ten_days, clock):
    crop = samples.get(ten_days, "gate:boot-0:0").object
    parcel = outbox.add(ten_days, "scrubbed_crops", "crops/1.jpg", f"object:{crop}", 500)
    run(ten_days, clock, max_age_s=0)
    assert objects.read(ten_days, crop)
    outbox.mark(ten_days, parcel, "sent", etag="e")
    run(ten_days, clock, max_age_s=0)
    assert left(ten_days) == [9]  # received at this very moment


def test_a_run_that_dies_before_the_files_go_leaves_orphans_for_recovery(ten_days, clock, monkeypatch, files):
    def die(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(objects, "remove_files", die)
    with pytest.raises(KeyboardInterrupt):
        run(ten_days, clock, max_age_s=0)
    assert {f.code for f in check.run(ten_days)} == {"orphan"}
    assert objects.recover(ten_days).orphans == 18
    assert check.run(ten_days) == []
