"""Planted pictures on the way of a camera's frames: what is measured, what raises the alarm, what clears it."""

import threading
from itertools import pairwise

import pytest

from edged import watch
from edged.clock import SystemClock
from edged.config import PLANTED, check
from edged.daemon import watch_rules
from edged.errors import Corrupt, Misconfigured, Unavailable
from edged.ingest import Line
from edged.privacy import planted
from edged.privacy.detect import Found
from edged.privacy.pool import ScrubChild
from edged.privacy.scrub import ScrubOptions, Withheld
from edged.privacy.sizes import EXPECTED, PICTURES
from edged.privacy.talk import Plant, Planted
from edged.privacy.track import Rules
from edged.storage import alarms, audit, counters, leaks
from edged.storage.store import Store
from edged.watch import LEAK, UNMEASURED, Finding, Watch, WatchRules, verdict
from edged.workers import Workers
from tests.site import FakeClock, Scrubber

EVERY = 600.0


class Oracle:
    """A detector that knows what was planted; `blind` to nothing, to all, or to a part of it."""

    start = keep = 0.5

    def __init__(self, kind):
        self.kind, self.spots, self.blind = kind, (), lambda spot: False

    def find(self, view):
        return [Found(s.kind, s.x, s.y, s.w, s.h, 1.0) for s in self.spots if s.kind == self.kind and not self.blind(s)]


class Knowing(Scrubber):
    """A scrubber with two oracles. Six pictures, drawn once for all tests, do for all seeds."""

    drawn: dict = {}  # noqa: RUF012

    def __init__(self):
        self.oracles = [Oracle("face"), Oracle("plate")]
        super().__init__(self.oracles)

    def plant(self, seed):
        if (drawn := seed % 6) not in self.drawn:
            self.drawn[drawn] = planted.plant(Plant(1, drawn, 640, 360))
        made = self.drawn[drawn]
        for oracle in self.oracles:
            oracle.spots = made.spots
        return made

    def blind(self, to=lambda spot: True):
        for oracle in self.oracles:
            oracle.blind = to

    def heal(self):
        self.blind(lambda spot: False)


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def store(tmp_path, clock):
    with Store.open(tmp_path / "site", clock=clock, site_key=bytes(range(32))) as opened:
        yield opened


@pytest.fixture
def scrubber():
    return Knowing()


class Bench:
    """A watch on one line of ingest, without threads: time passes by hand."""

    def __init__(self, store, scrubber, clock, delay_s=0.5, **rules):
        self.store, self.clock, self.receipts = store, clock, []
        self.line = Line(store, scrubber, Rules(), delay_s, clock)
        self.room = True
        self.jobs = []
        self.watch = Watch(store, self.plant, WatchRules(**({"every_s": EVERY, "least": 0.9} | rules)), clock)

    def plant(self, n, job):
        if self.room:
            self.jobs.append(job)
        return self.room

    def picture(self):
        """From one planted picture to what was found in it."""
        before = self.asked
        while self.asked == before:
            self.watch.step()
            self.clock.sleep(1)
        self.run()

    @property
    def asked(self):
        return len(self.jobs)

    def run(self):
        self.receipts += self.jobs[-1](self.line)
        self.clock.sleep(1)
        self.receipts += self.line.overdue()
        self.watch.step()

    def pictures(self, n):
        for _ in range(n):
            self.picture()

    def codes(self):
        return [a.code for a in alarms.standing(self.store)]


@pytest.fixture
def bench(store, scrubber, clock):
    return Bench(store, scrubber, clock)


def test_what_is_hidden_is_measured_and_nothing_is_stored_or_answered(bench, store):
    bench.pictures(3)
    known = leaks.measure(store)
    assert {(r.kind, r.size, r.hidden, r.n) for r in known.recalls} == {(*c, 3, 3) for c in EXPECTED}
    assert bench.receipts == []
    assert bench.codes() == []
    assert store.value("select count(*) from frame") == 0
    assert store.value("select count(*) from object") == 0
    assert store.value("select count(*) from camera") == 0
    assert not [name for name in counters.all(store) if name.startswith("scrubbed")]


def test_a_scrubber_that_finds_nothing_raises_the_alarm(bench, scrubber, store):
    scrubber.blind()
    bench.pictures(3)  # one of the first three is by day
    (alarm,) = alarms.standing(store)
    assert alarm.code == LEAK
    assert "leaked" in alarm.text
    assert leaks.measure(store).recalls[0].hidden == 0
    assert [e.act for e in audit.rows(store)] == ["alarm.raised"]


def test_a_scrubber_that_loses_small_faces_only_raises_it_in_time(bench, scrubber, store):
    scrubber.blind(lambda spot: spot.kind == "face" and spot.w < 16)  # small ones, in a picture 640 wide
    bench.pictures(watch.ENOUGH - 1)
    assert bench.codes() == []
    bench.picture()
    assert bench.codes() == [LEAK]
    assert "small planted faces" in alarms.standing(store)[0].text


