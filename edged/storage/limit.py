"""What the store may take: `max_bytes`, or what the disk gives above `min_free`, whichever is less.

Guarantees: a store on a disk that is smaller than `max_bytes` meets its limit as any other does: the oldest go, and their
segments are written again, which takes no new space. Does not guarantee that the disk still has tomorrow what it has now.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from edged.errors import Unavailable
from edged.storage import disk

if TYPE_CHECKING:
    from edged.storage.store import Store

FEWEST = 4  # segments that there may be, however small the store is to be

Cause = Literal["max_bytes", "min_free", "disk"]
MEANS = {
    "max_bytes": "storage.max_bytes is reached",
    "min_free": "the disk has no more above storage.min_free",
    "disk": "the disk has no more",
}
ADVICE = {
    "max_bytes": "retention makes room; raise storage.max_bytes to keep more",
    "min_free": "retention makes room; free space on the disk to keep more",
    "disk": "retention makes room; free space on the disk to keep more",
}


@dataclass(frozen=True)
class Limit:
    """`bytes` that segments may take in all; `more`: how many can still be made; `by`: what sets it."""

    bytes: int
    more: int
    by: Cause

    def full(self) -> Unavailable:
        return Unavailable(f"the store is full: {MEANS[self.by]}", code="disk_full", hint=ADVICE[self.by])


def of(store: Store, reserve: int | None = None) -> Limit:
    """`reserve`: bytes of the disk that are not to be touched; None = `min_free`."""
    reserve = store.min_free if reserve is None else reserve
    sizes = dict(_sizes(store))
    rows = store.rows("select number, state from segment")
    # An open segment still grows; what it will take is spoken for.
    pledged = sum(max(0, store.segment_bytes - sizes.get(r["number"], 0)) for r in rows if r["state"] == "open")
    left = max(0, disk.free(store.data_dir) - reserve)
    more = max(0, left - pledged) // store.segment_bytes
    by_disk = sum(sizes.values()) + left
    cause: Cause = "min_free" if reserve else "disk"
    if store.max_bytes:
        allowed = max(FEWEST, store.max_bytes // store.segment_bytes)
        if allowed - len(rows) <= more:
            return Limit(min(store.max_bytes, by_disk), max(0, allowed - len(rows)), "max_bytes")
        return Limit(min(store.max_bytes, by_disk), more, cause)
    return Limit(by_disk, more, cause)


def _sizes(store: Store) -> Iterator[tuple[int, int]]:
    """Number and bytes of every segment file."""
    with os.scandir(store.segments_dir) as found:
        for entry in found:
            stem, _, kind = entry.name.partition(".")
            if kind == "seg" and stem.isdecimal():
                yield int(stem), entry.stat().st_size
