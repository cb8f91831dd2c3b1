"""Beats on a clock that tests move: what is noticed, after how long, and what is no reason to restart."""

import itertools

import pytest

from edged.config import PLANTED
from edged.errors import Corrupt, Refused, Unavailable
from edged.ingest import Line
from edged.privacy.pool import START_S, ScrubChild
from edged.privacy.scrub import ScrubOptions, Withheld
from edged.privacy.track import Rules
from edged.pulse import BEAT, PICTURE, RECEIPT, SIDE, Pulse, PulseRules, Watched
from edged.storage import counters
from edged.storage.store import Store
from edged.wire.messages import Frame, FrameHeader
from tests.site import FakeClock, Scrubber

TURN = 0.1


class Wire:
    """A cable that brings back what it is given, until it does not."""

    def __init__(self):
        self.up, self.lives, self.mute, self.reacts, self.n = True, True, False, True, 1
        self.carried, self.renewed = [], 0

    def publish(self, topic, payload):
        if not self.up:
            raise Unavailable("no connection")
        if not self.mute:
            self.carried.append((topic, payload))

    def connected(self):
        return self.up

    def connects(self):
        return self.n

    def alive(self):
        return self.lives

    def renew(self):
        self.renewed += 1
        if self.reacts:
            self.carried.clear()
            self.n += 1


class Bench:
    """A pulse over two lines without threads: what is planted runs at the next turn, unless its line hangs."""

    def __init__(self, store, clock, **rules):
        self.clock, self.wire, self.hangs, self.touched = clock, Wire(), set(), 0
        self.scrubbers = [Scrubber(), Scrubber()]
        self.watched = [Watched(s, clock) for s in self.scrubbers]
        self.lines = [Line(store, w, Rules(), 0.0, clock) for w in self.watched]
        self.jobs, self.fault = [], None
        self.pulse = Pulse(self.wire, str, self.watched, self.plant, self.touch, PulseRules(**rules), clock)

    def plant(self, n, job):
        self.jobs.append((n, job))
        return True

    def touch(self):
        if self.fault is not None:
            raise self.fault
        self.touched += 1

    def turn(self):
        for n, job in [j for j in self.jobs if j[0] not in self.hangs]:
            list(job(self.lines[n]))
        self.jobs = [j for j in self.jobs if j[0] in self.hangs]
        for topic, payload in self.wire.carried:
            self.pulse.hears()
            self.pulse.heard(topic, payload)
        self.wire.carried.clear()
        self.clock.sleep(TURN)
        return self.pulse.step()

    def run(self, seconds):
        """Turns until something stands still; (seconds, what), (None, "") when nothing does."""
        for i in itertools.count(1):
            if why := self.turn():
                return i * TURN, why
            if i * TURN >= seconds:
                return None, ""


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def store(tmp_path, clock):
    with Store.open(tmp_path / "site", clock=clock, site_key=bytes(range(32))) as opened:
        yield opened


@pytest.fixture
def bench(store, clock):
    return Bench(store, clock)


def test_a_box_that_is_well_beats_every_five_seconds_and_leaves_nothing(bench, store):
    assert bench.run(60.0) == (None, "")
    assert bench.pulse.through in (11, 12, 13)
    assert bench.touched == 2 * bench.pulse.through
    assert bench.pulse.cable_works
    assert bench.wire.renewed == 0
    assert store.value("select count(*) from frame") == store.value("select count(*) from camera") == 0
    assert store.value("select count(*) from data_key") == 0
    assert counters.all(store) == {}


def test_a_network_thread_that_ended_is_noticed_at_once(bench):
    bench.run(12)
    bench.wire.lives = False
    assert bench.run(5) == (TURN, "the network thread has ended or hangs")


def test_a_link_that_hears_nothing_and_does_not_react_is_noticed_within_25_seconds(bench):
    bench.run(12)
    bench.wire.mute, bench.wire.reacts = True, False
    after, why = bench.run(30)
    assert "does not hang up" in why
    assert after < 25
    assert bench.wire.renewed == 1


def test_a_link_that_hears_nothing_on_a_new_connection_either_is_noticed_within_25_seconds(bench):
    bench.run(12)
    bench.wire.mute = True
    after, why = bench.run(30)
    assert "on a new connection either" in why
    assert after < 25


def test_a_subscription_that_was_lost_is_mended_by_a_new_connection(bench):
    bench.run(12)
    bench.wire.mute = True
    while not bench.wire.renewed:
        assert bench.turn() == ""
    bench.wire.mute = False
    through = bench.pulse.through
    assert bench.run(60) == (None, "")
    assert bench.wire.renewed == 1
    assert bench.pulse.through > through + 10


def test_while_the_broker_is_away_beats_go_without_it(bench):
    bench.run(12)
    bench.wire.up = False
    through = bench.pulse.through
    assert bench.run(3600) == (None, "")
    assert bench.pulse.through - through > 700
    bench.hangs = {1}
    assert bench.run(30)[0] < 25
    assert bench.wire.renewed == 0