def test_the_alarm_clears_by_itself_when_things_are_hidden_again_and_not_sooner(bench, scrubber, store):
    scrubber.blind()
    bench.pictures(4)
    scrubber.heal()
    bench.pictures(4)
    assert bench.codes() == [LEAK]
    bench.pictures(50)
    assert bench.codes() == []
    assert [e.act for e in audit.rows(store)] == ["alarm.cleared", "alarm.raised"]
    bench.pictures(watch.ENOUGH + 2)
    assert bench.codes() == [], "what led to it is not held against it again"


def test_the_first_pictures_come_quickly_but_take_no_more_than_a_share_of_the_childs_time(bench, clock):
    at = []
    for _ in range(watch.QUICK + 2):
        bench.picture()
        at.append(clock.now())
    gaps = [b - a for a, b in pairwise(at)]
    assert max(gaps[: watch.QUICK - 2]) < EVERY / 2
    assert min(gaps) >= watch.QUICK_S
    assert gaps[-1] >= EVERY
    slow = Finding(0, (), "timeout", 30.0)
    bench.watch._out = (0, clock.monotonic())
    bench.watch._quick = 5
    bench.watch._note(slow, clock.monotonic())
    assert bench.watch._next - clock.monotonic() == pytest.approx(30.0 / watch.BUSY)


def test_pictures_that_come_to_nothing_count_apart_and_too_many_are_an_alarm(bench, scrubber, store):
    scrubber.fault = Withheld("late", code="timeout")
    scrubber.plant = Knowing().plant
    bench.pictures(watch.IN_A_ROW)
    assert leaks.measure(store).unjudged == {"timeout": watch.IN_A_ROW}
    assert all(r.n == 0 for r in leaks.measure(store).recalls)
    assert bench.codes() == [UNMEASURED]
    scrubber.fault = None
    scrubber.plant = Knowing.plant.__get__(scrubber)
    bench.picture()
    assert bench.codes() == []


@pytest.mark.parametrize("delay_s", [0.0, 0.5])
def test_a_look_that_fails_or_a_child_that_is_down_is_no_leak(store, scrubber, clock, delay_s):
    bench = Bench(store, scrubber, clock, delay_s)
    scrubber.fault = Unavailable("no child", code="child_down")
    bench.picture()
    assert leaks.measure(store).unjudged == {"child_down": 1}
    assert bench.receipts == []


def test_a_generator_that_is_broken_is_no_healthy_system(bench, scrubber, store, encode_grey):
    grey = encode_grey
    made = Knowing().plant(1)
    scrubber.plant = lambda seed: Planted(1, 640, 360, grey, made.spots, made.easy)
    bench.picture()
    scrubber.plant = lambda seed: Planted(1, 640, 360, grey, ())
    bench.picture()
    assert leaks.measure(store).unjudged == {"planted": 1, "nothing_planted": 1}
    bench.pictures(watch.IN_A_ROW)
    assert bench.codes() == [UNMEASURED]


@pytest.fixture
def encode_grey():
    import cv2
    import numpy as np

    return cv2.imencode(".jpg", np.full((360, 640, 3), 128, np.uint8))[1].tobytes()


def test_silence_is_an_alarm(bench, clock, store):
    bench.room = False
    bench.watch.step()
    clock.sleep(3 * EVERY + 1)
    bench.watch.step()
    assert bench.codes() == [UNMEASURED]
    began = alarms.standing(store)[0].since
    bench.room = True
    clock.sleep(5)
    bench.picture()
    assert bench.codes() == []
    assert clock.now() > began


def test_a_picture_that_is_lost_is_given_up_and_its_late_answer_does_not_count(bench, clock, store):
    bench.watch.step()
    assert bench.asked == 1
    clock.sleep(watch.LOST_S + 1)
    bench.watch.step()
    assert leaks.measure(store).unjudged == {"lost": 1}
    bench.run()  # late
    assert leaks.measure(store).last is None


def test_a_restart_goes_on_with_the_next_picture_and_keeps_the_alarm(bench, scrubber, store, clock):
    scrubber.blind()
    bench.pictures(3)
    after = Bench(store, scrubber, clock)
    after.picture()
    assert leaks.last(store).seed == 3
    assert after.codes() == [LEAK]
    assert leaks.measure(store).recalls[0].n == 4


def test_the_pictures_come_again_after_the_last_one(bench, store, clock, scrubber):
    leaks.add_unjudged(store, PICTURES - 1, "timeout")
    again = Bench(store, scrubber, clock)
    again.picture()
    assert leaks.last(store).seed == 0


@pytest.mark.parametrize("rules", [{"every_s": 0.0}, {"kinds": ()}])
def test_switched_off_nothing_is_planted_and_no_alarm_of_before_stands(store, scrubber, clock, rules):
    alarms.sound(store, LEAK, "old")
    bench = Bench(store, scrubber, clock, **rules)
    clock.sleep(10 * EVERY)
    bench.watch.step()
    assert bench.asked == 0
    assert bench.codes() == []


