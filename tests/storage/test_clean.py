"""Segments are emptied, freed and written again; what lives keeps its bytes."""

from contextlib import suppress

import pytest

from edged.errors import Unavailable
from edged.storage import check, clean, frames, journal, objects, recover, samples, segment, segments
from edged.storage.segment import Record

SMALL = 64 * 1024
LIMIT = 12


@pytest.fixture
def full(open_store, add):
    """A store that takes no more: all of its segments are full but one, for cleaning. It, and how many frames it took."""
    store = open_store(segment_bytes=SMALL, max_bytes=1)
    store.max_bytes = LIMIT * SMALL
    n = 0
    with suppress(Unavailable):
        while True:
            add(store, n)
            n += 1
    return store, n


def drop(store, where, *params):
    with store.transaction():
        objects.forget(store, [r[0] for r in store.rows(f"select id from object where {where}", params)])


def readable(store):
    for (object_id,) in store.rows("select id from object"):
        objects.read(store, object_id)
    return store.value("select count(*) from object")


def test_a_segment_in_which_nothing_lives_is_free_at_once(full):
    store, _ = full
    drop(store, "segment <= 3")
    assert clean.run(store) == clean.Cleaned(freed=3, copied=0)
    assert clean.room(store) == clean.Room(free=3, used=LIMIT - 4, more=1, segment_bytes=SMALL)


def test_what_outlived_its_neighbours_is_moved_together(full, add):
    store, n = full
    drop(store, "kind = 'frame' and segment <= 8")
    before = {r[0]: objects.read(store, r[0]) for r in store.rows("select id from object")}
    cleaned = clean.run(store)
    assert cleaned.freed >= 1
    assert cleaned.copied > 0
    assert {i: objects.read(store, i) for i in before} == before
    assert store.value("select count(*) from segment where class = 'kept'") == 1
    assert check.run(store) == []
    for i in range(n, n + 10):
        add(store, i)
    assert {i: objects.read(store, i) for i in before} == before
    assert check.run(store) == []


def test_a_store_goes_round_for_ever_on_the_same_files(full, add):
    store, n = full
    for i in range(n, 6 * n):
        if i % 8 == 0:
            cut = store.value("select rowid from object order by rowid desc limit 1 offset ?", (3 * n // 2,))
            drop(store, "rowid < ? and kind = 'frame'", cut)
            drop(store, "rowid < ?", cut - 200)
            clean.run(store)
        add(store, i)
    assert len(segments.files(store)) == LIMIT
    assert sum(p.stat().st_size for p in segments.files(store).values()) <= LIMIT * SMALL
    assert readable(store) > n
    assert check.run(store) == []


def test_a_segment_that_holds_damage_is_left_and_the_next_is_emptied(full, edit):
    store, _ = full
    drop(store, "kind = 'frame' and segment <= 4")
    drop(store, "segment = 1 and id not in (select id from object where segment = 1 limit 1)")
    lost = store.value("select id from object where segment = 1")
    edit(store, lost, lambda b: b[:-1] + bytes([b[-1] ^ 1]))
    assert clean.run(store).freed >= 1
    assert store.value("select segment from object where id = ?", (lost,)) == 1
    assert [f.code for f in check.run(store)] == ["damaged"]


def test_moved_objects_are_found_by_a_rebuild(full, data_dir, open_store, add):
    store, n = full
    drop(store, "kind = 'frame' and segment <= 8")
    clean.run(store)
    for i in range(n, n + 5):
        add(store, i)
    expected = {r[0]: objects.read(store, r[0]) for r in store.rows("select id from object")}
    store.close()
    for name in ("edged.db", "edged.db-wal", "edged.db-shm"):
        (data_dir / name).unlink(missing_ok=True)
    with open_store(segment_bytes=SMALL) as again:
        recover.rebuild(again)
        assert {i: objects.read(again, i) for i in expected} == expected
        assert check.run(again) == []


def test_a_chosen_object_is_under_another_key_and_the_others_are_not(full, data_dir):
    store, _ = full
    chosen = [r[0] for r in store.rows("select object from sample limit 5")]
    before = {r["id"]: (r["key_id"], objects.read(store, r["id"])) for r in store.rows("select id, key_id from object")}
    assert clean.reseal(store, chosen) > 0
    for r in store.rows("select id, key_id from object"):
        key, content = before[r["id"]]
        assert (r["key_id"] != key) == (r["id"] in chosen)
        assert objects.read(store, r["id"]) == content
    assert check.run(store) == []
    assert samples.crop(store, "gate:boot-0:0")
    assert frames.count(store)


def test_a_move_that_comes_late_does_not_bring_an_erased_key_back(full):
    """What it would move was sealed anew meanwhile, and lies in the same segment, written anew."""
    store, _ = full
    number = store.value("select segment from object order by rowid limit 1")
    with clean._opened(store, number) as fd:
        found, living = next(iter(clean._records(store, fd, number)))
        record = Record(found.id, found.key_id, found.document, segment.bodies(fd, living))
    late = clean._moved(store, found, record, number, "kept")
    drop(store, "segment > 3")
    clean.run(store)
    clean.reseal(store, [e.id for e in living])
    with store.transaction():
        store.execute_many("update object set segment = ? where id = ?", [(number, e.id) for e in living])
    after = [tuple(r) for r in store.rows("select * from object order by id")]
    store.journal.append(late)
    assert [tuple(r) for r in store.rows("select * from object order by id")] == after


def test_no_room_for_new_pictures_does_not_hold_up_what_makes_room(full, frame, scrubbed):
    """Both in one group."""
    store, n = full
    number = store.value("select segment from object order by rowid limit 1")
    with clean._opened(store, number) as fd:
        found, living = next(iter(clean._records(store, fd, number)))
        record = Record(found.id, found.key_id, found.document, segment.bodies(fd, living))
    move = clean._moved(store, found, record, number, "kept")
    f = frame(n + 1)
    key = store.seal.key_for(store, "gate", "2026-11-21")
    refused = journal.Draft(
        "new", frames.record_of(frames._answer(store, f, "withheld", ""), key, ()), lambda: None, dict
    )
    assert store.journal._heads.get("new") is None  # the last one is full, and there is no other
    with pytest.raises(Unavailable, match="full"):
        store.journal.append_all([refused, move])
    assert move.result == record.size
