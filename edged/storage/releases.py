"""Releases: signed artefacts by number. Which state may follow which is publish/rollout.py's business, not the store's.

Guarantee: numbers only grow; one is never given twice.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from edged.errors import Refused
from edged.storage.store import Store

State = Literal["waiting", "rolling", "paused", "complete", "halted", "superseded"]
Kind = Literal["student", "teacher"]  # what cameras run; what labels on the box


@dataclass(frozen=True)
class ReleaseRow:
    """One row; `candidate` None = brought from outside, `target` the TUF target path. Times are seconds since 1970.

    `started` is when cameras were first offered it, `rules` what it was judged by from then on ({} = not started);
    `actor` made the last change of `state`, at `changed`; `returns_to`: the release whose bytes it names again; `hardware`
    and `min_agent` as they were signed, () and "" = any; `cameras`: it is for these alone, () = for all but `apart`.
    """

    number: int
    name: str
    candidate: int | None
    sha256: str
    size: int
    target: str
    classes: tuple[str, ...]
    state: State
    created: float
    ended: float | None
    detail: str
    kind: Kind = "student"
    started: float | None = None
    changed: float | None = None
    actor: str = ""
    rules: Mapping[str, Any] | None = None
    returns_to: int | None = None
    hardware: tuple[str, ...] = ()
    min_agent: str = ""
    cameras: tuple[str, ...] = ()
    apart: tuple[str, ...] = ()


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
    kind: Kind = "student",
    state: State = "rolling",
    actor: str = "",
    returns_to: int | None = None,
    hardware: Sequence[str] = (),
    min_agent: str = "",
    cameras: Sequence[str] = (),
    apart: Sequence[str] = (),
) -> int:
    """Record a signed release; returns its number. Raises Refused("old_number") unless it is the largest so far."""
    with store.transaction():
        if number < next_number(store):
            raise Refused(f"release number {number} is not larger than the last", code="old_number")
        now = store.clock.now()
        store.execute(
            "insert into release (number, name, candidate, sha256, size, target, classes, state, created, detail, kind,"
            " changed, actor, returns_to, hardware, min_agent, cameras, apart)"
            " values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                number, name, candidate, sha256, size, target, json.dumps(list(classes)), state, now, detail, kind,
                now, actor, returns_to, json.dumps(list(hardware)), min_agent, json.dumps(list(cameras)),
                json.dumps(list(apart)),
            ),
        )  # fmt: skip
    return number


def set_state(store: Store, number: int, state: State, detail: str | None = None, actor: str = "edged") -> None:
    """`ended` is set by the states that cameras are not brought forward in; `detail` None keeps the present one."""
    now = store.clock.now()
    ended = now if state in ("complete", "halted", "superseded") else None
    store.execute(
        "update release set state = ?, ended = ?, detail = coalesce(?, detail), changed = ?, actor = ? where number = ?",
        (state, ended, detail, now, actor, number),
    )


def set_rules(store: Store, number: int, rules: Mapping[str, Any]) -> None:
    """What the rollout is judged by from now on, and that it started now."""
    store.execute(
        "update release set rules = ?, started = coalesce(started, ?) where number = ?",
        (json.dumps(dict(rules), sort_keys=True), store.clock.now(), number),
    )


def get(store: Store, number: int) -> ReleaseRow | None:
    return _one(store.row(f"{_SELECT} where number = ?", (number,)))


def latest(store: Store, kind: Kind = "student") -> ReleaseRow | None:
    """The one with the largest number that is for all cameras, whatever its state."""
    return _one(store.row(f"{_SELECT} where kind = ? and cameras = '[]' order by number desc limit 1", (kind,)))


def all(store: Store, kind: Kind | None = "student") -> list[ReleaseRow]:
    """Oldest first; `kind` None = of both kinds."""
    return [_of(r) for r in store.rows(f"{_SELECT} where kind = coalesce(?, kind) order by number", (kind,))]


_SELECT = (
    "select number, name, candidate, sha256, size, target, classes, state, created, ended, detail, kind, started, changed,"
    " actor, rules, returns_to, hardware, min_agent, cameras, apart from release"
)


def _one(row: sqlite3.Row | None) -> ReleaseRow | None:
    return None if row is None else _of(row)


def _of(r: sqlite3.Row) -> ReleaseRow:
    fields = dict(r)
    fields |= {name: tuple(json.loads(fields[name])) for name in ("classes", "hardware", "cameras", "apart")}
    fields["rules"] = json.loads(fields["rules"])
    return ReleaseRow(**fields)
