"""Retention: pictures go, rows stay. By age and by total size, oldest first, labelled and held-out crops last.

Guarantees: age is counted by the box's receive time, so a camera cannot dodge it; one run takes at most `max_share` of
all objects, so a clock that jumps ten years cannot empty the store in one go; a crop with a human label goes only for
lack of space, a held-out one last of all; what is waiting in the outbox stays. Does not guarantee that one run is
enough: `Thinned.more` says that it was not, and the daemon runs it again on its schedule and raises the alarm.
"""

from __future__ import annotations

import json
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
    """One run at box time `now`. It is the configured rule and nobody's act: counted by its caller, not audited."""
    with store.transaction():
        total = int(store.value("select count(*) from object"))
        cap = max(1, math.floor(total * max_share))
        excess = used(store) - max_bytes
        held = json.dumps(sorted(snapshots.ever_held(store)))
        chosen: list[str] = []
        taken = 0
        for last, rank in enumerate(_RANKS):
            victims = store.rows(
                f"{_VICTIMS} and {rank} order by o.created, o.id limit ?2", (held, cap + 1 - len(chosen))
            )
            for v in victims:
                if taken >= excess and (last or v["created"] >= now - max_age_s):
                    break
                chosen.append(v["id"])
                taken += v["size"]
        more = len(chosen) > cap
        if more:
            taken -= int(store.value("select size from object where id = ?", (chosen.pop(),)))
        objects.forget(store, chosen)
    return Thinned(len(chosen), taken, more)


_LABELLED = (
    "exists (select 1 from sample s join label l on l.sample = s.id"
    " where s.object = o.id and l.source = 'human' and l.undone is null)"
)
_HELD = "exists (select 1 from sample s where s.object = o.id and s.id in (select value from json_each(?1)))"
# In the order they go; only the first goes by age.
_RANKS = (f"not {_LABELLED} and not {_HELD}", f"{_LABELLED} and not {_HELD}", _HELD)
_VICTIMS = (
    "select o.id, o.size, o.created from object o where not exists"
    " (select 1 from outbox x where x.source = 'object:' || o.id and x.state = 'queued')"
)
