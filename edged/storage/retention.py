"""Retention: pictures go, rows stay. By age and by total size, oldest first, labelled and held-out crops last.

Guarantees: age is counted by the box's receive time, so a camera cannot dodge it; one run takes at most `max_share` of
all objects, so a clock that jumps ten years cannot empty the store in one go; a crop with a human label goes only for
lack of space, a held-out one last of all; what is waiting in the outbox stays. Does not guarantee that one run is
enough: `Thinned.more` says that it was not, and the daemon runs it again on its schedule and raises the alarm.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

from edged.errors import Unavailable
from edged.storage import objects, snapshots
from edged.storage.store import Store

MAX_SHARE = 0.05


@dataclass(frozen=True)
class Thinned:
    """What one run took. `more`: the cap stopped it."""

    objects: int
    bytes: int
    more: bool


def require_space(store: Store, size: int = 0) -> None:
    """Raises Unavailable("disk_full") if `size` more bytes would eat into the reserve (`Store.min_free`)."""
    if store.min_free:
        disk = os.statvfs(store.data_dir)
        if disk.f_bavail * disk.f_frsize - size < store.min_free:
            raise Unavailable("disk full", code="disk_full", hint="free space, or lower storage.max_bytes")


def used(store: Store) -> int:
    """Bytes of all sealed objects."""
    return int(store.value("select coalesce(sum(size), 0) from object"))


def run(store: Store, now: float, *, max_age_s: float, max_bytes: int, max_share: float = MAX_SHARE) -> Thinned:
    """One run. Audited by its caller's counters, not in the audit log: it is the configured rule, nobody's act."""
    with store.transaction():
        total = int(store.value("select count(*) from object"))
        cap = max(1, math.floor(total * max_share))
        size = used(store)
        held = snapshots.ever_held(store)
        chosen: list[str] = []
        taken = 0
        more = False
        for row in _victims(store, held):
            expired = row.rank == 0 and row.created < now - max_age_s
            if not expired and size - taken <= max_bytes:
                if row.rank == 0:
                    continue  # younger ones of this rank are not expired either, but later ranks may still be needed
                break
            if len(chosen) == cap:
                more = True
                break
            chosen.append(row.id)
            taken += row.size
        objects.forget(store, chosen)
    objects.remove_files(store, chosen)
    return Thinned(len(chosen), taken, more)


@dataclass(frozen=True)
class _Victim:
    id: str
    size: int
    created: float
    rank: int  # 0 no human label, 1 labelled, 2 held out


def _victims(store: Store, held: set[str]) -> list[_Victim]:
    rows = store.rows(
        "select o.id, o.size, o.created, s.id as sample, exists (select 1 from label l where l.sample = s.id"
        " and l.source = 'human' and l.undone is null) as labelled from object o left join sample s on s.object = o.id"
        " where not exists (select 1 from outbox x where x.source = 'object:' || o.id and x.state = 'queued')"
    )
    victims = [_Victim(r["id"], r["size"], r["created"], 2 if r["sample"] in held else r["labelled"]) for r in rows]
    return sorted(victims, key=lambda v: (v.rank, v.created, v.id))
