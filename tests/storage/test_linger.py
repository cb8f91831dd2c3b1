"""Rows that follow their receipts: what is promised stays promised, whatever happens in between."""

import errno
import os
import threading

import pytest

from edged.errors import Refused, Unavailable
from edged.storage import check, clean, erasure, frames, journal, recover, samples, segments

NEVER = 3600.0  # seconds: only what settles by itself does


@pytest.fixture
def lingering(open_store):
    return open_store(linger_s=NEVER, segment_bytes=64 * 1024)


def rows(store):
    return store.value("select count(*) from frame")


def test_a_receipt_comes_before_the_rows_and_they_come_together(lingering, add):
    for n in range(5):
        add(lingering, n)
    assert rows(lingering) == 0
    with lingering.journal.settled():
        assert rows(lingering) == 5
    assert check.run(lingering) == []
    assert samples.crop(lingering, "gate:boot-4:1")


def test_after_their_time_they_come_by_themselves(open_store, add):
    store = open_store(linger_s=0.05)
    add(store, 1)
    for _ in range(400):
        if rows(store):
            break
        threading.Event().wait(0.02)
    assert rows(store) == 1


def test_a_duplicate_in_between_gets_the_same_receipt(lingering, frame, scrubbed):
    f = frame(1)
    first = frames.add(lingering, f, scrubbed(f))
    assert frames.add(lingering, f, scrubbed(f)) == first
    assert rows(lingering) == 1
    other = frame(2)
    frames.add(lingering, other, scrubbed(other))
    with pytest.raises(Refused, match="other bytes"):
        frames.add(lingering, frame(2, jpeg=b"another"), scrubbed(other))
    assert check.run(lingering) == []


def test_two_of_one_name_in_one_group_are_one(lingering, frame, scrubbed, monkeypatch):
    frames.add(lingering, frame(0), scrubbed(frame(0)))
    real, under_way, go_on = os.fdatasync, threading.Event(), threading.Event()

    def slow(fd):
        under_way.set()
        assert go_on.wait(30)
        real(fd)

    monkeypatch.setattr(os, "fdatasync", slow)
    got = []
    f = frame(2)
    threads = [threading.Thread(target=lambda: frames.add(lingering, frame(1), scrubbed(frame(1))))]
    threads[0].start()
    assert under_way.wait(30)
    threads += [threading.Thread(target=lambda: got.append(frames.add(lingering, f, scrubbed(f)))) for _ in range(3)]
    for thread in threads[1:]:
        thread.start()
    while len(lingering.journal._waiting) < 3:
        pass
    go_on.set()
    for thread in threads:
        thread.join(30)
    assert len(got) == 3
    assert {g.status for g in got} == {"stored"}
    assert rows(lingering) == 3


def test_what_a_death_leaves_without_rows_is_brought_back(open_store, add, data_dir):
    store = open_store(linger_s=NEVER)
    add(store, 0)
    with store.journal.settled():
        pass
    for n in range(1, 4):
        add(store, n)
    store.journal._owed.clear()  # as a death would
    store.close()
    with open_store() as again:
        assert rows(again) == 1
        assert recover.run(again).frames == 3
        assert check.run(again) == []


def test_no_segment_is_left_or_freed_while_rows_of_it_are_owed(lingering, add):
    for n in range(40):
        add(lingering, n)
        clean.free_empty(lingering)
    with lingering.journal.settled():
        pass
    assert rows(lingering) == 40
    assert len(segments.files(lingering)) >= 3
    assert check.run(lingering) == []


def test_after_a_failed_flush_what_was_promised_gets_its_rows_first(lingering, add, clock, monkeypatch):
    for n in range(3):
        add(lingering, n)
    with monkeypatch.context() as m:
        m.setattr(os, "fdatasync", lambda fd: (_ for _ in ()).throw(OSError(errno.EIO, "I/O error")))
        with pytest.raises(Unavailable):
            add(lingering, 3)
    clean.free_empty(lingering)
    clock.sleep(60)
    add(lingering, 4)
    assert rows(lingering) == 3
    with lingering.journal.settled():
        assert rows(lingering) == 4
    assert all(samples.crop(lingering, f"gate:boot-{n}:0") for n in (0, 1, 2, 4))


def test_erasing_one_sample_takes_no_frame_whose_rows_are_owed(lingering, add):
    add(lingering, 1)
    with lingering.journal.settled():
        pass
    for n in range(2, 6):
        add(lingering, n)
    erasure.now(lingering, erasure.What(samples=("gate:boot-1:0",)), "anna")
    assert rows(lingering) == 5
    assert all(samples.crop(lingering, f"gate:boot-{n}:0") for n in range(2, 6))
    with pytest.raises(Refused):
        samples.crop(lingering, "gate:boot-1:0")
    assert check.run(lingering) == []


def test_a_frame_whose_key_is_condemned_is_not_promised(lingering, frame, scrubbed, monkeypatch):
    f = frame(1)
    real = frames._append

    def late(*args):
        monkeypatch.setattr(frames, "_append", real)
        with lingering.journal.settled(), lingering.transaction():
            lingering.seal.condemn(lingering, [args[2].id])
        return real(*args)

    monkeypatch.setattr(frames, "_append", late)
    with pytest.raises(Unavailable):
        frames.add(lingering, f, scrubbed(f))
    assert frames.find_receipt(lingering, "gate", "boot-1") is None


def test_many_promises_do_not_wait_for_ever(open_store, add, monkeypatch):
    monkeypatch.setattr(journal, "OWED", 10)
    store = open_store(linger_s=NEVER)
    for n in range(25):
        add(store, n, regions=0)
    assert rows(store) == 20
