"""Deliveries: one release on one camera, in the words of AWS IoT Jobs. Decided by publish/rollout.py."""

from __future__ import annotations

from dataclasses import dataclass

from edged.storage.store import Store
from edged.wire.messages import JobStatus


@dataclass(frozen=True)
class DeliveryRow:
    """One row; `progress` 0..1, `offered` when the camera was told, None = not yet."""

    release: int
    camera: str
    status: JobStatus
    progress: float
    detail: str
    offered: float | None
    updated: float


def upsert(
    store: Store,
    release: int,
    camera: str,
    status: JobStatus,
    *,
    progress: float = 0.0,
    detail: str = "",
    offered: float | None = None,
) -> None:
    """Write the delivery as it is now; `offered` None keeps the time that is there. The camera must have been seen."""
    store.execute(
        "insert into delivery (release, camera, status, progress, detail, offered, updated)"
        " values (?1, ?2, ?3, ?4, ?5, ?6, ?7)"
        " on conflict (release, camera) do update set status = ?3, progress = ?4, detail = ?5,"
        " offered = coalesce(?6, offered), updated = ?7",
        (release, camera, status, progress, detail, offered, store.clock.now()),
    )


def of(store: Store, release: int) -> list[DeliveryRow]:
    """By camera."""
    rows = store.rows(f"{_SELECT} where release = ? order by camera", (release,))
    return [DeliveryRow(*r) for r in rows]


def all(store: Store) -> list[DeliveryRow]:
    """By release, then camera."""
    return [DeliveryRow(*r) for r in store.rows(f"{_SELECT} order by release, camera")]


_SELECT = "select release, camera, status, progress, detail, offered, updated from delivery"
