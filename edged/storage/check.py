"""The fsck of exactly the invariants in docs/storage.md. It changes nothing.

Guarantees: an empty list means that every numbered invariant held while it looked. Run on a store that is being written
it may report what is just arriving. `fast` reads and hashes everything and decrypts nothing.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from sqlite3 import Row

from edged.errors import Corrupt, EdgedError, Refused
from edged.storage import (
    audit,
    copies,
    frames,
    journal,
    keeping,
    masks,
    models,
    objects,
    seal,
    segment,
    segments,
    snapshots,
)
from edged.storage.store import Store

Progress = Callable[[float], None]  # share done, 0..1

OWED_S = 3.0  # rows follow their records within so long (journal.py, `linger_s`)


@dataclass(frozen=True)
class Finding:
    """One broken invariant: its short code, what it is about, a sentence."""

    code: str
    subject: str
    message: str

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


def run(
    store: Store, published: audit.Head | None = None, *, fast: bool = False, progress: Progress = lambda _: None
) -> list[Finding]:
    """Walk the whole store; opens every object when the store has the site key, unless `fast`. `published`: an audit head
    seen outside.
    """
    found: list[Finding] = []
    for look in (
        _database, lambda s: _segments(s, fast or not s.has_key, progress), _objects, _samples, _insights, _keys, _snapshots,
        _models, _masks, _totals, _copies,
    ):  # fmt: skip
        try:
            found += list(look(store))
        except Corrupt as e:  # a damaged page ends this look; the others may still read theirs
            found.append(Finding(e.code, "edged.db", str(e)))
    try:
        audit.verify(store, published)
    except Corrupt as e:
        found.append(Finding(e.code, "audit", str(e)))
    progress(1.0)
    return found


def _database(store: Store) -> Iterator[Finding]:
    for row in store.rows("pragma integrity_check"):
        if row[0] != "ok":
            yield Finding("database", "edged.db", str(row[0]))
    for row in store.rows("pragma foreign_key_check"):
        yield Finding("dangling", str(row[0]), f"a row of {row[0]} points to a row of {row[2]} that is not there")


@dataclass
class _Walk:
    """What a segment says of itself up to `recorded`."""

    named: dict[tuple[str, int], tuple[segment.Entry, segment.Found]] = field(default_factory=dict)
    holes: list[tuple[int, int]] = field(default_factory=list)

    def in_hole(self, place: int) -> bool:
        return any(first <= place < last for first, last in self.holes)


def _segments(store: Store, sealed: bool, progress: Progress) -> Iterator[Finding]:
    """Each segment once, from its first byte to its last."""
    paths = segments.files(store)
    rows = {
        r["number"]: r for r in store.rows("select number, generation, state, recorded from segment order by number")
    }
    bad_keys: set[str] = set()
    total, done = sum(r["recorded"] for r in rows.values()) or 1, 0
    for number, row in rows.items():
        if number not in paths:
            if row["recorded"] or row["state"] != "free":
                yield Finding("segment_lost", str(number), f"segment {number} is not there")
            continue
        fd = os.open(paths[number], os.O_RDONLY | os.O_CLOEXEC)
        try:
            yield from _segment(store, fd, number, row, sealed, bad_keys)
        except OSError as e:
            yield Finding("unreadable", str(number), f"segment {number} cannot be read: {e.strerror}")
        finally:
            os.close(fd)
        done += row["recorded"]
        progress(done / total * 0.95)
    for number in paths.keys() - rows.keys():
        fd = os.open(paths[number], os.O_RDONLY | os.O_CLOEXEC)
        try:
            if next(segment.scan(fd, number), None) is not None and _stays(store, number, ()):
                yield Finding(
                    "unrecorded", str(number), f"segment {number} has records and no row: a restart reads them"
                )
        finally:
            os.close(fd)


def _stays(store: Store, number: int, row: tuple[object, ...]) -> bool:
    """Whether a segment's row is still that, also after a daemon that runs had the time to write rows that it owed."""
    if tuple(_row_of(store, number) or ()) == row and journal.written_now(store):
        store.clock.sleep(OWED_S)
    return tuple(_row_of(store, number) or ()) == row


