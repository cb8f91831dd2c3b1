"""What a start does before frames come in: records that have no rows get them.

    run       1. this process becomes the writer
              2. in each segment, read on from where its rows end (a segment that was begun anew: from its first byte)
              3. write what was found there once more and flush it: it may be in the page cache alone
              4. one transaction: its rows, and how far the segment is recorded
              5. plain files of an older version are moved into segments

    rebuild   the same for every segment from its first byte, into an empty catalogue

Guarantees: after `run` every record that was flushed before the last crash has its rows, whether or not the catalogue lost
them; nothing that was deleted comes back. `rebuild` brings back what retention had taken and nothing had overwritten yet;
never what was erased: its key is gone. Does not guarantee labels: they live in the catalogue alone.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edged.errors import Corrupt, Misconfigured
from edged.storage import adopt, cameras, disk, frames, segment, segments
from edged.storage.store import Store

log = logging.getLogger(__name__)

Progress = Callable[[float], None]  # share done, 0..1


@dataclass(frozen=True)
class Recovered:
    """`frames` got their rows back, `unreadable` records belong to a destroyed or unknown key, `moved` plain files."""

    frames: int = 0
    unreadable: int = 0
    moved: int = 0

    def __str__(self) -> str:
        return f"{self.frames} frames brought back, {self.unreadable} unreadable, {self.moved} files moved"


def run(store: Store) -> Recovered:
    """Bring the catalogue up to the segments. Raises Unavailable when another process writes."""
    store.journal  # noqa: B018  (becomes the writer)
    if not store.has_key:
        return Recovered()
    brought = unreadable = 0
    for number, path in segments.files(store).items():
        row = store.row("select generation, state, recorded from segment where number = ?", (number,))
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            found = _behind(fd, number, row)
            if not found:
                continue
            _flush_again(fd, found)
        except OSError as e:
            raise disk.renamed(e, path) from e
        finally:
            os.close(fd)
        with store.transaction():
            _record(store, number, found)
            done = [_restore(store, f) for f in found]
        brought += done.count(True)
        unreadable += done.count(None)
    return Recovered(brought, unreadable, adopt.run(store))


def rebuild(store: Store, progress: Progress = lambda _: None) -> Recovered:
    """Fill a catalogue that has no rows of frames, objects and segments from all records. Damaged bodies are left out."""
    if store.value("select exists (select 1 from segment) or exists (select 1 from object)"):
        raise Misconfigured("the catalogue is not empty", code="not_empty")
    store.journal  # noqa: B018
    store.seal.accept_catalogue(store)
    brought = unreadable = 0
    paths = segments.files(store)
    for i, (number, path) in enumerate(paths.items()):
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            found = segment.salvage(fd, number)
            whole = [_whole(fd, f) for f in found]
            # Torn at the end: a cut came before its flush, so nobody was told that the frame is here.
            while whole and len(whole[-1].entries) < len(found[-1].entries):
                whole.pop()
                found.pop()
            if found:
                _flush_again(fd, found[-1:])
        finally:
            os.close(fd)
        with store.transaction():
            if found:
                _record(store, number, found, state="full")
            else:
                store.execute(
                    "insert into segment (number, generation, state, recorded) values (?, 0, 'free', 0)", (number,)
                )
            done = [_restore(store, f, anew=True) for f in whole]
        brought += done.count(True)
        unreadable += done.count(None)
        progress((i + 1) / len(paths))
    return Recovered(brought, unreadable)


def _behind(fd: int, number: int, row) -> list[segment.Found]:  # type: ignore[no-untyped-def]
    """Whole records without rows."""
    if row is None:
        return list(segment.scan(fd, number))
    if row["state"] == "free":
        first = segment.read(fd, number, 0)
        if first is None or first.generation <= row["generation"]:
            return []
        return list(segment.scan(fd, number, generation=first.generation))
    return list(segment.scan(fd, number, row["recorded"], generation=row["generation"]))


def _flush_again(fd: int, found: Sequence[segment.Found]) -> None:
    """After a failed flush the cache may hold what the disk does not, and call it clean: writing makes it dirty."""
    for f in found:
        disk.write_at(fd, f.offset, [os.pread(fd, f.length, f.offset)])
    os.fdatasync(fd)


def _record(store: Store, number: int, found: Sequence[segment.Found], *, state: str = "open") -> None:
    """How far the segment goes. It is written on only if nothing else of its class is open."""
    last = found[-1]
    store.execute(
        "insert into segment (number, generation, state, recorded) values (?1, ?2, ?3, ?4)"
        " on conflict (number) do update set generation = ?2, recorded = ?4,"
        " state = case state when 'free' then ?3 else state end",
        (number, last.generation, state, last.end),
    )
    store.execute(
        "update segment set state = 'full' where state = 'open' and class = (select class from segment where number = ?1)"
        " and number <> ?1",
        (number,),
    )


def _restore(store: Store, found: segment.Found, *, anew: bool = False) -> bool | None:
    """Rows of one record: True if the frame had none, None if its document cannot be opened. `anew`: into a catalogue
    that was empty.
    """
    try:
        key = store.seal.key_of(store, found.key_id)
        answer = frames.opened(found.document, key, found.id, store.seal.camera_of(store, found.key_id))
    except Corrupt as e:
        log.debug("record %s: %s", found.id, e)
        return None
    new = store.row("select 1 from frame where camera = ? and id = ?", (answer.camera, answer.id)) is None
    if not new and found.entries and not _is_its(store, answer, anew):
        return False
    store.execute_many(
        "insert into object (id, kind, camera, key_id, size, sha256, created, segment, place)"
        " values (?, ?, ?, ?, ?, ?, ?, ?, ?) on conflict (id) do update set key_id = excluded.key_id,"
        " size = excluded.size, sha256 = excluded.sha256, segment = excluded.segment, place = excluded.place",
        [
            (e.id, e.kind, answer.camera, found.key_id, e.size, e.sha256, answer.received, found.segment, e.place)
            for e in found.entries
        ],
    )
    if new:
        frames.insert(store, answer, {e.id for e in found.entries})
    else:
        _link(store, answer, found)
        cameras.seen(store, answer.camera, answer.received, stored=answer.status == "stored")
    return new


def _is_its(store: Store, answer: frames.Answer, anew: bool) -> bool:
    """Whether a frame's pictures are those of this record. When the rows of a flushed record could not be written, its
    camera was told to send the frame again: then there is a second record, with pictures of its own.
    """
    linked = {
        r[0]
        for r in store.rows(
            "select object from frame where camera = ?1 and id = ?2 and object is not null"
            " union select object from sample where camera = ?1 and frame = ?2 and object is not null",
            (answer.camera, answer.id),
        )
    }
    return bool(linked & {answer.picture, *answer.crops}) or (anew and not linked)


def _link(store: Store, answer: frames.Answer, found: segment.Found) -> None:
    """A frame that has its rows from another copy of its record gets the pictures that only this one holds."""
    there = {e.id for e in found.entries}
    if answer.picture in there:
        store.execute(
            "update frame set object = ? where camera = ? and id = ?", (answer.picture, answer.camera, answer.id)
        )
    store.execute_many(
        "update sample set object = ? where id = ?",
        [(crop, frames.sample_id(answer, i)) for i, crop in enumerate(answer.crops) if crop in there],
    )


def _whole(fd: int, found: segment.Found) -> segment.Found:
    """The record without the bodies that are damaged."""
    entries = tuple(e for e in found.entries if segment.bodies(fd, (e,)) is not None)
    return segment.Found(
        found.id, found.key_id, found.segment, found.generation, found.offset, found.length, found.document, entries
    )
