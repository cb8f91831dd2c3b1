"""Verdicts: what the gate said of a candidate, with reasons."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from edged.storage.store import Store


@dataclass(frozen=True)
class VerdictRow:
    """One row; `reasons` are sentences with numbers."""

    id: int
    candidate: int
    report: int
    passed: bool
    reasons: tuple[str, ...]
    created: float


def add(store: Store, candidate: int, report: int, passed: bool, reasons: Sequence[str]) -> int:
    return store.insert(
        "insert into verdict (candidate, report, passed, reasons, created) values (?, ?, ?, ?, ?)",
        (candidate, report, int(passed), json.dumps(list(reasons), ensure_ascii=False), store.clock.now()),
    )


def of(store: Store, candidate: int) -> VerdictRow | None:
    """The newest verdict on a candidate, or None."""
    r = store.row(
        "select id, candidate, report, passed, reasons, created from verdict where candidate = ?"
        " order by id desc limit 1",
        (candidate,),
    )
    if r is None:
        return None
    return VerdictRow(
        r["id"], r["candidate"], r["report"], bool(r["passed"]), tuple(json.loads(r["reasons"])), r["created"]
    )
