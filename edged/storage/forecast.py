"""When the store will be full, and what limits first. Pure but for `of`, which reads the rows.

An average over the last days is all it knows: a new camera, or a street that is dug up, makes it wrong.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from edged.storage import alarms, retention
from edged.storage.retention import Rules
from edged.storage.store import Store

DAY = 86400.0
WINDOW_H = 7 * 24

First = Literal["size", "disk", "age", "nothing", "early", "stopped"]
EARLY_H = 2  # hours by the clock that intake must span: then at least one was seen whole


@dataclass(frozen=True)
class Forecast:
    """Of one camera, or of all (`camera` ""). `limit` bytes, 0 = none; `per_day` bytes that come in; `days` until the
    limit is reached, None = not before age takes as much as comes in, or not known. `first`: what takes pictures first;
    "early" = intake was seen for too short a time to say (`per_day` is then None), "stopped" = nothing can be stored.
    """

    camera: str
    used: int
    limit: int
    per_day: float | None
    days: float | None
    first: First

    @property
    def told(self) -> str:
        """A sentence without its full stop."""
        if self.first == "stopped":
            return "nothing can be stored: the disk is full"
        if self.first == "early":
            return "too early to say"
        if self.first == "nothing":
            return "nothing comes in" if not self.per_day else "no limit"
        if self.days is None:
            return "not before age takes as much as comes in"
        if self.days == 0:
            return "full: the oldest goes for the newest" + (
                " (the disk, not the limit)" if self.first == "disk" else ""
            )
        hours = round(self.days * 24)
        span = f"{self.days:.0f} days" if self.days >= 2 else "an hour" if hours <= 1 else f"{hours} hours"
        return f"full in {span}" + (" (the disk, not the limit)" if self.first == "disk" else "")


def per_day(hours: Mapping[int, int], now: float) -> float:
    """Bytes a day from bytes by hour since 1970: over the last seven days, or since the first hour that is known."""
    last = int(now // 3600)
    inside = {h: n for h, n in hours.items() if last - WINDOW_H < h <= last}
    if not inside:
        return 0.0
    first = max(min(h for h in hours if h <= last), last - WINDOW_H + 1)
    span = max(1.0, now / 3600 - first)
    return sum(inside.values()) / span * 24


def full(camera: str, used: int, limit: int, rate: float, age_s: float, disk_left: int | None = None) -> Forecast:
    """`disk_left`: bytes that the disk still has for pictures; None = not asked."""
    by_disk = used + disk_left if disk_left is not None else None
    line = min(x for x in (limit or None, by_disk, float("inf")) if x is not None)
    first: First = "disk" if by_disk is not None and line == by_disk and by_disk != limit else "size"
    if line == float("inf"):
        return Forecast(camera, used, limit, rate, None, "age" if rate else "nothing")
    if used >= line:
        return Forecast(camera, used, limit, rate, 0.0, first)
    if not rate:
        return Forecast(camera, used, limit, rate, None, "nothing")
    if rate * age_s / DAY <= line:
        return Forecast(camera, used, limit, rate, None, "age")
    return Forecast(camera, used, limit, rate, (line - used) / rate, first)


def of(store: Store, rules: Rules, now: float) -> list[Forecast]:
    """All cameras together first, then each by name."""
    used = retention.used(store)
    hours: dict[str, dict[int, int]] = {c: {} for c in used}
    for r in store.rows("select camera, hour, bytes from intake"):
        hours.setdefault(r["camera"], {})[r["hour"]] = r["bytes"]
    disk = os.statvfs(store.data_dir)
    left = max(0, disk.f_bavail * disk.f_frsize - store.min_free)
    free = int(store.value("select count(*) from segment where state = 'free'")) * store.segment_bytes
    rates = {c: per_day(h, now) for c, h in hours.items()}
    early = {c: bool(h) and now // 3600 - min(h) < EARLY_H for c, h in hours.items()}
    together = full("", sum(used.values()), rules.max_bytes, sum(rates.values()), rules.longest, disk_left=left + free)
    if alarms.stands(store, alarms.DISK_FULL):
        together = replace(together, days=0.0, first="stopped")
    elif early and all(early.values()):
        together = _unknown(together)
    each = [(c, full(c, used.get(c, 0), rules.bytes_of(c), rates[c], rules.age_of(c))) for c in sorted(hours)]
    return [together, *(_unknown(f) if early[c] else f for c, f in each)]


def _unknown(found: Forecast) -> Forecast:
    """Without a rate; what is full is full all the same."""
    return replace(found, per_day=None) if found.days == 0 else replace(found, per_day=None, days=None, first="early")
