"""Samples: regions of stored frames, what is labelled, trained and tested on. Written by `frames.add` only."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from edged.errors import EXIT_NOT_FOUND, Refused
from edged.storage import objects
from edged.storage.store import Store


@dataclass(frozen=True)
class Sample:
    """One region. `ts` is the camera's capture time, `received` the box's; seconds since 1970. x, y, w, h in pixels of
    the frame. `predicted` is the camera's class ("" = none), `score` and `margin` 0..1. `object` None: the crop is
    gone.
    """

    id: str
    camera: str
    frame: str
    ts: float
    received: float
    x: int
    y: int
    w: int
    h: int
    model: str
    predicted: str
    score: float
    margin: float
    object: str | None


COLUMNS = (
    "s.id, s.camera, s.frame, s.ts, s.received, s.x, s.y, s.w, s.h, s.model, s.predicted, s.score, s.margin, s.object"
)
WITHOUT_HUMAN = "not exists (select 1 from label l where l.sample = s.id and l.source = 'human' and l.undone is null)"


def of(row: sqlite3.Row) -> Sample:
    """A Sample of the first fourteen columns of a row selected by COLUMNS."""
    return Sample(*tuple(row)[:14])


def get(store: Store, sample_id: str) -> Sample:
    """Raises Refused("not_found")."""
    row = store.row(f"select {COLUMNS} from sample s where s.id = ?", (sample_id,))
    if row is None:
        raise Refused(f"no sample {sample_id[:200]}", code="not_found", exit_code=EXIT_NOT_FOUND)
    return of(row)


def crop(store: Store, sample_id: str) -> bytes:
    """The JPEG (224x224). Raises Refused if there is none or it is gone, Corrupt if damaged."""
    sample = get(store, sample_id)
    if sample.object is None:
        raise Refused(f"the picture of {sample_id} is gone: retention or erasure took it", code="gone")
    return objects.read(store, sample.object)


def unlabelled(store: Store, camera: str | None = None, limit: int = 100) -> list[Sample]:
    """Samples with a picture and without a human label, newest first."""
    rows = store.rows(
        f"select {COLUMNS} from sample s where s.object is not null and (?1 is null or s.camera = ?1)"
        f" and {WITHOUT_HUMAN} order by s.received desc, s.id limit ?2",
        (camera, limit),
    )
    return [of(r) for r in rows]


def recent(store: Store, camera: str | None = None, limit: int = 100) -> list[Sample]:
    """Newest first, labelled or not, with or without picture."""
    rows = store.rows(
        f"select {COLUMNS} from sample s where (?1 is null or s.camera = ?1) order by s.received desc, s.id limit ?2",
        (camera, limit),
    )
    return [of(r) for r in rows]


def since(store: Store, received: float) -> list[Sample]:
    """Everything received at or after that time of the box, oldest first."""
    return [
        of(r)
        for r in store.rows(
            f"select {COLUMNS} from sample s where s.received >= ? order by s.received, s.id", (received,)
        )
    ]


def count(store: Store, camera: str | None = None) -> int:
    return int(store.value("select count(*) from sample where ?1 is null or camera = ?1", (camera,)))