def _segment(store: Store, fd: int, number: int, row: Row, sealed: bool, bad_keys: set[str]) -> Iterator[Finding]:
    living = store.rows(
        "select id, kind, camera, key_id, size, sha256, place from object where segment = ? order by place", (number,)
    )
    row = _row_of(store, number) or row  # after them: beside a daemon it must cover all that they name
    generation, recorded = row["generation"], row["recorded"]
    if row["state"] == "free":
        for o in living:
            if store.value("select 1 from object where id = ? and segment = ?", (o["id"], number)):
                yield Finding("free_object", o["id"], f"object {o['id']} lies in segment {number}, which is free")
    if os.fstat(fd).st_size < recorded:
        yield Finding("segment_short", str(number), f"segment {number} is shorter than its rows say")
    walk = walked(fd, number, generation, recorded)
    for first, last in walk.holes:
        yield Finding(
            "segment_damaged",
            str(number),
            f"segment {number}: no whole record in bytes {first} to {last}: a rebuild lacks them",
        )
    # Whole ones: a group that a power cut tore stays there until it is written over.
    of = None if row["state"] == "free" else generation
    behind = next(segment.scan(fd, number, recorded, generation=of), None)
    newer = behind is not None and (of is not None or behind.generation > generation)
    if newer and _stays(store, number, (generation, row["state"], recorded)):
        yield Finding(
            "unrecorded", str(number), f"segment {number} has records behind {recorded}: a restart reads them"
        )
    end, opened = 0, set[str]()
    for o in living:
        broken = list(_object(store, fd, o, walk, sealed, bad_keys, opened))
        if o["place"] < end:
            broken.append(Finding("overlap", o["id"], f"object {o['id']} lies on the bytes of another"))
        end = max(end, o["place"] + o["size"])
        # Taken, or moved elsewhere, while we were looking?
        if broken and store.value("select 1 from object where id = ? and segment = ?", (o["id"], number)):
            yield from broken


def _object(
    store: Store, fd: int, o: Row, walk: _Walk, sealed: bool, bad_keys: set[str], opened: set[str]
) -> Iterator[Finding]:
    object_id = o["id"]
    raw = os.pread(fd, o["size"], o["place"])
    if len(raw) != o["size"]:
        yield Finding("lost_object", object_id, f"object {object_id} is cut off")
        return
    whole = hashlib.sha256(raw).hexdigest() == o["sha256"]
    if not whole:
        yield Finding("damaged", object_id, f"object {object_id} is not what was written")
    entry, record = walk.named.get((object_id, o["place"]), (None, None))
    if entry is None or record is None:
        if not walk.in_hole(o["place"]):
            yield Finding("unnamed", object_id, f"no record of this generation names object {object_id} there")
    elif (entry.kind, entry.size, entry.sha256, record.key_id) != (o["kind"], o["size"], o["sha256"], o["key_id"]):
        yield Finding("unnamed", object_id, f"the record of object {object_id} says otherwise than its row")
    if sealed or not whole or o["key_id"] in bad_keys:
        return
    try:
        key = store.seal.key_of(store, o["key_id"])
    except EdgedError as e:
        bad_keys.add(o["key_id"])
        yield Finding(e.code, o["key_id"], f"{e}: its objects cannot be opened")
        return
    try:
        seal.unseal(key, raw, id=object_id, camera=o["camera"], kind=o["kind"])
        if record is not None and record.id not in opened:
            opened.add(record.id)
            frames.opened(record.document, key, record.id, o["camera"])
    except (Corrupt, ValueError) as e:
        yield Finding(e.code if isinstance(e, Corrupt) else "bad_seal", object_id, str(e))


def walked(fd: int, number: int, generation: int, recorded: int) -> _Walk:
    walk = _Walk()
    offset, hole = 0, -1
    while offset < recorded:
        found = segment.read(fd, number, offset, generation=generation)
        page = segment.pages(offset)
        if offset != page and (found is None or _superseded(fd, number, found, page, generation)):
            offset = page  # the end of a group
            continue
        if found is None:
            hole = offset if hole < 0 else hole
            offset = segment.pages(offset + 1)
            continue
        if hole >= 0:
            walk.holes.append((hole, offset))
            hole = -1
        for e in found.entries:
            walk.named[(e.id, e.place)] = (e, found)
        offset = found.end
    if hole >= 0:
        walk.holes.append((hole, recorded))
    return walk


def _superseded(fd: int, number: int, found: segment.Found, page: int, generation: int) -> bool:
    """What is left of a torn group: another one begins where this one's pictures should lie."""
    behind = segment.read(fd, number, page, generation=generation)
    return behind is not None and segment.bodies(fd, found.entries) is None


def _row_of(store: Store, number: int) -> Row | None:
    return store.row("select generation, state, recorded from segment where number = ?", (number,))


