"""A catalogue that lost its newest rows, or all of them, gets them back from the segments."""

import os
import shutil
from contextlib import suppress

import pytest

from edged.errors import Misconfigured, Unavailable
from edged.storage import check, clean, frames, labels, objects, recover, samples, segment, segments
from edged.storage.journal import Journal

SMALL = 64 * 1024


@pytest.fixture
def cut(open_store, data_dir, tmp_path):
    """`with cut(): ...` what is done inside is in the segments alone afterwards: the catalogue is as it was before."""
    from contextlib import contextmanager

    @contextmanager
    def cut_(**options):
        with open_store(**options) as store:
            store.rows("pragma wal_checkpoint(truncate)")
            shutil.copy(data_dir / "edged.db", tmp_path / "before.db")
            with suppress(Unavailable):
                yield store
        for name in ("edged.db", "edged.db-wal", "edged.db-shm"):
            (data_dir / name).unlink(missing_ok=True)
        shutil.copy(tmp_path / "before.db", data_dir / "edged.db")

    return cut_


def same(store, frame, scrubbed, numbers, regions=2):
    for n in numbers:
        made = scrubbed(frame(n, regions=regions))
        picture = store.value("select object from frame where id = ?", (f"boot-{n}",))
        assert objects.read(store, picture) == made.jpeg
        assert [samples.crop(store, f"gate:boot-{n}:{i}") for i in range(regions)] == list(made.crops)


def test_frames_whose_rows_were_lost_are_brought_back_whole(open_store, cut, add, frame, scrubbed):
    with open_store() as store:
        add(store, 1)
        before = {n: frames.find_receipt(store, "gate", f"boot-{n}") for n in (1,)}
    with cut() as store:
        for n in range(2, 8):
            add(store, n)
            before[n] = frames.find_receipt(store, "gate", f"boot-{n}")
        rows = [tuple(r) for r in store.rows("select * from frame order by id")]
        cut_samples = [tuple(r) for r in store.rows("select * from sample order by id")]
    with open_store() as store:
        assert frames.count(store) == 1
        assert recover.run(store).frames == 6
        assert [tuple(r) for r in store.rows("select * from frame order by id")] == rows
        assert [tuple(r) for r in store.rows("select * from sample order by id")] == cut_samples
        assert {n: frames.find_receipt(store, "gate", f"boot-{n}") for n in before} == before
        same(store, frame, scrubbed, range(1, 8))
        assert check.run(store) == []
        assert recover.run(store) == recover.Recovered()
        add(store, 8)
        same(store, frame, scrubbed, range(1, 9))


def test_frames_that_came_after_a_torn_group_outlive_the_next_power_cut(open_store, cut, add, frame, scrubbed):
    """Of the torn group a head is left, behind which the next group begins on a page of its own."""
    with open_store() as store:
        add(store, 1, regions=0)
        row = store.row("select number, generation, recorded from segment")
        key = store.seal.key_for(store, "gate", "2026-11-21")
        body = segment.Body.of("ab" * 16, "frame", bytes(9000))
        pieces, _ = segment.encode(
            segment.Record("cd" * 16, key.id, b"never receipted", (body,)),
            row["number"],
            row["generation"],
            row["recorded"],
        )
        fd = os.open(segments.path_of(store, row["number"]), os.O_RDWR)
        os.pwrite(fd, b"".join(pieces)[: segment.PAGE], row["recorded"])
    with cut() as store:
        recover.run(store)
        for n in range(2, 6):
            add(store, n)
        assert segment.read(fd, row["number"], row["recorded"]) is not None
        os.close(fd)
        assert check.run(store) == []
    with open_store() as store:
        assert recover.run(store).frames == 4
        same(store, frame, scrubbed, range(2, 6))
        assert check.run(store) == []


def test_the_control_without_recovery_loses_them(open_store, cut, add):
    with cut() as store:
        add(store, 1)
    with open_store() as store:
        assert frames.count(store) == 0


@pytest.mark.parametrize("lost", [False, True])
def test_a_frame_that_was_sent_again_because_its_rows_failed_has_one_set_of_pictures(
    open_store, cut, add, frame, scrubbed, monkeypatch, lost
):
    """There are two records of it then; `lost`: the rows of the second are lost, too."""

    def failing(*_):
        raise Unavailable("the disk failed", code="disk_failed")

    with open_store() as store:
        add(store, 0)
    with cut() as store:
        with monkeypatch.context() as failed:
            failed.setattr(Journal, "_record", failing)
            with pytest.raises(Unavailable):
                add(store, 1)
        if lost:
            add(store, 1)
    with open_store() as store:
        if not lost:
            store.execute("update segment set state = 'full'")
            add(store, 1)
        recover.run(store)
        same(store, frame, scrubbed, (0, 1))
        assert check.run(store) == []


def test_what_was_withheld_stays_withheld(open_store, cut, add, frame):
    with open_store() as store:
        add(store, 0)
    with cut() as store:
        receipt = frames.settle(store, frame(1), "withheld", "too dark")
    with open_store() as store:
        recover.run(store)
        assert frames.settle(store, frame(1), "withheld", "something else") == receipt
        assert frames.count(store, "withheld") == 1


