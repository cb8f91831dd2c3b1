"""Deliveries: one release on one camera, in the words of AWS IoT Jobs. Decided by publish/rollout.py."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

import msgspec

from edged.storage.store import Store
from edged.wire.messages import Health, JobStatus


@dataclass(frozen=True)
class DeliveryRow:
    """One row; `progress` 0..1, `offered` when the camera was told, None = not yet.

    `health` is what the camera said of the new model, None = nothing; `unwell` why the delivery counts as failed although
    the model runs, "" = it does not; `signed` whether the camera signed its last word, None = it has said nothing yet.
    """

    release: int
    camera: str
    status: JobStatus
    progress: float
    detail: str
    offered: float | None
    updated: float
    canary: bool = False
    health: Health | None = None
    unwell: str = ""
    signed: bool | None = None


def upsert(
    store: Store,
    release: int,
    camera: str,
    status: JobStatus,
    *,
    progress: float = 0.0,
    detail: str = "",
    offered: float | None = None,
    canary: bool = False,
    health: Health | None = None,
    unwell: str = "",
    signed: bool | None = None,
) -> None:
    """Write the delivery as it is now; `offered` None keeps the time that is there. The camera must have been seen."""
    text = "{}" if health is None else msgspec.json.encode(health).decode()
    store.execute(
        "insert into delivery (release, camera, status, progress, detail, offered, updated, canary, health, unwell, signed)"
        " values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)"
        " on conflict (release, camera) do update set status = ?3, progress = ?4, detail = ?5,"
        " offered = coalesce(?6, offered), updated = ?7, canary = max(canary, ?8), health = ?9, unwell = ?10,"
        " signed = coalesce(?11, signed)",
        (
            release, camera, status, progress, detail, offered, store.clock.now(), int(canary), text, unwell,
            None if signed is None else int(signed),
        ),
    )  # fmt: skip


def of(store: Store, release: int) -> list[DeliveryRow]:
    """By camera."""
    return [_of(r) for r in store.rows(f"{_SELECT} where release = ? order by camera", (release,))]


def all(store: Store) -> list[DeliveryRow]:
    """By release, then camera."""
    return [_of(r) for r in store.rows(f"{_SELECT} order by release, camera")]


def get(store: Store, release: int, camera: str) -> DeliveryRow | None:
    row = store.row(f"{_SELECT} where release = ? and camera = ?", (release, camera))
    return None if row is None else _of(row)


def open_releases(store: Store) -> set[int]:
    """Numbers of releases with a delivery that has not ended."""
    rows = store.rows("select distinct release from delivery where status in ('QUEUED', 'IN_PROGRESS')")
    return {int(r[0]) for r in rows}


def standing(store: Store, *, halted: bool) -> list[DeliveryRow]:
    """Each camera's newest delivery that is QUEUED, IN_PROGRESS or SUCCEEDED, by camera. `halted` False: of a halted
    release only one that has SUCCEEDED.
    """
    unless = "" if halted else " and (d.status = 'SUCCEEDED' or r.state <> 'halted')"
    newest = (
        "select c.id, (select d.release from delivery d join release r on r.number = d.release where d.camera = c.id"
        f" and d.status in ('QUEUED', 'IN_PROGRESS', 'SUCCEEDED'){unless} order by d.release desc limit 1) from camera c"
    )
    rows = store.rows(f"{_SELECT} where (camera, release) in ({newest}) order by camera")
    return [_of(r) for r in rows]


_SELECT = (
    "select release, camera, status, progress, detail, offered, updated, canary, health, unwell, signed from delivery"
)


def _of(r: sqlite3.Row) -> DeliveryRow:
    fields = dict(r)
    health = None if fields["health"] == "{}" else msgspec.json.decode(fields["health"], type=Health)
    signed = None if fields["signed"] is None else bool(fields["signed"])
    return DeliveryRow(**(fields | {"canary": bool(fields["canary"]), "health": health, "signed": signed}))
