import pytest

from edged.storage import ageing, check, frames, labels, objects, outbox, retention, samples, snapshots, worth
from edged.storage.retention import Limits, Rules

DAY = 86400.0
FAR = 1 << 40


@pytest.fixture
def ten_days(store, add, clock):
    """One frame with one region a day, for ten days; each 3 kB or so. It is the evening of the tenth."""
    start = clock.now()
    for n in range(10):
        clock.at = start + n * DAY
        add(store, n, regions=1, ts=9e9 - n)  # the camera's clock runs backwards
    return store


def left(store, camera="gate"):
    rows = store.rows("select frame from sample where object is not null and camera = ? order by received", (camera,))
    return [int(r[0].removeprefix("boot-")) for r in rows]


def run(store, *, count=None, **options):
    return retention.run(store, Rules(**({"max_age_s": 1e9, "max_bytes": FAR, "max_share": 1.0} | options)), count)


def used(store):
    return sum(retention.used(store).values())


def objects_of(store):
    return store.value("select count(*) from object")


def test_by_age_the_oldest_by_receive_time_go_and_their_rows_stay(ten_days):
    done = run(ten_days, max_age_s=4 * DAY - 1)
    assert (done.objects, done.more) == (12, False)
    assert left(ten_days) == [6, 7, 8, 9]
    assert objects_of(ten_days) == 8
    assert samples.count(ten_days) == 10
    assert frames.count(ten_days) == 10
    assert check.run(ten_days) == []


