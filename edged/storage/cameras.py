"""Cameras as they showed themselves: what they said last, and when."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import msgspec

from edged.storage.store import Store
from edged.wire.messages import CameraInfo, CameraStats, Reported

T = TypeVar("T")


@dataclass(frozen=True)
class Camera:
    """One camera; times are seconds since 1970 by the box's clock, None = never said."""

    id: str
    first_seen: float
    last_seen: float
    last_frame: float | None
    online: bool
    info: CameraInfo | None
    stats: CameraStats | None
    reported: Reported | None

    @property
    def model(self) -> str:
        """The sha256 of what it runs, by the newest of its words; "" = it has none."""
        if self.reported is not None and self.reported.sha256:
            return self.reported.sha256
        return self.info.model if self.info else ""


def seen(store: Store, camera: str, now: float | None = None, *, stored: bool = False) -> None:
    """Any message came; `stored`: it was a frame that is now kept. The clock never turns a time back."""
    at = store.clock.now() if now is None else now
    with store.transaction(durable=False):
        store.execute(
            "insert into camera (id, first_seen, last_seen, last_frame) values (?1, ?2, ?2, ?3) on conflict (id) do update"
            " set last_seen = max(last_seen, ?2), last_frame = coalesce(max(last_frame, ?3), ?3, last_frame)",
            (camera, at, at if stored else None),
        )


def set_online(store: Store, camera: str, online: bool, now: float | None = None) -> None:
    """From the retained state or the last will; does not count as hearing from the camera when it is bad news."""
    with store.transaction():
        known = store.row("select 1 from camera where id = ?", (camera,))
        if online or known is None:
            seen(store, camera, now)
        store.execute("update camera set online = ? where id = ?", (int(online), camera))


def set_info(store: Store, camera: str, info: CameraInfo) -> None:
    _set(store, camera, "info", info)


def set_stats(store: Store, camera: str, stats: CameraStats) -> None:
    _set(store, camera, "stats", stats, durable=False)


def set_reported(store: Store, camera: str, reported: Reported) -> None:
    _set(store, camera, "reported", reported)


def get(store: Store, camera: str) -> Camera | None:
    found = [c for c in all(store) if c.id == camera]
    return found[0] if found else None


def all(store: Store) -> list[Camera]:
    """By id."""
    return [
        Camera(
            r["id"], r["first_seen"], r["last_seen"], r["last_frame"], bool(r["online"]),
            _read(r["info"], CameraInfo), _read(r["stats"], CameraStats), _read(r["reported"], Reported),
        )
        for r in store.rows("select * from camera order by id")
    ]  # fmt: skip


def _set(store: Store, camera: str, column: str, message: msgspec.Struct, *, durable: bool = True) -> None:
    with store.transaction(durable=durable):
        seen(store, camera)
        store.execute(f"update camera set {column} = ? where id = ?", (msgspec.json.encode(message).decode(), camera))


def _read(text: str, kind: type[T]) -> T | None:
    return None if text == "{}" else msgspec.json.decode(text, type=kind)
