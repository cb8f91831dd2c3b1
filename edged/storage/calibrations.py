"""What boards told of their own speed (engine/probe.py): brought as a file by a person, or sent by a camera's agent.

Guarantees: each arrival and retirement is in the audit log in the same transaction; rows never go; a camera adds at most one
an hour and MOST in all. Does not guarantee that a camera tells the truth: what a person brought comes first.
"""

from __future__ import annotations

from dataclasses import dataclass

from edged.errors import EXIT_NOT_FOUND, Refused
from edged.storage import audit
from edged.storage.store import Store

EVERY_S = 3600.0  # between two of one camera
MOST = 200  # of one camera
MOST_BYTES = 64 * 1024
DEVICE_LENGTH = 120


@dataclass(frozen=True)
class Calibrated:
    """One row. `camera` "" = a person brought it, `body` JSON of Probed, `retired` None = it may be used."""

    id: int
    device: str
    camera: str
    author: str
    processor: str
    runtime: str
    created: float
    body: str
    retired: float | None


def add(
    store: Store, device: str, body: str, *, processor: str, runtime: str, author: str, camera: str = ""
) -> Calibrated:  # fmt: skip
    """Keep one. Raises Refused: "bad_name", "too_large", and for a camera "too_often"."""
    if not device or len(device) > DEVICE_LENGTH or not device.isprintable():
        raise Refused(f"a device needs a name of 1 to {DEVICE_LENGTH} printable characters", code="bad_name")
    if len(body.encode()) > MOST_BYTES:
        raise Refused(f"a calibration of {len(body)} bytes is too large ({MOST_BYTES} at most)", code="too_large")
    now = store.clock.now()
    with store.transaction():
        if camera:
            row = store.row("select count(*) as n, max(created) as last from calibration where camera = ?", (camera,))
            n, last = (row["n"], row["last"]) if row is not None else (0, None)
            if last is not None and 0 <= now - last < EVERY_S:
                raise Refused(f"{camera} sent a calibration less than an hour ago", code="too_often")
            if n >= MOST:
                raise Refused(f"{camera} has sent {n} calibrations already", code="too_often")
        store.execute(
            "insert into calibration (device, camera, author, processor, runtime, created, body)"
            " values (?, ?, ?, ?, ?, ?, ?)",
            (device, camera, author, processor, runtime, now, body),
        )
        id = int(store.value("select max(id) from calibration"))
        detail = {"camera": camera, "processor": processor, "runtime": runtime}
        audit.append(store, author, "calibration.add", f"{device} {id}", detail)
    return get(store, id)


def get(store: Store, id: int) -> Calibrated:
    """Raises Refused("not_found")."""
    found = _select(store, "where id = ?", (id,))
    if not found:
        raise Refused(f"there is no calibration {id}", code="not_found", exit_code=EXIT_NOT_FOUND)
    return found[0]


def newest(store: Store, device: str, runtime: str = "") -> Calibrated | None:
    """The one in use for a device: the newest that a person brought, else the newest that a camera sent."""
    found = _select(
        store, "where device = ?1 and retired is null and (?2 = '' or runtime = ?2)"
        " order by camera <> '', created desc, id desc limit 1", (device, runtime),
    )  # fmt: skip
    return found[0] if found else None


def all(store: Store, device: str = "", *, retired: bool = False) -> list[Calibrated]:
    """Newest first; those that were retired only when asked for."""
    return _select(
        store, "where (?1 = '' or device = ?1) and (?2 or retired is null) order by created desc, id desc", (device, retired)
    )  # fmt: skip


def retire(store: Store, id: int, author: str) -> None:
    """It is not used from now on; its row stays. Raises Refused: unknown, or retired before."""
    with store.transaction():
        if get(store, id).retired is not None:
            raise Refused(f"calibration {id} was retired before", code="retired")
        store.execute("update calibration set retired = ? where id = ?", (store.clock.now(), id))
        audit.append(store, author, "calibration.retire", str(id))


def _select(store: Store, tail: str, params: tuple[object, ...]) -> list[Calibrated]:
    rows = store.rows(
        "select id, device, camera, author, processor, runtime, created, body, retired from calibration " + tail, params
    )
    return [Calibrated(**dict(r)) for r in rows]
