"""A store of version 3 kept each picture in a plain file: the first start moves them into segments.

Guarantees: a file is removed only after its picture is durable in a segment and its row says so; a start that dies goes on
the next time. A file that does not open stays, and `check` names it.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import suppress

import msgspec

from edged.errors import Corrupt
from edged.storage import frames, journal, objects, seal
from edged.storage.segment import Body
from edged.storage.store import Store
from edged.wire.messages import Region

BATCH = 100  # frames, for one flush of their rows

Progress = Callable[[float], None]  # share done, 0..1

log = logging.getLogger(__name__)


def run(store: Store, progress: Progress = lambda _: None) -> int:
    """Move every plain file; returns how many objects were moved."""
    if not store.objects_dir.is_dir():
        return 0
    chosen = store.rows(
        "select f.* from frame f where exists (select 1 from object o where o.segment is null and (o.id = f.object or o.id"
        " in (select s.object from sample s where s.camera = f.camera and s.frame = f.id)))"
    )
    moved = 0
    for start in range(0, len(chosen), BATCH):
        done = [i for frame in chosen[start : start + BATCH] for i in _move(store, frame)]
        store.rows("pragma wal_checkpoint(full)")  # flushes the rows, before the files go
        for object_id in done:
            with suppress(FileNotFoundError):
                objects.plain_path(store, object_id).unlink()
        moved += len(done)
        progress(min(1.0, (start + BATCH) / len(chosen)))
    if not store.value("select 1 from object where segment is null"):
        _remove_folder(store)
    return moved


def _move(store: Store, frame: sqlite3.Row) -> list[str]:
    samples = store.rows("select * from sample where camera = ? and frame = ?", (frame["camera"], frame["id"]))
    samples.sort(key=lambda s: int(s["id"].rpartition(":")[2]))
    ids = list(dict.fromkeys(i for i in (frame["object"], *(s["object"] for s in samples)) if i))
    bodies = tuple(_bodies(store, frame["camera"], ids))
    if not bodies:
        return []
    key = store.seal.key_of(store, store.value("select key_id from object where id = ?", (bodies[0].id,)))
    answer = frames.Answer(
        camera=frame["camera"], id=frame["id"], kind=frame["kind"], sha256=frame["sha256"], seq=frame["seq"],
        boot=frame["boot"], ts=frame["ts"], received=frame["received"], width=frame["width"], height=frame["height"],
        status=frame["status"], model=frame["model"], detail=frame["detail"], scrub=msgspec.json.decode(frame["scrub"]),
        regions=tuple(
            Region(s["x"], s["y"], s["w"], s["h"], label=s["predicted"], score=s["score"], margin=s["margin"])
            for s in samples
        ),
        picture=frame["object"], crops=tuple(s["object"] for s in samples),
    )  # fmt: skip

    def rows(place: journal.Place) -> int:
        store.execute_many(
            "update object set size = ?, sha256 = ?, segment = ?, place = ? where id = ?",
            [(e.size, e.sha256, place.segment, e.place, e.id) for e in place.entries],
        )
        return len(place.entries)

    name = ("adopted", answer.camera, answer.id)
    store.journal.append(journal.Draft(name, frames.record_of(answer, key, bodies), lambda: None, rows))
    return [body.id for body in bodies]


def _bodies(store: Store, camera: str, ids: list[str]) -> Iterator[Body]:
    for object_id in ids:
        row = store.row("select kind, key_id, size, segment from object where id = ?", (object_id,))
        if row is None or row["segment"] is not None:
            continue
        try:
            key = store.seal.key_of(store, row["key_id"])
            raw = objects.raw_bytes(store, object_id, None, None, row["size"])
            content = seal.unseal(key, raw, id=object_id, camera=camera, kind=row["kind"])
        except Corrupt as e:
            log.warning("left as it is: %s", e)
            continue
        sealed = seal.seal(key, content, id=object_id, camera=camera, kind=row["kind"])
        yield Body.of(object_id, row["kind"], sealed)


def _remove_folder(store: Store) -> None:
    """What is left are orphans and temporaries of a crash of that version."""
    for folder in store.objects_dir.iterdir():
        if folder.is_dir():
            for file in folder.iterdir():
                file.unlink()
            folder.rmdir()
        elif folder.name == ".lock":
            folder.unlink()
    with suppress(OSError):  # somebody's own file
        store.objects_dir.rmdir()
