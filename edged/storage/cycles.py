"""Cycles and their stage ladder. A finished stage keeps its outcome and is never run again: that is how a cycle
resumes.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from edged.errors import Refused
from edged.storage.store import Store

STAGES = ("snapshot", "reuse", "train", "compress", "retest", "gate", "release")  # the ladder, as improve climbs it


@dataclass(frozen=True)
class Cycle:
    """One turn of the loop; `ended` None = running."""

    id: int
    started: float
    ended: float | None
    state: str
    why: str
    detail: str


@dataclass(frozen=True)
class Stage:
    """One rung. `progress` 0..1, `eta_s` seconds; `detail` facts while it runs, the outcome once `ended` is set."""

    cycle: int
    name: str
    started: float
    ended: float | None
    progress: float
    eta_s: float | None
    detail: dict[str, Any]


def start(store: Store, why: str) -> int:
    """Begin a cycle; raises Refused("busy") while another is running."""
    with store.transaction():
        if running(store) is not None:
            raise Refused("a cycle is running already", code="busy")
        return store.insert(
            "insert into cycle (started, state, why) values (?, 'running', ?)", (store.clock.now(), why)
        )


def finish(store: Store, cycle: int, state: Literal["released", "refused", "failed"], detail: str = "") -> None:
    store.execute(
        "update cycle set ended = ?, state = ?, detail = ? where id = ? and state = 'running'",
        (store.clock.now(), state, detail, cycle),
    )


def stage_start(store: Store, cycle: int, name: str) -> int:
    """Begin a stage, or begin it again after a crash; returns how often it was begun by now. Raises Refused("finished")
    if it has an outcome.
    """
    with store.transaction():
        if outcome(store, cycle, name) is not None:
            raise Refused(f"stage {name} of cycle {cycle} is finished", code="finished")
        store.execute(
            "insert into stage (cycle, name, started, detail) values (?1, ?2, ?3, '{\"starts\": 1}')"
            " on conflict (cycle, name) do update set started = ?3, progress = 0, eta_s = null,"
            " detail = json_object('starts', 1 + coalesce(json_extract(detail, '$.starts'), 1))",
            (cycle, name, store.clock.now()),
        )
        return int(
            store.value(
                "select json_extract(detail, '$.starts') from stage where cycle = ? and name = ?", (cycle, name)
            )
        )


def stage_put_off(store: Store, cycle: int, name: str) -> None:
    """A start that came to nothing, since somebody else was at it, does not count."""
    store.execute(
        "update stage set detail = json_set(detail, '$.starts', json_extract(detail, '$.starts') - 1)"
        " where cycle = ? and name = ? and ended is null",
        (cycle, name),
    )


def stage_progress(
    store: Store,
    cycle: int,
    name: str,
    progress: float,
    eta_s: float | None = None,
    detail: Mapping[str, Any] | None = None,
) -> None:
    """Note how far a running stage is; `detail` None keeps the facts as they were."""
    with store.transaction(durable=False):
        store.execute(
            "update stage set progress = ?1, eta_s = ?2, detail = case when ?3 is null then detail"
            " else json_set(?3, '$.starts', coalesce(json_extract(detail, '$.starts'), 1)) end"
            " where cycle = ?4 and name = ?5 and ended is null",
            (min(max(progress, 0.0), 1.0), eta_s, None if detail is None else json.dumps(dict(detail)), cycle, name),
        )


def stage_finish(store: Store, cycle: int, name: str, outcome: Mapping[str, Any]) -> None:
    store.execute(
        "update stage set progress = 1, eta_s = 0, ended = ?, detail = ? where cycle = ? and name = ?"
        " and ended is null",
        (store.clock.now(), json.dumps(dict(outcome)), cycle, name),
    )


def outcome(store: Store, cycle: int, name: str) -> dict[str, Any] | None:
    """What a finished stage left, or None when it has not finished."""
    text = store.value("select detail from stage where cycle = ? and name = ? and ended is not null", (cycle, name))
    return None if text is None else json.loads(text)


def get(store: Store, cycle: int) -> Cycle | None:
    return _cycle(store.row(f"{_CYCLE} where id = ?", (cycle,)))


def running(store: Store) -> Cycle | None:
    return _cycle(store.row(f"{_CYCLE} where state = 'running' order by id desc limit 1"))


def latest(store: Store) -> Cycle | None:
    return _cycle(store.row(f"{_CYCLE} order by id desc limit 1"))


def last_ended(store: Store) -> float | None:
    """When a cycle ended last, however; None = none has."""
    ended = store.value("select max(ended) from cycle")
    return None if ended is None else float(ended)


def all(store: Store) -> list[Cycle]:
    """Newest first."""
    return [Cycle(*r) for r in store.rows(f"{_CYCLE} order by id desc")]


def stages(store: Store, cycle: int) -> list[Stage]:
    """In the order they were started."""
    rows = store.rows(
        "select cycle, name, started, ended, progress, eta_s, detail from stage where cycle = ? order by started, name",
        (cycle,),
    )
    return [Stage(**(dict(r) | {"detail": json.loads(r["detail"])})) for r in rows]


_CYCLE = "select id, started, ended, state, why, detail from cycle"


def _cycle(row: sqlite3.Row | None) -> Cycle | None:
    return None if row is None else Cycle(*row)