def _objects(store: Store) -> Iterator[Finding]:
    """Plain files of version 3, and rows that belong to nothing."""
    for row in store.rows("select id, kind, camera, key_id, size, sha256 from object where segment is null"):
        object_id = row["id"]
        try:
            raw = objects.raw_bytes(store, object_id, None, None, row["size"])
            if hashlib.sha256(raw).hexdigest() != row["sha256"]:
                yield Finding("damaged", object_id, f"object {object_id} is not what was written")
            elif store.has_key:
                key = store.seal.key_of(store, row["key_id"])
                seal.unseal(key, raw, id=object_id, camera=row["camera"], kind=row["kind"])
        except EdgedError as e:
            yield Finding(e.code, object_id, str(e))
    for row in store.rows(
        "select id from object o where not exists (select 1 from frame f where f.object = o.id)"
        " and not exists (select 1 from sample s where s.object = o.id)"
    ):
        yield Finding("unused_object", row["id"], f"object {row['id']} belongs to no frame and no sample")


def _samples(store: Store) -> Iterator[Finding]:
    for row in store.rows(
        "select s.id from sample s where not exists (select 1 from frame f where f.camera = s.camera and f.id = s.frame"
        " and f.status = 'stored')"
    ):
        yield Finding("lost_frame", row["id"], f"sample {row['id']} is of a frame that was not stored")
    for row in store.rows("select camera, id from frame where status <> 'stored' and object is not null"):
        yield Finding("kept_frame", row["id"], f"frame {row['id']} of {row['camera']} was not stored but has a picture")


def _insights(store: Store) -> Iterator[Finding]:
    for row in store.rows(
        "select i.sample from insight i left join sample s on s.id = i.sample where s.object is null"
    ):
        yield Finding("stray_insight", row[0], f"something is known of the picture of {row[0]}, which is gone")


def _keys(store: Store) -> Iterator[Finding]:
    if store.has_key:
        for trouble in store.seal.trouble(store):
            yield Finding(trouble.code, "keyring", trouble.text)
        for key_id in store.seal.half_destroyed(store):
            yield Finding("half_destroyed", key_id, f"data key {key_id} is half destroyed")
    for row in store.rows(
        "select distinct key_id from object where key_id in (select id from data_key where destroyed is not null)"
    ):
        yield Finding("key_destroyed", row[0], f"objects are sealed by data key {row[0]}, which was destroyed")


def _snapshots(store: Store) -> Iterator[Finding]:
    for row in store.rows("select id from snapshot"):
        try:
            body = snapshots.get(store, row["id"])
        except Corrupt as e:
            yield Finding(e.code, row["id"], str(e))
            continue
        ids = [{s for s, _ in part} for part in (body["train"], body["tune"], body["holdout"])]
        if ids[0] & ids[1] or ids[0] & ids[2] or ids[1] & ids[2]:
            yield Finding("leak", row["id"], f"snapshot {row['id']} has a sample in two parts")


def _models(store: Store) -> Iterator[Finding]:
    needed = keeping.needed(store)  # the file of a candidate of long ago may be gone (`edged model prune`)
    for row in store.rows(
        "select sha256, '.onnx' from candidate union select sha256, '.onnx' from release"
        " union select sha256, '.onnx' from brought"
        " union select weights, '.safetensors' from brought where weights <> ''"
    ):
        try:
            models.read_model(store, row[0], row[1])
        except (Corrupt, Refused) as e:
            if isinstance(e, Refused) and row[0] not in needed:
                continue
            yield Finding("model_" + ("changed" if isinstance(e, Corrupt) else "lost"), row[0], str(e))


def _masks(store: Store) -> Iterator[Finding]:
    masks.holding(store)  # raises Corrupt for the first that does not read back
    yield from ()


def _totals(store: Store) -> Iterator[Finding]:
    # One statement, so that it sees one moment.
    for row in store.rows(
        "select camera, sum(n) as n, sum(size) as size from (select camera, objects as n, bytes as size from holding"
        " union all select camera, -count(*), -sum(size) from object group by camera) group by camera"
        " having sum(n) <> 0 or sum(size) <> 0"
    ):
        yield Finding(
            "total_wrong", row["camera"],
            f"the total of {row['camera']} is wrong by {row['n']} pictures and {row['size']} bytes",
        )  # fmt: skip


def _copies(store: Store) -> Iterator[Finding]:
    for path in copies.all(store.data_dir)[:1]:
        if not copies.sound(path):
            yield Finding(
                "copy_damaged", path.name, f"{path}, from which a damaged catalogue is repaired, is damaged itself"
            )
