"""How long the box has had a picture, by its own count of time and the order of arrival.

The wall clock is asked for one thing only: how long the box was off between two runs. While a process runs, time is
what its monotonic clock counts; a wall clock that leaps, forwards or back, changes no picture's age.

    first note of a process   counted = what was counted before + how long the box was off
    later ones                counted = that + what the monotonic clock counted since

Guarantees: an object's age never shrinks, and never grows by more than ran, or DAY, without being believed: a longer time
off is believed if it makes no more than BULK of all objects too old, or when a person confirms it (`confirm`). Until
then it counts as nothing and `Reading.doubt` says so. Does not guarantee the age to better than RESOLUTION of the
longest, and measures nothing while no process runs on a box without a clock of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edged.storage.store import Store

DAY = 86400.0
BULK = 0.05
EARLIEST = 1_767_225_600.0  # 2026-01-01: a clock before this is wrong
RESOLUTION = 1000  # arrivals are told apart to this part of the longest age
_NEVER = float("-inf")
_FINEST_S, _COARSEST_S = 1.0, 3600.0


@dataclass(frozen=True)
class Reading:
    """`counted` seconds of the box's life. `doubt` seconds for which, if the clock is right, the box was off and which
    are not counted; 0 = none.
    """

    counted: float
    doubt: float = 0.0


class Ageing:
    """The count of one process; use one for as long as the store is open."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._start: float | None = None  # monotonic
        self._counted = self._wall = 0.0  # what was noted by the process before
        self._off: float | None = None  # how long the box was off; None = not known yet
        self._confirmed = False

    def confirm(self) -> None:
        """A person says that the clock is right: the time in doubt counts from the next note on."""
        self._confirmed = True

    def note(self, longest_s: float, too_old: Callable[[float], int]) -> Reading:
        """Count on, and note which objects have come in. `longest_s`: the longest age that will be asked for;
        `too_old(counted)`: how many objects the rules would call too old at that count.
        """
        now, ticks = self._store.clock.now(), self._store.clock.monotonic()
        if self._start is None:
            self._begin(now, ticks)
        assert self._start is not None
        ran = ticks - self._start
        with self._store.transaction(durable=False):
            before = _get(self._store, "counted", _NEVER), _get(self._store, "wall", self._wall)
            self._arrivals(before, self._counted + (self._off or 0.0) + ran, longest_s)
            doubt = self._settle(now - ran - self._wall, ran, too_old)
            counted = self._counted + (self._off or 0.0) + ran
            _set(self._store, "counted", counted)
            # A clock that is not believed is not remembered: the next process shall doubt it as well.
            plain = self._off is None and (doubt or now < EARLIEST)
            _set(self._store, "wall", self._wall + ran if plain else now)
        return Reading(counted, doubt)

    def received_before(self, age_s: float) -> float:
        """What came longer ago than that was received before this time of the box: by its clock and by its count. -inf
        when nothing that old was ever counted.
        """
        counted = _get(self._store, "counted", 0.0)
        wall = self._store.value("select wall from arrival where last < ? order by n desc limit 1", (counted - age_s,))
        return _NEVER if wall is None else min(float(wall), self._store.clock.now() - age_s)

    def _begin(self, now: float, ticks: float) -> None:
        newest = self._store.value("select created from object order by rowid desc limit 1")
        self._start = ticks
        self._counted = _get(self._store, "counted", 0.0)
        self._wall = _get(self._store, "wall", now if newest is None else float(newest))

    def _settle(self, off: float, ran: float, too_old: Callable[[float], int]) -> float:
        """Find out how long the box was off; returns the seconds in doubt."""
        if self._off is not None:
            self._confirmed = False
            return 0.0
        if off < 0:
            self._off = 0.0 if off > -DAY else None
            return 0.0
        if off > DAY and not self._confirmed:
            total = int(self._store.value("select coalesce(sum(objects), 0) from holding"))
            counted = self._counted + ran
            if too_old(counted + off) - too_old(counted) > BULK * total:
                return off
        self._off = off
        return 0.0

    def _arrivals(self, before: tuple[float, float], counted: float, longest_s: float) -> None:
        """Objects that came since the last note, at the time the clock gave them, but between the two counts."""
        store = self._store
        top = store.row("select n, first, last from arrival order by n desc limit 1")
        n, first, last = (0, None, _NEVER) if top is None else tuple(top)[:3]
        step = min(max(_FINEST_S, longest_s / RESOLUTION), _COARSEST_S)
        made: list[tuple[int, float, float, float]] = []
        for row in store.rows("select rowid, created from object where rowid > ? order by rowid", (n,)):
            since = before[0] if before[0] != _NEVER else self._counted
            at = min(max(since + row["created"] - before[1], before[0], last), counted)
            if first is not None and at - first < step and made:
                made[-1] = (row["rowid"], first, at, row["created"])
            else:
                made.append((row["rowid"], at, at, row["created"]))
                first = at
            last = at
        if top is not None and made and made[0][1] - top["first"] < step:
            made[0] = (made[0][0], top["first"], *made[0][2:])
            store.execute("delete from arrival where n = ?", (top["n"],))
        store.execute_many("insert into arrival values (?, ?, ?, ?)", made)
        # Of what is older than any rule asks for one row is enough.
        store.execute("delete from arrival where n < ?", (line(store, counted - longest_s),))


def line(store: Store, before: float) -> int:
    """The rowid of the last object, in order of arrival, that had come in before that count; 0 = none."""
    return int(store.value("select n from arrival where last < ? order by n desc limit 1", (before,)) or 0)


def _get(store: Store, name: str, otherwise: float) -> float:
    found = store.value("select value from ageing where name = ?", (name,))
    return otherwise if found is None else float(found)


def _set(store: Store, name: str, value: float) -> None:
    store.execute("insert into ageing values (?, ?) on conflict do update set value = excluded.value", (name, value))