def test_by_size_the_oldest_go_until_it_fits(ten_days):
    whole = used(ten_days)
    done = run(ten_days, max_bytes=whole // 2)
    assert whole - done.bytes == used(ten_days) <= whole // 2
    assert done.objects == 10
    assert left(ten_days) == [5, 6, 7, 8, 9]
    assert run(ten_days, max_bytes=whole // 2).objects == 0


def test_a_store_over_its_limit_goes_down_to_the_low_water_mark_and_then_rests(ten_days, add):
    whole = used(ten_days)
    limit = whole - 1
    run(ten_days, max_bytes=limit, low_water=0.5, max_share=0.05)
    assert 0.9 * whole < used(ten_days) <= limit  # the cap stopped it
    while run(ten_days, max_bytes=limit, low_water=0.5, max_share=0.05).objects:
        pass
    assert used(ten_days) <= 0.5 * limit
    add(ten_days, 50)
    assert run(ten_days, max_bytes=limit, low_water=0.5).objects == 0  # between the marks nothing goes


def test_totals_kept_by_triggers_are_those_of_the_rows(ten_days, add):
    add(ten_days, 1, camera="yard")
    run(ten_days, max_age_s=4 * DAY)
    rows = ten_days.rows("select camera, count(*), sum(size) from object group by camera order by camera")
    held = ten_days.rows("select camera, objects, bytes from holding order by camera")
    assert [tuple(r) for r in rows] == [tuple(r) for r in held]


def test_one_camera_over_its_own_limit_costs_no_other_a_picture(store, add):
    for n in range(10):
        add(store, n, camera="gate")
        add(store, n, camera="yard")
    each = retention.used(store)["gate"]
    run(store, per_camera=each, cameras={"yard": Limits(max_bytes=each // 2)})
    assert left(store, "gate") == [n for n in range(10) for _ in range(2)]
    assert retention.used(store)["yard"] <= each // 2


def test_a_camera_may_have_an_age_of_its_own(ten_days, add, clock):
    add(ten_days, 20, camera="yard")
    clock.at += 0.9 * DAY
    run(ten_days, max_age_s=30 * DAY, cameras={"yard": Limits(max_age_s=DAY / 2)})
    assert (left(ten_days, "yard"), len(left(ten_days))) == ([], 10)


# the order of value


def test_labelled_crops_outlive_age_and_go_for_space_before_the_held_out(ten_days):
    for n in (0, 1, 2):
        labels.add(ten_days, f"gate:boot-{n}:0", "car", "human", "anna")
    labels.add(ten_days, "gate:boot-3:0", "car", "teacher", "t")  # a teacher's word protects nothing
    empty = {"classes": ["car"], "train": [], "tune": [], "holdout": [["gate:boot-0:0", "car"]]}
    snapshots.add(ten_days, {**empty, "holdout_ratio": 0.2, "block_s": 900, "seed": 1})
    run(ten_days, max_age_s=0)
    assert left(ten_days) == [0, 1, 2, 9]
    one_crop = ten_days.value("select max(size) from object where kind = 'crop'")
    run(ten_days, max_age_s=0, max_bytes=2 * one_crop)
    assert left(ten_days) == [0, 2]
    run(ten_days, max_age_s=0, max_bytes=one_crop)
    assert left(ten_days) == [0]
    run(ten_days, max_bytes=1)
    assert left(ten_days) == []
    assert check.run(ten_days) == []


def view(n, *, ts=0.0, seen=(("car", 0.9),), **options):
    return worth.View(
        n, f"o{n}", "gate", f"f{n}", ts, 100, **({"labelled": False, "waits": False} | options), seen=seen
    )


def test_of_like_views_within_ten_seconds_the_first_stays():
    views = [view(1, ts=0), view(2, ts=4), view(3, ts=9.9), view(4, ts=10), view(5, ts=10.5, seen=(("bus", 0.9),))]
    assert worth.redundant(views) == ["o2", "o3"]
    assert worth.redundant([view(1, seen=()), view(2, seen=())]) == ["o2"]


@pytest.mark.parametrize(
    "told",
    [{"seen": (("car", 0.79),)}, {"seen": (("", 0.0),)}, {"labelled": True}, {"waits": True},
     {"seen": (("car", 0.9), ("bus", 0.9))}],
    ids=["unsure", "no model", "labelled", "waits in the outbox", "saw another class as well"],
)  # fmt: skip
def test_a_view_that_teaches_something_is_nobodys_double(told):
    assert worth.redundant([view(1), view(2, **told)]) == []


def test_for_space_doubles_go_before_older_pictures(store, add, clock):
    for n in range(4):
        add(store, n, ts=100.0 * n, margin=0.3)
    for n in range(4, 8):
        add(store, n, ts=1000.0 + n, margin=0.95)
    clock.at += 2 * retention.FRESH_S
    add(store, 8, ts=5000.0)  # the clock is heard of again
    run(store, max_bytes=used(store) * 6 // 9)
    assert sorted(set(left(store))) == [0, 1, 2, 3, 4, 8]
    run(store, max_bytes=used(store) * 5 // 6)
    assert sorted(set(left(store))) == [1, 2, 3, 4, 8]


def test_what_a_model_was_trained_on_outlives_other_labels_by_rank():
    kept = {"holdout": {"b"}, "champion": {"b", "c"}, "previous": {"d"}}
    ranks = [worth.rank(view(1, samples=(s,), labelled=s != "x"), kept) for s in "xabcd"]
    assert ranks == [1, 2, 4, 4, 5]
    assert worth.rank(view(1, samples=("c",)), kept, ("champion",)) == worth.KEPT


def test_an_undone_label_protects_no_longer(ten_days):
    label = labels.add(ten_days, "gate:boot-0:0", "car", "human", "anna")
    labels.undo(ten_days, label, "anna")
    run(ten_days, max_age_s=5 * DAY)
    assert 0 not in left(ten_days)


def test_what_waits_in_the_outbox_stays_until_it_is_sent(ten_days):
    crop = samples.get(ten_days, "gate:boot-0:0").object
    parcel = outbox.add(ten_days, "scrubbed_crops", "crops/1.jpg", f"object:{crop}", 500)
    run(ten_days, max_age_s=0)
    assert objects.read(ten_days, crop)
    outbox.mark(ten_days, parcel, "sent", etag="e")
    run(ten_days, max_age_s=0)
    assert left(ten_days) == [9]  # received at this very moment


# clocks


class TwoClocks:
    """A wall clock that may leap, and a monotonic one that does not."""

    def __init__(self, wall):
        self.wall, self.ticks = wall, 1000.0

    def now(self):
        return self.wall

    def monotonic(self):
        return self.ticks

    def sleep(self, seconds):
        self.wall += seconds
        self.ticks += seconds


@pytest.fixture
def twenty(open_store, frame, scrubbed):
    """Twenty frames of two objects, one every five days; the store, its clock, the count of a daemon that ran all the
    time, and how to add a frame and let a minute pass.
    """
    clock = TwoClocks(1_795_262_400.0)
    store = open_store(clock=clock)
    count = ageing.Ageing(store)

    def add(n):
        made = frame(n, regions=1, ts=0.0)
        object.__setattr__(made, "received", clock.now())
        frames.add(store, made, scrubbed(made))
        minute()

    def minute():
        clock.sleep(60)
        return run(store, count=count, **RULES)

    for n in range(20):
        add(n)
        clock.sleep(5 * DAY - 120)
        minute()
    return store, clock, count, add, minute


RULES = {"max_age_s": 200 * DAY, "max_share": 0.05}
LEAPS = pytest.mark.parametrize(
    "leap", [3650 * DAY, -DAY, -1_795_262_400.0], ids=["ten years on", "a day back", "to 1970"]
)


@LEAPS
def test_a_clock_that_leaps_while_the_box_runs_makes_nothing_old(twenty, leap):
    store, clock, count, _, minute = twenty
    clock.wall += leap
    for _ in range(60):
        minute()
    assert objects_of(store) == 40
    clock.wall -= leap
    minute()
    clock.sleep(101 * DAY)  # and the count goes on as ever: frame 0 is 201 days old
    run(store, count=count, **(RULES | {"max_share": 1.0}))
    assert left(store) == list(range(1, 20))


@LEAPS
def test_what_came_while_the_clock_was_wrong_goes_when_its_time_has_come_and_not_before(twenty, leap):
    store, clock, count, add, minute = twenty
    clock.wall += leap
    add(100)
    clock.wall -= leap
    minute()
    clock.sleep(DAY)
    minute()
    add(101)
    clock.sleep(199 * DAY - 600)
    run(store, count=count, **(RULES | {"max_share": 1.0}))
    assert sorted(left(store)) == [100, 101]
    clock.sleep(DAY / 2)
    run(store, count=count, **(RULES | {"max_share": 1.0}))
    assert left(store) == [101]


@pytest.mark.parametrize("starts", [1, 5])
def test_a_start_at_ten_years_on_is_held_until_a_person_confirms_it(twenty, starts):
    store, clock, *_ = twenty
    clock.wall += 3650 * DAY
    for _ in range(starts):
        count = ageing.Ageing(store)
        for _ in range(100):
            done = run(store, count=count, **RULES)
            clock.sleep(60)
        assert objects_of(store) == 40
        assert 3649 < done.held / DAY < 3651
    count.confirm()
    taken = run(store, count=count, **RULES)
    assert (taken.objects, taken.more, taken.held) == (2, True, 0)


def test_a_start_at_ten_years_on_is_forgotten_when_the_clock_comes_back(twenty):
    store, clock, *_ = twenty
    clock.wall += 3650 * DAY
    count = ageing.Ageing(store)
    assert run(store, count=count, **RULES).held > 0
    clock.wall -= 3650 * DAY
    clock.sleep(60)
    assert run(store, count=count, **RULES).held == 0
    assert objects_of(store) == 40


def test_a_box_that_was_off_for_days_counts_them_by_itself_if_little_goes_for_it(twenty):
    store, clock, *_ = twenty
    clock.sleep(97 * DAY)  # nothing is 200 days old by that
    assert run(store, count=ageing.Ageing(store), **RULES).held == 0
    clock.sleep(4 * DAY)
    assert run(store, count=ageing.Ageing(store), **RULES).objects == 2
    clock.sleep(11 * DAY)  # two of nineteen frames
    assert run(store, count=ageing.Ageing(store), **RULES).held == 11 * DAY
    assert left(store)[0] == 1


def test_a_box_that_starts_in_1970_and_learns_the_time_later_counts_what_it_was_off(twenty):
    store, clock, *_ = twenty
    before = store.value("select value from ageing where name = 'counted'")
    right = clock.wall + DAY
    clock.wall = 100.0
    count = ageing.Ageing(store)
    run(store, count=count, **RULES)
    clock.sleep(60)
    clock.wall = right
    run(store, count=count, **RULES)
    assert store.value("select value from ageing where name = 'counted'") == pytest.approx(before + DAY, abs=60)
    assert objects_of(store) == 40


@LEAPS
def test_a_clock_that_leaps_calls_no_row_old_and_one_that_leapt_a_year_ago_neither(twenty, leap):
    _, clock, count, add, minute = twenty
    right = clock.wall
    assert count.received_before(50 * DAY) == pytest.approx(right - 50 * DAY, abs=6 * DAY)
    clock.wall += leap
    minute()
    assert count.received_before(50 * DAY) <= right - 50 * DAY
    add(100)
    clock.wall -= leap
    minute()
    clock.sleep(60 * DAY)
    minute()
    assert count.received_before(50 * DAY) <= clock.wall - 50 * DAY


def test_nothing_is_known_of_what_was_before_the_first_count(store):
    assert ageing.Ageing(store).received_before(DAY) == float("-inf")


def test_control_a_store_that_believes_the_clock_is_empty_after_an_hour_and_a_half(twenty):
    """What the count of time is for: the same runs with a count that believes whatever the clock says."""
    store, clock, *_ = twenty
    clock.wall += 3650 * DAY
    for _ in range(90):
        count = ageing.Ageing(store)
        count.confirm()
        run(store, count=count, **RULES)
        clock.sleep(60)
    assert objects_of(store) < 5


def test_numbers_of_erased_rows_that_are_given_again_are_not_taken_for_old(twenty):
    store, clock, count, add, _ = twenty
    with store.transaction():
        objects.forget(store, [r[0] for r in store.rows("select id from object order by rowid desc limit 20")])
    add(200)
    clock.sleep(160 * DAY)
    run(store, count=count, **(RULES | {"max_share": 1.0}))
    assert left(store) == [200]
