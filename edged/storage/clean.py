"""Room in segments: what lives in the emptiest ones is moved together, and they are free to be written again.

    run     1. full segments without a living object are free at once
            2. while fewer than `spare` are free or could be made: the emptiest full one; its living bodies are appended to a
               segment of class 'kept' (they outlived their neighbours and will outlive more), then it is free

    reseal  the same for chosen objects, encrypted anew under a fresh data key: the old key can then be destroyed

Guarantees: a body is durable at its new place before its row says so, and its segment is free, durably, before it is
written on; a crash at any moment leaves each object with one place that holds it. At most `most` bytes are copied in one run.
Does not guarantee that a run makes room: only what retention let go can be freed.

After: M. Rosenblum, J. Ousterhout, 1992 (cleaning by emptiest first, old and new apart).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import msgspec

from edged.clock import day
from edged.errors import Corrupt
from edged.storage import frames, journal, limit, seal, segment, segments
from edged.storage.segment import Body, Entry, Found, Record
from edged.storage.store import Store

SPARE = 2
MOST = 64 * 2**20
BATCH = 4 * 2**20  # one flush for so many bytes
WORTH = 0.9  # a fuller segment is not worth its copying

Progress = Callable[[float], None]  # share done, 0..1


@dataclass(frozen=True)
class Cleaned:
    """Segments freed; bytes copied for it."""

    freed: int
    copied: int


@dataclass(frozen=True)
class Room:
    """Segments of the store. `more`: how many could still be made (limit.py)."""

    free: int
    used: int
    more: int
    segment_bytes: int


def room(store: Store) -> Room:
    free = int(store.value("select count(*) from segment where state = 'free'"))
    n = int(store.value("select count(*) from segment"))
    return Room(free, n - free, limit.of(store).more, store.segment_bytes)


def run(store: Store, *, spare: int = SPARE, most: int = MOST) -> Cleaned:
    """Free segments until `spare` are to be had. Raises Unavailable, as every append."""
    freed = free_empty(store)
    copied = 0
    victims = store.rows(
        "select s.number, coalesce(sum(o.size), 0) as living from segment s left join object o on o.segment = s.number"
        " where s.state = 'full' group by s.number order by living, s.number limit ?",
        (8 * spare,),  # one that is damaged cannot be emptied
    )
    for victim in victims:
        now = room(store)
        if now.free + now.more >= spare or copied >= most:
            break
        if victim["living"] > WORTH * _length(store, victim["number"]):
            continue
        copied += _empty(store, victim["number"])
        freed += free_empty(store)
    return Cleaned(freed, copied)


def free_empty(store: Store) -> int:
    """Mark full segments in which nothing lives; returns how many."""
    with store.transaction():
        return store.execute(
            "update segment set state = 'free', recorded = 0 where state = 'full'"
            " and not exists (select 1 from object o where o.segment = segment.number)"
        )


def reseal(store: Store, object_ids: Collection[str], progress: Progress = lambda _: None) -> int:
    """Move objects, encrypted under a fresh data key of their camera and day; returns bytes copied."""
    wanted = set(object_ids)
    numbers = [
        r[0]
        for r in store.rows(
            "select distinct segment from object where id in (select value from json_each(?)) order by segment",
            (msgspec.json.encode(sorted(wanted)).decode(),),
        )
    ]
    fresh: dict[tuple[str, str], seal.DataKey] = {}
    copied = 0
    for i, number in enumerate(numbers):
        drafts: list[journal.Draft] = []
        with _opened(store, number) as fd:
            for found, living in _records(store, fd, number):
                if mine := tuple(e for e in living if e.id in wanted):
                    drafts.append(_moved(store, found, _anew(store, fd, found, mine, fresh), number, "kept"))
                if sum(d.record.size for d in drafts) >= BATCH:
                    copied += sum(store.journal.append_all(drafts))
                    drafts.clear()
        copied += sum(store.journal.append_all(drafts))
        free_empty(store)  # a full store has no other room for the next
        progress((i + 1) / len(numbers))
    return copied


def _length(store: Store, number: int) -> int:
    """Bytes that a segment holds when it is written again."""
    path = segments.path_of(store, number)
    return max(store.segment_bytes, path.stat().st_size if path.exists() else 0)


def _empty(store: Store, number: int) -> int:
    """Move what lives in a segment; returns bytes copied."""
    copied: int = 0
    drafts: list[journal.Draft] = []
    with _opened(store, number) as fd:
        for found, living in _records(store, fd, number):
            bodies = segment.bodies(fd, living)
            if bodies is not None:  # else damaged: it stays where it is, and `check` names it
                drafts.append(
                    _moved(store, found, Record(found.id, found.key_id, found.document, bodies), number, "kept")
                )
            if sum(d.record.size for d in drafts) >= BATCH:
                copied += sum(store.journal.append_all(drafts))
                drafts.clear()
    copied += sum(store.journal.append_all(drafts))
    return copied


def _moved(store: Store, found: Found, record: Record, number: int, of: segments.Class) -> journal.Draft:
    before = {e.id: e.place for e in found.entries}

    def rows(place: journal.Place) -> int:
        if record.key_id != found.key_id:  # else what was erased meanwhile has no row, and nothing is changed
            store.seal.require_live(store, record.key_id)
        # Only what still lies where it was read, under the key that it had: another may have moved it meanwhile, even
        # into the same segment, written anew.
        store.execute_many(
            "update object set key_id = ?, size = ?, sha256 = ?, segment = ?, place = ?"
            " where id = ? and segment = ? and place = ? and key_id = ?",
            [
                (record.key_id, e.size, e.sha256, place.segment, e.place, e.id, number, before[e.id], found.key_id)
                for e in place.entries
            ],
        )
        return record.size

    return journal.Draft(("moved", found.id, number, found.offset), record, lambda: None, rows, of)


def _records(store: Store, fd: int, number: int) -> Iterator[tuple[Found, tuple[Entry, ...]]]:
    """Records of a segment with the bodies that live there."""
    places = {
        r["id"]: r["place"]
        for r in store.rows("select id, place from object where segment = ? order by place", (number,))
    }
    for found in segment.salvage(fd, number):
        if living := tuple(e for e in found.entries if places.get(e.id) == e.place):
            yield found, living


def _anew(
    store: Store, fd: int, found: Found, living: tuple[Entry, ...],
    fresh: dict[tuple[str, str], seal.DataKey],
) -> Record:  # fmt: skip
    """The record with those bodies under a fresh key."""
    old = store.seal.key_of(store, found.key_id)
    camera = str(store.value("select camera from object where id = ?", (living[0].id,)))
    answer = frames.opened(found.document, old, found.id, camera)
    which = (camera, day(answer.received))
    key = fresh.get(which) or store.seal.fresh(store, *which)
    fresh[which] = key
    bodies = segment.bodies(fd, living)
    if bodies is None:
        raise Corrupt(f"record {found.id} is damaged", code="damaged")
    return frames.record_of(
        answer, key,
        tuple(
            Body.of(b.id, b.kind, seal.seal(
                key, seal.unseal(old, b.sealed, id=b.id, camera=camera, kind=b.kind), id=b.id, camera=camera, kind=b.kind
            ))
            for b in bodies
        ),
    )  # fmt: skip


@contextmanager
def _opened(store: Store, number: int) -> Iterator[int]:
    fd = os.open(segments.path_of(store, number), os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)