def test_a_broker_that_goes_while_a_beat_is_under_way_does_not_hold_it(bench):
    bench.run(12)
    bench.wire.mute = True
    bench.run(5)
    bench.wire.up = False
    assert bench.run(300) == (None, "")
    bench.wire.up, bench.wire.mute, bench.wire.n = True, False, 9
    assert bench.run(300) == (None, "")
    assert bench.wire.renewed == 0


def test_a_broker_that_hangs_is_hung_up_on_and_is_then_merely_away(bench):
    bench.run(12)
    bench.wire.mute = True

    def renew():
        bench.wire.up = False  # and the new connection gets no answer

    bench.wire.renew = renew
    assert bench.run(3600) == (None, "")
    bench.wire.up, bench.wire.mute, bench.wire.n = True, False, 2
    assert bench.run(60) == (None, "")


def test_a_cable_that_never_brought_a_beat_back_is_told_and_restarts_nothing(bench):
    bench.wire.mute = True
    assert bench.run(3600) == (None, "")
    assert bench.pulse.cable_silent
    assert bench.pulse.through > 100
    assert bench.wire.renewed < 8
    bench.wire.mute = False
    bench.run(30)
    assert not bench.pulse.cable_silent
    assert bench.pulse.cable_works


def test_a_beat_behind_a_thousand_frames_is_waited_for(bench):
    bench.run(12)
    bench.wire.mute = True
    for _ in range(600):  # a minute in which frames arrive and the beat does not
        assert bench.turn() == ""
        bench.pulse.hears()
    assert bench.wire.renewed == 0
    bench.hangs = {0}
    turns = 0
    while not bench.turn():  # the lines are looked after meanwhile
        bench.pulse.hears()
        turns += 1
    assert turns < 250


@pytest.mark.parametrize("n", [0, 1])
def test_a_line_that_stands_still_is_noticed_within_25_seconds(bench, n):
    """Its thread ended, or waits for a lock or a flush that never comes."""
    bench.run(12)
    bench.hangs = {n}
    after, why = bench.run(30)
    assert why.startswith(f"line {n} of ingest")
    assert after < 25


def test_a_line_that_answers_frames_is_not_still_however_long_a_beat_waits(bench):
    bench.run(12)
    bench.hangs = {0}
    for _ in range(600):
        bench.watched[0].moved = bench.clock.monotonic()  # a look or a cover ended
        assert bench.turn() == ""


def test_a_child_has_its_whole_deadline_and_a_start_if_it_needs_one(bench):
    bench.run(12)
    hung = bench.watched[0]
    hung.calling, hung.moved = True, bench.clock.monotonic()
    bench.hangs = {0}
    after, why = bench.run(100)
    assert why.startswith("scrub child 0 was asked")
    assert 20 < after < 21
    hung._scrubber.starting = True
    hung.moved = bench.clock.monotonic()
    after, _ = bench.run(200)
    assert 20 + START_S < after < 21 + START_S


@pytest.mark.parametrize(
    "fault",
    [Unavailable("full", code="disk_full"), Unavailable("no child", code="child_down"), Refused("no")],
)  # fmt: skip
def test_a_part_that_answers_with_an_error_is_alive(bench, fault):
    bench.fault = fault
    assert bench.run(60) == (None, "")
    bench.fault = None
    bench.scrubbers[0].fault = Withheld("late", code="timeout")
    assert bench.run(60) == (None, "")


def test_a_corrupt_store_goes_on_to_whoever_runs_the_line(bench):
    bench.fault = Corrupt("the disk")
    with pytest.raises(Corrupt):
        bench.run(10)


def test_when_nobody_looked_every_clock_starts_anew(bench):
    bench.run(12)
    bench.hangs = {0, 1}
    bench.run(10)
    bench.clock.sleep(300)  # a virtual machine was stopped
    assert bench.turn() == ""
    after, _ = bench.run(60)
    assert 14 < after < 16


def test_without_beats_nothing_is_sent_and_nothing_stands_still(store, clock):
    bench = Bench(store, clock, every_s=0.0)
    bench.hangs = {0, 1}
    assert bench.run(120) == (None, "")
    assert bench.jobs == []


def test_what_others_say_on_its_topics_is_no_beat(bench):
    bench.run(12)
    bench.wire.mute = True
    bench.run(6)
    for leaf in (BEAT, RECEIPT):
        for payload in (b"", b"x", b"\xff" * 100_000, b":0", b"0", bench.pulse._beat.token.encode() + b":x"):
            bench.pulse.heard(leaf, payload) if leaf == RECEIPT else None
    through = bench.pulse.through
    bench.run(5)
    assert bench.pulse.through == through


def test_a_real_child_takes_the_picture_of_a_beat(store, clock):
    frame = Frame(PLANTED, FrameHeader("pulse-0", 0.0, 0, "pulse", SIDE, SIDE), PICTURE)
    with ScrubChild(ScrubOptions(faces=False, plates=False), 60) as child:
        assert child.starting
        covered = Watched(child, clock).scrub(frame, (), blank=True)
        assert not child.starting
    assert (covered.width, covered.height) == (SIDE, SIDE)