def test_a_kind_that_is_not_to_be_hidden_is_not_measured(store, scrubber, clock):
    scrubber.oracles[1].blind = lambda spot: True
    bench = Bench(store, scrubber, clock, kinds=("face",))
    bench.pictures(watch.ENOUGH)
    assert bench.codes() == []
    assert {r.kind for r in leaks.measure(store).recalls if r.n} == {"face"}


def test_a_corrupt_store_stops_the_line_instead_of_being_noted(store, scrubber, clock):
    scrubber.fault = Corrupt("the disk")
    bench = Bench(store, scrubber, clock)
    bench.watch.step()
    with pytest.raises(Corrupt):
        list(bench.jobs[0](bench.line))


def test_one_planted_picture_covers_nothing_of_the_next(store, scrubber, clock):
    """Without the cut between them, tracks of the one would hide what leaks in the other."""
    bench = Bench(store, scrubber, clock, every_s=0.1)
    bench.watch.step()
    list(bench.jobs[0](bench.line))
    list(bench.line.finish())
    scrubber.blind()
    told = []
    list(watch.plant(0, ("face", "plate"), clock, told.append, bench.line))  # the same picture, at the same moment
    list(bench.line.finish())
    assert not any(o.hidden for o in told[0].observed)


def test_in_life_threads_take_it_between_frames(store, clock, scrubber):
    found, ready = [], threading.Event()

    def tell(finding):
        found.append(finding)
        ready.set()

    workers = Workers(store, [scrubber], lambda *_: pytest.fail("nobody is answered"), pytest.fail, delay_s=0.05)
    assert workers.submit_job(3, lambda line: watch.plant(1, ("face",), SystemClock(), tell, line))
    assert ready.wait(30)
    workers.close()
    assert [o.kind for o in found[0].observed] == ["face"] * 3
    assert all(o.hidden for o in found[0].observed)
    assert found[0].took_s > 0


def test_a_full_queue_has_no_room_for_it(store, scrubber):
    hold, held = threading.Event(), threading.Event()

    def wait(line):
        held.set()
        hold.wait(30)
        return ()

    workers = Workers(store, [scrubber], lambda *_: None, pytest.fail)
    workers.submit_job(0, wait)
    assert held.wait(30)
    assert [workers.submit_job(0, wait) for _ in range(3)] == [True, True, False]
    hold.set()
    workers.close()


def test_the_real_child_hides_the_easy_ones(store, clock):
    told = []
    with ScrubChild(ScrubOptions(), 60) as child:
        line = Line(store, child, Rules(), 0.5, clock)
        for seed in (1, 2):
            list(watch.plant(seed, ("face", "plate"), clock, told.append, line))
            list(line.finish())
    assert [f.why for f in told] == ["", ""]
    easy = [o for f in told for o in f.observed if o.easy]
    assert {o.kind for o in easy} == {"face", "plate"}
    assert all(o.hidden for o in easy), easy


def test_no_camera_can_have_the_name_of_the_planted_one():
    raw = {"server": {"site": "a"}, "task": {"classes": ["a", "b"]}, "camera": [{"id": PLANTED}]}
    with pytest.raises(Misconfigured, match="planted"):
        check(raw)


def test_the_rules_come_from_the_configuration():
    raw = {
        "server": {"site": "a"},
        "task": {"classes": ["a", "b"]},
        "privacy": {"plates": False, "planted_every_s": 60},
    }
    assert watch_rules(check(raw)) == WatchRules(60, 0.9, ("face",))


ALL, NONE = [True] * 200, [False] * 200


@pytest.mark.parametrize(
    ("hidden", "stands", "alarm"),
    [
        ([], False, False),
        (NONE[:9], False, False),  # too few to say
        (NONE[:10], False, True),
        (ALL, False, False),
        (NONE[:3] + ALL, False, False),  # 17 of 20: not significantly below
        (NONE[:7] + ALL, False, True),
        (([False] + [True] * 3) * 50, False, True),  # shallow, but of 200
        (([False] + [True] * 6) * 50, False, False),
        (NONE[:6] + ALL, True, True),
        (NONE[:3] + ALL, True, True),  # one that stands needs more
        (ALL[:20] + NONE, True, True),
        (ALL[:60] + NONE, True, False),
    ],
)
def test_when_a_recall_is_an_alarm(hidden, stands, alarm):
    assert bool(verdict({("face", "large"): hidden}, {}, 0.9, stands=stands)) == alarm


def test_one_easy_one_that_leaks_is_an_alarm_at_once():
    assert verdict({}, {"plate": [True, False]}, 0.9, stands=False) == "1 of the last 2 easy planted plates leaked"
    assert verdict({}, {"plate": [True] * 10 + [False]}, 0.9, stands=True) == ""
