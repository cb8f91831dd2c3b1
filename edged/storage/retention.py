"""Retention: pictures go, rows stay a while longer. By age and by size, per camera and in all, the least worth first.

    run   1. count on (ageing.py): what is how old
          2. age: of each camera, in order of arrival, what the box has had for too long and nobody labelled
          3. size: of each camera over its limit, then of all, by `worth`, down to the low-water mark
          4. a few hundred at a time: one durable transaction drops their rows (objects.forget)

Guarantees: age is the box's own count of time by order of arrival, so neither a camera's clock nor the box's can make
a picture old; one run takes at most `max_share` of all objects; a picture with a human label goes only for lack of space,
after all without; what waits in the outbox stays. Does not guarantee that one run is enough: `Thinned.more` says that
it was not. Bytes come back to the disk's files when `clean` was run.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

from edged.storage import limit, objects, snapshots, worth
from edged.storage.ageing import Ageing, Reading, line
from edged.storage.store import SEGMENT_BYTES, Store, fitting
from edged.storage.worth import KEEP_LAST, Reason, View

MAX_SHARE = 0.05
BATCH = 100  # objects in a transaction: a frame that comes in meanwhile waits for no more
PAUSE_S = 0.01  # between two: the lock goes to whoever asks first, and that would be us
CHUNK = 1000  # rows looked at at once
SEARCHED = 20  # chunks in which one run looks for doubles
FRESH_S = 3600.0  # what came in within this time is nobody's double yet


@dataclass(frozen=True)
class Limits:
    """Of one camera; 0 = none of its own."""

    max_bytes: int = 0
    max_age_s: float = 0.0


@dataclass(frozen=True)
class Rules:
    """`max_bytes` of all cameras, 0 = no limit; `per_camera` for those that `cameras` does not name. Over a limit,
    pictures go until `low_water` (a share) of it. `row_age_s`: so long arrivals are remembered at least (pruning.py).
    """

    max_bytes: int
    max_age_s: float
    per_camera: int = 0
    cameras: Mapping[str, Limits] = field(default_factory=dict)
    low_water: float = 1.0
    keep_last: Sequence[Reason] = KEEP_LAST
    row_age_s: float = 0.0
    max_share: float = MAX_SHARE

    def age_of(self, camera: str) -> float:
        return self.cameras.get(camera, Limits()).max_age_s or self.max_age_s

    def bytes_of(self, camera: str) -> int:
        return self.cameras.get(camera, Limits()).max_bytes or self.per_camera

    @property
    def longest(self) -> float:
        return max([self.max_age_s, self.row_age_s, *(c.max_age_s for c in self.cameras.values())])


def within(max_bytes: int, segment_bytes: int = SEGMENT_BYTES) -> int:
    """Bytes of pictures that fit into `max_bytes` of segments: a twentieth is padding, and four segments are in use."""
    return max(int(max_bytes * 0.95) - 4 * fitting(segment_bytes, max_bytes), max_bytes // 2)


def within_disk(rules: Rules, store: Store) -> Rules:
    """The rules on the disk there is: it may hold less than `max_bytes` (limit.py)."""
    most = within(limit.of(store).bytes, store.segment_bytes)
    return replace(rules, max_bytes=min(rules.max_bytes or most, most))


def pressed(rules: Rules, store: Store) -> Rules:
    """The rules when there is no segment left to write to, whatever its pictures weigh: less by a tenth, or by what three
    segments hold.
    """
    share = max(0.1, 3 * store.segment_bytes / max(1, limit.of(store).bytes))
    most = int(objects.used(store) * (1 - min(share, 0.5)))
    return replace(
        rules, max_bytes=min(rules.max_bytes or most, most), low_water=1.0, max_share=max(rules.max_share, share)
    )


@dataclass(frozen=True)
class Thinned:
    """What one run took. `more`: the cap stopped it. `held`: seconds that the clock claims and nobody confirmed."""

    objects: int
    bytes: int
    more: bool
    held: float = 0.0


def used(store: Store) -> dict[str, int]:
    """Bytes of sealed objects by camera."""
    return {r[0]: r[1] for r in store.rows("select camera, bytes from holding where objects > 0 order by camera")}


def run(store: Store, rules: Rules, ageing: Ageing | None = None) -> Thinned:
    """One run. `ageing`: the count of this process; None = as in a process that has just begun."""
    reading = (ageing or Ageing(store)).note(rules.longest, lambda counted: _too_old(store, rules, counted))
    total = int(store.value("select coalesce(sum(objects), 0) from holding"))
    work = _Run(store, rules, reading, max(1, math.floor(total * rules.max_share)))
    work.by_age()
    for camera, size in used(store).items():
        work.by_size(camera, size, rules.bytes_of(camera))
    work.by_size("", sum(used(store).values()), rules.max_bytes)
    work.flush()
    return Thinned(work.taken, work.bytes, work.more, reading.doubt)


def _too_old(store: Store, rules: Rules, counted: float) -> int:
    return sum(
        int(
            store.value(
                "select count(*) from object where camera = ? and rowid <= ?",
                (camera, line(store, counted - rules.age_of(camera))),
            )
        )
        for camera in used(store)
    )


class _Run:
    """What one run has taken so far."""

    def __init__(self, store: Store, rules: Rules, reading: Reading, cap: int) -> None:
        self._store, self._rules, self._reading, self._cap = store, rules, reading, cap
        self._chosen: list[View] = []
        self._kept: dict[Reason, Collection[str]] | None = None
        self.taken = self.bytes = 0
        self.more = False

    def by_age(self) -> None:
        for camera in used(self._store):
            until = line(self._store, self._reading.counted - self._rules.age_of(camera))
            self._take(self._of_rank(camera, worth.UNLABELLED, until))

    def by_size(self, camera: str, size: int, limit: int) -> None:
        """`camera` "" = all."""
        drain = f"drain:{camera}"
        size -= sum(v.size for v in self._chosen if camera in ("", v.camera))
        draining = limit and self._store.value("select 1 from ageing where name = ?", (drain,))
        if not limit or size <= (limit * self._rules.low_water if draining else limit):
            if draining:
                self._store.execute("delete from ageing where name = ?", (drain,))
            return
        if not draining:
            self._store.execute("insert into ageing values (?, 1)", (drain,))
        excess = math.ceil(size - limit * self._rules.low_water)
        excess -= self._take(self._doubles(camera), excess)
        for rank in range(worth.UNLABELLED, worth.KEPT + len(self._rules.keep_last)):
            if excess > 0 and not self.more:  # else each rank would be looked for in the whole store in vain
                excess -= self._take(self._of_rank(camera, rank), excess)

    def flush(self) -> None:
        """Drop what was chosen, unless it was labelled, or is to leave, since."""
        chosen, self._chosen = self._chosen, []
        if not chosen:
            return
        with self._store.transaction():
            going = [v for v in chosen if not self._spared(v)]
            objects.forget(self._store, [v.id for v in going])
        self.taken += len(going)
        self.bytes += sum(v.size for v in going)

    def _spared(self, v: View) -> bool:
        labelled = f"exists (select 1 from sample s where s.object = o.id and {_LABELLED})"
        found = self._store.row(f"select {_WAITS}, {labelled} from object o where o.id = ?", (v.id,))
        return found is None or bool(found[0]) or bool(found[1] and not v.labelled)

    def _take(self, views: Iterator[View], excess: int | None = None) -> int:
        """Choose until `excess` bytes, or all; returns how many bytes."""
        size = 0
        if self.more:
            return size
        known = {v.id for v in self._chosen}
        for v in views:
            if excess is not None and size >= excess:
                break
            if v.id in known:
                continue
            if self.taken + len(self._chosen) >= self._cap:
                self.more = True
                break
            self._chosen.append(v)
            size += v.size
            if len(self._chosen) >= BATCH:
                self.flush()
                self._store.clock.sleep(PAUSE_S)
                known.clear()
        return size

    def _of_rank(self, camera: str, rank: int, until: int | None = None) -> Iterator[View]:
        for chunk in _chunks(self._store, camera, 0, until):
            for v in chunk:
                if not v.waits and worth.rank(v, self.kept, self._rules.keep_last) == rank:
                    yield v

    def _doubles(self, camera: str) -> Iterator[View]:
        """From where the last search ended: what was no double then is none now."""
        name = f"doubles:{camera}"
        start = int(self._store.value("select value from ageing where name = ?", (name,)) or 0)
        until = line(self._store, self._reading.counted - FRESH_S)
        for chunk in islice(_chunks(self._store, camera, start, until), SEARCHED):
            doubles = set(worth.redundant(chunk))
            yield from (
                v
                for v in chunk
                if v.id in doubles and worth.rank(v, self.kept, self._rules.keep_last) == worth.UNLABELLED
            )
            self._store.execute(
                "insert into ageing values (?, ?) on conflict do update set value = excluded.value",
                (name, chunk[-1].n),
            )

    @property
    def kept(self) -> Mapping[Reason, Collection[str]]:
        if self._kept is None:
            self._kept = {**trained_on(self._store), "holdout": snapshots.ever_held(self._store)}
        return self._kept


def trained_on(store: Store) -> dict[Reason, Collection[str]]:
    """Sample ids of the snapshots behind the present model and the one before it."""
    found = [
        r[0]
        for r in store.rows(
            "select c.snapshot from release r join candidate c on c.id = r.candidate where r.state <> 'halted'"
            " group by r.sha256 order by max(r.number) desc limit 2"
        )
    ]
    bodies = [snapshots.get(store, i) for i in found]
    parts = [frozenset(sample for sample, _ in b["train"] + b["tune"] + b["holdout"]) for b in bodies]
    return dict(zip(("champion", "previous"), parts, strict=False))


_LABELLED = "exists (select 1 from label l where l.sample = s.id and l.source = 'human' and l.undone is null)"
_WAITS = "exists (select 1 from outbox x where x.source = 'object:' || o.id and x.state = 'queued')"


def _chunks(store: Store, camera: str, start: int, until: int | None) -> Iterator[list[View]]:
    """The objects in order of arrival, with rowids in (start, until]."""
    last = start
    while True:
        rows = store.rows(
            "select o.n, o.id, o.camera, o.size, coalesce(f.id, s.frame, '') as frame, coalesce(f.ts, s.ts, 0) as ts,"
            f" s.id as sample, s.predicted, s.margin, s.id is not null and {_LABELLED} as labelled, {_WAITS} as waits"
            " from (select rowid as n, id, camera, size from object where rowid > ?1"
            f" {'and rowid <= ?2' if until is not None else 'and ?2 is null'} {'and camera = ?3' if camera else 'and ?3 = ?3'}"
            f" order by rowid limit {CHUNK}) o"
            " left join frame f on f.object = o.id left join sample s on s.object = o.id order by o.n",
            (last, until, camera),
        )  # fmt: skip
        if not rows:
            return
        views: dict[str, View] = {}
        for r in rows:
            before = views.get(r["id"])
            seen = () if r["sample"] is None else ((r["predicted"], r["margin"]),)
            names = () if r["sample"] is None else (r["sample"],)
            views[r["id"]] = View(
                r["n"], r["id"], r["camera"], r["frame"], r["ts"], r["size"],
                bool(r["labelled"]) or (before is not None and before.labelled), bool(r["waits"]),
                names + (before.samples if before else ()), seen + (before.seen if before else ()),
            )  # fmt: skip
        last = rows[-1]["n"]
        yield list(views.values())
