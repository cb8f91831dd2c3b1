"""Bytes that are never released or offered again: those of a release that was halted. A person may take one back.

Both ends are in the audit log, in the same transaction.
"""

from __future__ import annotations

from dataclasses import dataclass

from edged.errors import EXIT_NOT_FOUND, Refused
from edged.storage import audit
from edged.storage.store import Store

LEAST_DIGITS = 6  # of a hash that a person names by its beginning


@dataclass(frozen=True)
class Blocked:
    """One row; `release` is the one that was halted, `reason` a sentence without its full stop."""

    sha256: str
    release: int
    reason: str
    author: str
    created: float


def add(store: Store, sha256: str, *, release: int, reason: str, author: str) -> None:
    """Block these bytes; what is blocked already stays as it is."""
    with store.transaction():
        new = store.execute(
            "insert into blocked (sha256, release, reason, author, created) values (?, ?, ?, ?, ?) on conflict do nothing",
            (sha256, release, reason, author, store.clock.now()),
        )
        if new:
            audit.append(store, author, "model.block", sha256, {"release": release, "reason": reason})


def remove(store: Store, sha256: str, author: str) -> None:
    """Raises Refused("not_found")."""
    with store.transaction():
        found = get(store, sha256)
        if found is None:
            raise Refused(f"{sha256[:12]} is not blocked", code="not_found", exit_code=EXIT_NOT_FOUND)
        store.execute("delete from blocked where sha256 = ?", (sha256,))
        audit.append(store, author, "model.unblock", sha256, {"release": found.release, "reason": found.reason})


def get(store: Store, sha256: str) -> Blocked | None:
    return next((b for b in all(store) if b.sha256 == sha256), None)


def find(store: Store, word: str) -> Blocked:
    """By the beginning of its hash. Raises Refused("not_found"), also where several begin so."""
    found = [b for b in all(store) if b.sha256.startswith(word)] if len(word) >= LEAST_DIGITS else []
    if len(found) == 1:
        return found[0]
    named = ", ".join(b.sha256[:12] for b in all(store)) or "none"
    raise Refused(
        f"no blocked model begins with {word!r}, or several do", code="not_found", exit_code=EXIT_NOT_FOUND,
        hint=f"blocked: {named}; {LEAST_DIGITS} digits at least",
    )  # fmt: skip


def all(store: Store) -> list[Blocked]:
    """Oldest first."""
    rows = store.rows("select sha256, release, reason, author, created from blocked order by created, sha256")
    return [Blocked(*r) for r in rows]
