"""Candidates: model files with their lineage."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edged.errors import EXIT_NOT_FOUND, Refused
from edged.storage.store import Store


@dataclass(frozen=True)
class Candidate:
    """One row; `parent` sha256 it was started from or "", `recipe` architecture, seed, epochs, steps, input_px."""

    id: int
    cycle: int
    name: str
    sha256: str
    size: int
    parent: str
    snapshot: str
    recipe: dict[str, Any]
    created: float


def add(
    store: Store,
    cycle: int,
    *,
    name: str,
    sha256: str,
    size: int,
    snapshot: str,
    recipe: Mapping[str, Any],
    parent: str = "",
) -> int:
    """Returns its id; the same name and file in the same cycle is the same candidate (a stage that was run again)."""
    with store.transaction():
        known = store.value(
            "select id from candidate where cycle = ? and name = ? and sha256 = ?", (cycle, name, sha256)
        )
        if known is not None:
            return int(known)
        return store.insert(
            "insert into candidate (cycle, name, sha256, size, parent, snapshot, recipe, created)"
            " values (?, ?, ?, ?, ?, ?, ?, ?)",
            (cycle, name, sha256, size, parent, snapshot, json.dumps(dict(recipe)), store.clock.now()),
        )


def get(store: Store, candidate_id: int) -> Candidate:
    """Raises Refused("not_found")."""
    found = _select(store, "where id = ?", (candidate_id,))
    if not found:
        raise Refused(f"no candidate {candidate_id}", code="not_found", exit_code=EXIT_NOT_FOUND)
    return found[0]


def all(store: Store, cycle: int | None = None) -> list[Candidate]:
    """Oldest first."""
    return _select(store, "where ?1 is null or cycle = ?1 order by id", (cycle,))


def find(store: Store, sha256: str) -> Candidate | None:
    """The newest candidate that is this file."""
    found = _select(store, "where sha256 = ? order by id desc limit 1", (sha256,))
    return found[0] if found else None


def _select(store: Store, tail: str, params: tuple[Any, ...]) -> list[Candidate]:
    rows = store.rows(
        f"select id, cycle, name, sha256, size, parent, snapshot, recipe, created from candidate {tail}", params
    )
    return [Candidate(**(dict(r) | {"recipe": json.loads(r["recipe"])})) for r in rows]
