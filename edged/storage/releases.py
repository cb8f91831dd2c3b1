"""Releases: signed artefacts by number. Which state may follow which is publish/rollout.py's business, not the store's.

Guarantee: numbers only grow; one is never given twice.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from edged.errors import Refused
from edged.storage.store import Store

State = Literal["rolling", "complete", "halted", "superseded"]


@dataclass(frozen=True)
class ReleaseRow:
    """One row; `candidate` None = brought from outside, `target` the TUF target path."""

    number: int
    name: str
    candidate: int | None
    sha256: str
    size: int
    target: str
    classes: tuple[str, ...]
    state: str
    created: float
    ended: float | None
    detail: str


def next_number(store: Store) -> int:
    """The number the next release gets; take it and `add` inside one transaction, or be ready for Refused."""
    return int(store.value("select coalesce(max(number), 0) + 1 from release"))


def add(
    store: Store,
    *,
    number: int,
    name: str,
    candidate: int | None,
    sha256: str,
    size: int,
    target: str,
    classes: Sequence[str],
    detail: str = "",
) -> int:
    """Record a signed release as rolling; returns its number. Raises Refused("old_number") unless it is the largest so
    far.
    """
    with store.transaction():
        if number < next_number(store):
            raise Refused(f"release number {number} is not larger than the last", code="old_number")
        store.execute(
            "insert into release (number, name, candidate, sha256, size, target, classes, state, created, detail)"
            " values (?, ?, ?, ?, ?, ?, ?, 'rolling', ?, ?)",
            (number, name, candidate, sha256, size, target, json.dumps(list(classes)), store.clock.now(), detail),
        )
    return number


def set_state(store: Store, number: int, state: State, detail: str | None = None) -> None:
    """`ended` is set by every state but rolling; `detail` None keeps the present one."""
    ended = None if state == "rolling" else store.clock.now()
    store.execute(
        "update release set state = ?, ended = ?, detail = coalesce(?, detail) where number = ?",
        (state, ended, detail, number),
    )


def get(store: Store, number: int) -> ReleaseRow | None:
    return _one(store.row(f"{_SELECT} where number = ?", (number,)))


def latest(store: Store) -> ReleaseRow | None:
    """The one with the largest number, whatever its state."""
    return _one(store.row(f"{_SELECT} order by number desc limit 1"))


def all(store: Store) -> list[ReleaseRow]:
    """Oldest first."""
    return [_of(r) for r in store.rows(f"{_SELECT} order by number")]


_SELECT = "select number, name, candidate, sha256, size, target, classes, state, created, ended, detail from release"


def _one(row: sqlite3.Row | None) -> ReleaseRow | None:
    return None if row is None else _of(row)


def _of(r: sqlite3.Row) -> ReleaseRow:
    fields = dict(r)
    return ReleaseRow(**(fields | {"classes": tuple(json.loads(fields["classes"]))}))
