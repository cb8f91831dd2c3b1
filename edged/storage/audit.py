"""The audit log: every privileged act, in a hash chain. hash = sha256(prev || canonical JSON of the row).

Guarantees: `verify` notices any edited, deleted, inserted or reordered row; cut-off newest rows only when it is given
the `head` that was published outside. Rows that were lost with a damaged catalogue are a gap that a later row of act
REBUILT names: such a log says of itself what it lacks. Does not guarantee that somebody who can write the database
cannot make a new chain. Details must not hold personal data: the log outlives erasure.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from edged.errors import Corrupt
from edged.storage.store import Store

GENESIS = "0" * 64
REBUILT = "catalogue.rebuilt"  # its detail: "audit_missing": [[first, last], ...]


class Head(NamedTuple):
    """The newest row: publish it outside the box. (0, GENESIS) for an empty log."""

    n: int
    hash: str


@dataclass(frozen=True)
class Entry:
    """One row; `detail` is the JSON text that was hashed."""

    n: int
    ts: float
    actor: str
    act: str
    subject: str
    detail: str
    prev: str
    hash: str


def append(store: Store, actor: str, act: str, subject: str, detail: Mapping[str, Any] | None = None) -> Head:
    """Add one act; joins the caller's transaction, so the act and its record are one."""
    text = json.dumps(dict(detail or {}), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    with store.transaction():
        n, prev = head(store)
        n += 1
        ts = store.clock.now()
        row_hash = hash_of(prev, n, ts, actor, act, subject, text)
        store.execute(
            "insert into audit (n, ts, actor, act, subject, detail, prev, hash) values (?, ?, ?, ?, ?, ?, ?, ?)",
            (n, ts, actor, act, subject, text, prev, row_hash),
        )
    return Head(n, row_hash)


def head(store: Store) -> Head:
    row = store.row("select n, hash from audit order by n desc limit 1")
    return Head(0, GENESIS) if row is None else Head(row["n"], row["hash"])


def rows(store: Store, limit: int = 100) -> list[Entry]:
    """The newest first."""
    return [Entry(*r) for r in store.rows(f"{_SELECT} order by n desc limit ?", (limit,))]


def verify(store: Store, published: Head | None = None) -> int:
    """Walk the chain; returns the number of rows. Raises Corrupt at the first row that does not fit, or if the chain
    does not contain `published`, a head seen earlier outside.
    """
    return verify_chain((Entry(*r) for r in store.rows(f"{_SELECT} order by n")), published)


def verify_chain(entries: Iterable[Entry], published: Head | None = None) -> int:
    """`verify` on rows; pure."""
    prev, count, last = GENESIS, 0, 0
    missing: list[tuple[int, int]] = []
    named: set[tuple[int, int]] = set()
    seen = published is None or published == Head(0, GENESIS)
    for e in entries:
        count += 1
        if e.n <= last:
            raise Corrupt(f"audit log: row {e.n} stands behind row {last}", code="audit_broken")
        if e.n > last + 1:
            missing.append((last + 1, e.n - 1))
        elif e.prev != prev:
            raise Corrupt(f"audit log: row {e.n} was changed", code="audit_broken")
        if e.hash != hash_of(e.prev, e.n, e.ts, e.actor, e.act, e.subject, e.detail):
            raise Corrupt(f"audit log: row {e.n} was changed", code="audit_broken")
        if e.act == REBUILT:
            named |= _named(e.detail)
        prev, last = e.hash, e.n
        seen = seen or published == Head(e.n, e.hash)
    for first, end in missing:
        if (first, end) not in named:
            raise Corrupt(f"audit log: row {first} is missing, {end + 1} stands in its place", code="audit_broken")
    if not seen and published is not None:
        raise Corrupt(
            f"audit log: the published head {published.n} is not in it: rows were cut off", code="audit_broken"
        )
    return count


def gaps(entries: Iterable[Entry]) -> list[tuple[int, int]]:
    """Numbers of the rows that are missing between others, (first, last) of each run."""
    missing: list[tuple[int, int]] = []
    last = 0
    for e in entries:
        if e.n > last + 1:
            missing.append((last + 1, e.n - 1))
        last = e.n
    return missing


def _named(detail: str) -> set[tuple[int, int]]:
    try:
        return {(int(a), int(b)) for a, b in json.loads(detail).get("audit_missing", ())}
    except (ValueError, TypeError, AttributeError):
        return set()


def hash_of(prev: str, n: int, ts: float, actor: str, act: str, subject: str, detail: str) -> str:
    document = json.dumps([n, ts, actor, act, subject, detail], separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(prev.encode() + document.encode()).hexdigest()


_SELECT = "select n, ts, actor, act, subject, detail, prev, hash from audit"
