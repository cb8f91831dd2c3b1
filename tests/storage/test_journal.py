"""Group commit, and what becomes of it when the disk fails."""

import errno
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from edged.errors import Refused, Unavailable
from edged.storage import check, frames, journal, limit, objects, recover, samples, segments
from edged.storage.store import Store

SMALL = 64 * 1024


@pytest.fixture
def small(open_store):
    """A store with segments that a few frames fill."""
    return open_store(segment_bytes=SMALL)


def states(store):
    return [tuple(r) for r in store.rows("select number, state, class from segment order by number")]


def test_the_bytes_are_flushed_before_the_rows_are_written_and_the_receipt_is_last(store, add, monkeypatch):
    add(store, 0)
    calls: list[str] = []
    real_flush, real_run = os.fdatasync, Store._run
    monkeypatch.setattr(os, "fdatasync", lambda fd: (calls.append("flush"), real_flush(fd)))
    monkeypatch.setattr(os, "pwritev", lambda *a, real=os.pwritev: (calls.append("write"), real(*a))[1])

    def run(self, sql, params=()):
        if sql == "commit":
            calls.append("commit")
        return real_run(self, sql, params)

    monkeypatch.setattr(Store, "_run", run)
    add(store, 1, regions=4)
    assert calls == ["write", "flush", "commit"]


def test_who_comes_while_a_flush_is_under_way_shares_the_next_one(store, frame, scrubbed, monkeypatch):
    frames.add(store, frame(0), scrubbed(frame(0)))
    before, real = store.journal.flushes, os.fdatasync
    under_way, go_on = threading.Event(), threading.Event()

    def slow(fd):
        under_way.set()
        assert go_on.wait(30)
        real(fd)

    monkeypatch.setattr(os, "fdatasync", slow)
    with ThreadPoolExecutor(9) as pool:
        work = [pool.submit(frames.add, store, frame(1), scrubbed(frame(1)))]
        assert under_way.wait(30)
        work += [pool.submit(frames.add, store, frame(n), scrubbed(frame(n))) for n in range(2, 10)]
        while len(store.journal._waiting) < 8:
            pass
        go_on.set()
        assert {w.result().status for w in work} == {"stored"}
    assert store.journal.flushes - before == 2
    assert frames.count(store) == 10
    assert check.run(store) == []


def test_one_refused_frame_of_a_group_does_not_hold_up_the_others(store, frame, scrubbed):
    def draft(n):
        f = frame(n)
        answer = frames._answer(store, f, "withheld", "x")
        key = store.seal.key_for(store, "gate", "2026-11-21")

        def rows(place):
            if n == 2:
                raise Refused("not this one", code="no")
            frames.insert(store, answer)
            return n

        return journal.Draft(n, frames.record_of(answer, key, ()), lambda: None, rows)

    drafts = [draft(n) for n in (1, 2, 3)]
    with pytest.raises(Refused, match="not this one"):
        store.journal.append_all(drafts)
    assert [d.result for d in drafts] == [1, None, 3]
    assert frames.count(store, "withheld") == 2


def test_segments_fill_one_after_the_other_and_no_frame_is_cut_in_two(small, add):
    for n in range(60):
        add(small, n)
    assert len(states(small)) > 2
    assert [s for _, s, _ in states(small)] == ["full"] * (len(states(small)) - 1) + ["open"]
    assert all(p.stat().st_size <= SMALL for p in segments.files(small).values())
    assert check.run(small) == []


def test_a_frame_larger_than_a_segment_gets_one_of_its_own(small, frame, scrubbed):
    f = frame(1, regions=0)
    made = scrubbed(f)
    object.__setattr__(made, "jpeg", os.urandom(3 * SMALL))
    frames.add(small, f, made)
    assert frames.last_picture(small, "gate") == made.jpeg


def test_a_reopened_store_goes_on_in_the_same_segment(open_store, add):
    with open_store() as first:
        add(first, 1)
    with open_store() as second:
        recover.run(second)
        add(second, 2)
        assert states(second) == [(1, "open", "new")]
        assert check.run(second) == []


def test_a_full_store_says_so_and_what_is_there_stays(open_store, add):
    store = open_store(segment_bytes=SMALL, max_bytes=1)
    assert store.segment_bytes == SMALL
    with pytest.raises(Unavailable) as e:  # noqa: PT012
        for n in range(1000):
            add(store, n)
    assert e.value.code == "disk_full"
    assert len(states(store)) == limit.FEWEST - 1  # the last is for cleaning
    assert check.run(store) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS])
@pytest.mark.parametrize("call", ["pwritev", "fdatasync"])
def test_when_the_disk_fails_the_frame_stays_with_its_camera_and_the_next_goes_elsewhere(
    store, add, clock, monkeypatch, call, code
):
    add(store, 0)
    real, calls = getattr(os, call), []

    def fail(fd, *args):
        calls.append(os.readlink(f"/proc/self/fd/{fd}"))
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(Unavailable) as e:
        add(store, 1)
    assert e.value.code == ("disk_full" if code == errno.ENOSPC else "disk_failed")
    assert len(calls) == 1
    assert frames.find_receipt(store, "gate", "boot-1") is None
    monkeypatch.setattr(os, call, real)
    if code != errno.ENOSPC:
        with pytest.raises(Unavailable):  # not at once
            add(store, 1)
        assert len(calls) == 1
    clock.sleep(journal.COOLDOWN_S[1])
    add(store, 1)
    left = [r["number"] for r in store.rows("select number from segment where state = 'full'")]
    assert left == ([1] if call == "fdatasync" else [])  # a failed flush is never tried again on that file
    assert samples.crop(store, "gate:boot-0:0")
    # What a failed flush left behind is said until the next start has read it.
    assert {f.code for f in check.run(store)} == ({"unrecorded"} if call == "fdatasync" else set())


def test_after_a_failed_flush_the_database_is_opened_anew(store, add, clock, monkeypatch):
    add(store, 0)
    before = store._conn
    with monkeypatch.context() as m:
        m.setattr(os, "fdatasync", lambda fd: (_ for _ in ()).throw(OSError(errno.EIO, "I/O error")))
        with pytest.raises(Unavailable):
            add(store, 1)
    clock.sleep(60)
    add(store, 1)
    assert store._conn is not before
    assert store.value("pragma synchronous") == 2
    assert store.value("pragma foreign_keys") == 1


def test_when_the_rows_fail_there_is_no_receipt_and_the_next_try_succeeds(store, add, monkeypatch):
    add(store, 0)
    real = Store._run

    def run(self, sql, params=()):
        if sql == "commit":
            raise Unavailable("disk full", code="disk_full")
        return real(self, sql, params)

    with monkeypatch.context() as m:
        m.setattr(Store, "_run", run)
        with pytest.raises(Unavailable):
            add(store, 1)
    assert frames.find_receipt(store, "gate", "boot-1") is None
    add(store, 1)
    assert frames.count(store) == 2
    assert check.run(store) == []


def test_a_reader_that_meets_a_moved_object_looks_again(store, add, monkeypatch):
    add(store, 1)
    object_id = store.value("select object from frame")
    row = store.row("select segment, place from object where id = ?", (object_id,))
    real, looks = objects._row, []

    def late(store, object_id):
        found = real(store, object_id)
        looks.append(found)
        if len(looks) == 1:  # what it was before it moved
            store.execute("update object set place = place + 7 where id = ?", (object_id,))
            found = real(store, object_id)
            store.execute("update object set place = ? where id = ?", (row["place"], object_id))
        return found

    monkeypatch.setattr(objects, "_row", late)
    assert objects.read(store, object_id)
    assert len(looks) == 2
