"""Requests: what a person or a command asked the daemon to do; it answers in the same row."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edged.storage.store import Store


@dataclass(frozen=True)
class Request:
    """One row; `verb` "cycle", "cancel", "rollback", ...; `done` None = waiting."""

    id: int
    verb: str
    args: dict[str, Any]
    author: str
    created: float
    done: float | None
    result: str


def add(store: Store, verb: str, args: Mapping[str, Any] | None, author: str) -> int:
    return store.insert(
        "insert into request (verb, args, author, created) values (?, ?, ?, ?)",
        (verb, json.dumps(dict(args or {})), author, store.clock.now()),
    )


def pending(store: Store) -> list[Request]:
    """Oldest first."""
    return _select(store, "where done is null order by id")


def done(store: Store, request_id: int, result: str = "") -> None:
    """Answer a request; a second answer is ignored."""
    store.execute(
        "update request set done = ?, result = ? where id = ? and done is null", (store.clock.now(), result, request_id)
    )


def answered(store: Store, result: str) -> list[Request]:
    """Those with exactly this answer, oldest first."""
    return _select(store, "where result = ? and done is not null order by id", (result,))


def get(store: Store, request_id: int) -> Request | None:
    return next(iter(_select(store, "where id = ?", (request_id,))), None)


def latest(store: Store, limit: int = 20) -> list[Request]:
    """Newest first, answered or not."""
    return _select(store, "order by id desc limit ?", (limit,))


def _select(store: Store, tail: str, params: tuple[Any, ...] = ()) -> list[Request]:
    rows = store.rows(f"select id, verb, args, author, created, done, result from request {tail}", params)
    return [Request(**(dict(r) | {"args": json.loads(r["args"])})) for r in rows]
