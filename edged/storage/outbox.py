"""The outbox: what may leave, one row per object, written before anything is sent; so a kill forgets nothing."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import Literal

from edged.storage.store import Store

Kind = Literal["metrics", "labels", "scrubbed_crops", "models"]


@dataclass(frozen=True)
class Parcel:
    """One row. `source`: "inline" (then `body`), "object:<id>" or "model:<sha256>"; `size` bytes of plain content."""

    id: int
    kind: Kind
    key: str
    source: str
    body: bytes | None
    size: int
    state: str
    tries: int
    created: float
    sent: float | None
    etag: str
    detail: str


def add(store: Store, kind: Kind, key: str, source: str, size: int, body: bytes | None = None) -> int | None:
    """Queue one object; returns its id, or None when one of that key is there already, sent or not."""
    with store.transaction():
        if store.row("select 1 from outbox where key = ?", (key,)) is not None:
            return None
        return store.insert(
            "insert into outbox (kind, key, source, body, size, state, created) values (?, ?, ?, ?, ?, 'queued', ?)",
            (kind, key, source, body, size, store.clock.now()),
        )


def due(store: Store, limit: int = 100) -> list[Parcel]:
    """What is to be sent, fewest tries first, then oldest."""
    return [_of(r) for r in store.rows(f"{_SELECT} where state = 'queued' order by tries, id limit ?", (limit,))]


def mark(
    store: Store, parcel_id: int, state: Literal["queued", "sent", "refused"], *, etag: str = "", detail: str = ""
) -> None:
    """Note the outcome of one try; "queued" = it failed, try again later. A sent parcel drops its body."""
    store.execute(
        "update outbox set state = ?1, tries = tries + 1, etag = ?2, detail = ?3,"
        " sent = case when ?1 = 'sent' then ?4 else sent end, body = case when ?1 = 'sent' then null else body end"
        " where id = ?5",
        (state, etag, detail, store.clock.now(), parcel_id),
    )


def all(store: Store, limit: int = 1000) -> list[Parcel]:
    """Newest first."""
    return [_of(r) for r in store.rows(f"{_SELECT} order by id desc limit ?", (limit,))]


_SELECT = "select id, kind, key, source, body, size, state, tries, created, sent, etag, detail from outbox"


def _of(r: sqlite3.Row) -> Parcel:
    return Parcel(*r)