def test_what_retention_took_does_not_come_back(open_store, add):
    with open_store() as store:
        for n in range(4):
            add(store, n)
        ids = [r[0] for r in store.rows("select id from object")]
        with store.transaction():
            objects.forget(store, ids)
    with open_store() as store:
        assert recover.run(store).frames == 0
        assert store.value("select count(*) from object") == 0
        assert frames.count(store) == 4
        assert check.run(store) == []


def test_a_segment_that_was_begun_anew_and_lost_its_row_is_read_from_its_first_byte(
    open_store, cut, add, frame, scrubbed
):
    small = {"segment_bytes": SMALL, "max_bytes": 1}
    with open_store(**small) as store:
        n = 0
        with suppress(Unavailable):
            while True:
                add(store, n)
                n += 1
        with store.transaction():
            objects.forget(store, [r[0] for r in store.rows("select id from object where segment <= 2")])
        assert clean.free_empty(store) == 2
    with cut(**small) as store:
        for i in range(n + 1, n + 4):
            add(store, i)
        assert store.value("select segment from object order by rowid desc") == 1
    with open_store(**small) as store:
        assert recover.run(store).frames == 3
        same(store, frame, scrubbed, range(n + 1, n + 4))
        assert check.run(store) == []
        add(store, n + 5)
        assert check.run(store) == []


def test_a_catalogue_that_is_gone_is_built_from_the_segments(open_store, add, frame, scrubbed, data_dir):
    small = {"segment_bytes": SMALL}
    with open_store(**small) as store:
        for n in range(40):
            add(store, n)
        frames.settle(store, frame(99), "refused", "not a picture")
        assert clean.run(store).freed == 0
        rows = {t: [tuple(r) for r in store.rows(f"select * from {t} order by id")] for t in ("frame", "sample")}
    for name in ("edged.db", "edged.db-wal", "edged.db-shm"):
        (data_dir / name).unlink(missing_ok=True)
    with open_store(**small) as store:
        seen = []
        assert recover.rebuild(store, seen.append).frames == 41
        assert seen[-1] == 1.0
        assert rows == {t: [tuple(r) for r in store.rows(f"select * from {t} order by id")] for t in rows}
        same(store, frame, scrubbed, range(40))
        assert check.run(store) == []
        add(store, 41)
        assert check.run(store) == []
        with pytest.raises(Misconfigured):
            recover.rebuild(store)


def test_of_a_damaged_segment_everything_else_is_brought_back(open_store, add, edit, data_dir):
    with open_store() as store:
        for n in range(5):
            add(store, n)
        picture = store.value("select object from frame where id = 'boot-2'")
        edit(store, picture, lambda b: b[:-1] + bytes([b[-1] ^ 1]))
    for name in ("edged.db", "edged.db-wal", "edged.db-shm"):
        (data_dir / name).unlink(missing_ok=True)
    with open_store() as store:
        assert recover.rebuild(store).frames == 5
        assert store.value("select count(*) from frame where object is null") == 1
        assert store.value("select count(*) from sample where object is null") == 0
        assert check.run(store) == []


def test_a_rebuild_takes_no_frame_whose_record_was_torn_at_the_end(open_store, add, edit, data_dir):
    """Its flush never came: nobody was told that it is here, and its camera will send it again."""
    with open_store() as store:
        for n in range(3):
            add(store, n)
        edit(store, store.value("select object from frame where id = 'boot-2'"), lambda b: bytes(len(b)))
    for name in ("edged.db", "edged.db-wal", "edged.db-shm"):
        (data_dir / name).unlink(missing_ok=True)
    with open_store() as store:
        assert recover.rebuild(store).frames == 2
        assert frames.find_receipt(store, "gate", "boot-2") is None
        add(store, 2)
        assert frames.last_picture(store, "gate")
        assert check.run(store) == []


def test_labels_outlive_a_cut_that_takes_the_rows_before_them(open_store, add):
    """A durable row carries all rows before it to the disk."""
    with open_store() as store:
        add(store, 1)
        labels.add(store, "gate:boot-1:0", "car", "human", "ann")
    with open_store() as store:
        recover.run(store)
        assert [label.class_ for label in labels.of(store, "gate:boot-1:0")] == ["car"]


def test_what_was_found_is_written_and_flushed_again_before_it_is_trusted(open_store, cut, add, monkeypatch):
    """After a failed flush the cache may hold what the disk does not."""
    with open_store() as store:
        add(store, 0)
    with cut() as store:
        add(store, 1)
    calls = []
    monkeypatch.setattr(os, "pwritev", lambda *a, real=os.pwritev: (calls.append("write"), real(*a))[1])
    monkeypatch.setattr(os, "fdatasync", lambda *a, real=os.fdatasync: (calls.append("flush"), real(*a))[1])
    with open_store() as store:
        real = store._run
        store._run = lambda sql, params=(): (calls.append(sql) if sql == "commit" else None, real(sql, params))[1]
        recover.run(store)
    assert calls[:3] == ["write", "flush", "commit"]
