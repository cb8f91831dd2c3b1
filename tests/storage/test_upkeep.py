"""What the store does by itself, step by step, on a clock of its own."""

import threading

import pytest

from edged.errors import Unavailable
from edged.storage import alarms, check, clean, counters, erasure, frames, gauges, recover, requests, retention, upkeep
from edged.storage.keyring import Trouble
from tests.storage.conftest import StandIn, noise

DAY = 86400.0


@pytest.fixture
def keep(store):
    recover.run(store)

    def make(vouched=False, **options):
        rules = retention.Rules(**({"max_bytes": 1 << 40, "max_age_s": 30 * DAY, "max_share": 1.0} | options))
        return upkeep.Upkeep(store, upkeep.Rules(rules, reserve=2**20), lambda: vouched)

    return make


def test_a_step_takes_the_reserve_thins_and_says_when_the_disk_is_full(store, add, keep, clock, data_dir):
    add(store, 1)
    clock.at += 0.5 * DAY
    add(store, 2)
    keep(max_age_s=0.3 * DAY).step()
    assert (data_dir / "reserve").stat().st_size == 2**20
    assert store.value("select count(*) from object") == 3
    assert "full_in_days" in gauges.all(store)
    assert check.run(store) == []


def test_a_clock_in_doubt_is_an_alarm_until_somebody_says_that_it_is_right(store, add, keep, clock):
    add(store, 1)
    clock.at += 400 * DAY
    work = keep()
    work.step()
    assert alarms.stands(store, alarms.RETENTION_HELD)
    assert store.value("select count(*) from object") == 3
    asked = requests.add(store, upkeep.CONFIRM, {}, "anna")
    work.step()
    assert [r.result for r in requests.latest(store) if r.id == asked] == ["confirmed"]
    assert not alarms.stands(store, alarms.RETENTION_HELD)
    assert store.value("select count(*) from object") == 0


def test_a_clock_that_a_time_server_vouches_for_needs_nobody_to_confirm_it(store, add, keep, clock):
    add(store, 1)
    clock.at += 400 * DAY
    work = keep(vouched=True)
    work.step()
    assert not alarms.stands(store, alarms.RETENTION_HELD)
    clock.at += upkeep.RETENTION_S
    work.step()
    assert store.value("select count(*) from object") == 0


def test_an_erasure_that_was_asked_for_is_done_at_the_next_step(store, add, keep):
    add(store, 1)
    asked = erasure.promise(store, erasure.What(camera="gate"), "anna")
    assert erasure.standing(store, asked) == (0.0, None)
    keep().step()
    share, done = erasure.standing(store, asked)
    assert (share, done.objects) == (1.0, 3)


def test_keys_that_seal_nothing_any_more_are_destroyed_when_their_day_is_over(store, add, keep, clock):
    add(store, 1)
    clock.at += 0.9 * DAY
    keep(max_age_s=1).step()
    assert len(store.seal.keys(store)) == 1  # yesterday's record may still be read after a power cut
    clock.at += DAY
    keep(max_age_s=1).step()
    assert store.seal.keys(store) == []


def test_a_store_without_a_segment_left_to_write_to_is_thinned_whatever_its_pictures_weigh(open_store, frame):
    """Records are padded, and segments half empty: they are all in use before the pictures weigh `max_bytes`."""
    store = open_store(max_bytes=8 * 2**20)
    recover.run(store)
    work = upkeep.Upkeep(store, upkeep.Rules(retention.Rules(8 * 2**20, 1e9), reserve=0))

    def add(n):
        made = frame(n, regions=1)
        frames.add(store, made, StandIn(noise(f"p{n}", 30_000), 8, 8, (noise(f"c{n}", 500),)))

    refused = 0
    for n in range(600):  # 18 MB
        try:
            add(n)
        except Unavailable:
            refused += 1
            work._next_retention = 0.0
            work.step()
            add(n)
    room = clean.room(store)
    assert room.used + room.free <= 8
    assert refused > 1
    assert store.value("select count(*) from object") > 150
    assert check.run(store) == []


def test_it_waits_when_the_store_is_busy_and_stops_with_it(store, keep, monkeypatch):
    heard = []
    stop = threading.Event()
    work = keep()

    def once():
        stop.set()
        raise RuntimeError("a bug")

    monkeypatch.setattr(work, "step", once)
    work.forever(stop, heard.append, every_s=0.0)
    assert [str(e) for e in heard] == ["a bug"]


def test_what_retention_took_is_counted_for_ever(store, add, keep, clock):
    add(store, 1)
    clock.at += 0.5 * DAY
    work = keep(max_age_s=0.3 * DAY)
    work.step()
    taken = counters.get(store, "retention_objects")
    assert taken == 3
    assert counters.get(store, "retention_bytes") > taken
    add(store, 2)
    clock.at += 0.5 * DAY
    work.step()
    assert counters.get(store, "retention_objects") == 2 * taken


def test_keys_in_trouble_are_an_alarm_until_they_are_well(store, keep, clock, monkeypatch):
    work = keep()
    found = [Trouble("keyring_copy_missing", "/media/keyring is missing")]
    monkeypatch.setattr(type(store.seal), "trouble", lambda *_: found)
    work.step()
    assert [(a.code, a.text) for a in alarms.standing(store)] == [("keyring_copy", "/media/keyring is missing")]
    found.clear()
    clock.at += 3601
    work.step()
    assert alarms.standing(store) == []


def test_an_erasure_that_a_stop_interrupts_goes_on_at_the_next_start(store, add, keep):
    for n in range(3):
        add(store, n)
    asked = erasure.promise(store, erasure.What(samples=("gate:boot-1:0",)), "anna")
    work, stop = keep(), threading.Event()
    work._stop = stop
    stop.set()
    work.step()
    assert erasure.standing(store, asked)[1] is None
    keep().step()
    assert erasure.standing(store, asked)[1].objects == 2
    assert check.run(store) == []
