"""Which of a camera's frames never came: its numbers since it booted, and the holes in them.

Guarantees: a hole is closed by the frame that arrives late, in whatever order they come; each boot of a camera is counted
for itself; the rows are bounded (HOLES for each boot, BOOTS for each camera). Does not guarantee to know what was lost
before the first frame of a boot, or after the last. `note` belongs to the transaction that answers the frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from edged.storage.store import Store

HOLES = 64  # listed for a boot; beyond that the oldest are only counted, and not closed any more
BOOTS = 4  # of a camera, those heard of last
GRACE_S = 60.0  # a hole that is younger may only be on its way: turned away, or sent out of order
SHOWN_S = 86400.0


class Hole(Struct, frozen=True, array_like=True):
    """Numbers `first` to `last` are missing; noticed at `since`, seconds since 1970 by the box's clock."""

    first: int
    last: int
    since: float

    @property
    def size(self) -> int:
        return self.last - self.first + 1


class Numbers(Struct, frozen=True):
    """Of one boot: from the lowest number to the highest, but for the holes (ascending) and `lost` that are not listed."""

    first: int
    last: int
    holes: tuple[Hole, ...] = ()
    lost: int = 0


@dataclass(frozen=True)
class Missing:
    """`since` is when the oldest of them was noticed."""

    frames: int
    since: float


def taken(numbers: Numbers | None, seq: int, at: float) -> Numbers:
    """What is known after frame `seq` was answered at `at`. Pure."""
    if numbers is None:
        return Numbers(seq, seq)
    holes = list(numbers.holes)
    if seq > numbers.last:
        if seq > numbers.last + 1:
            holes.append(Hole(numbers.last + 1, seq - 1, at))
        numbers = replace(numbers, last=seq)
    elif seq < numbers.first:
        if seq < numbers.first - 1:
            holes.insert(0, Hole(seq + 1, numbers.first - 1, at))
        numbers = replace(numbers, first=seq)
    else:
        i = next((i for i, hole in enumerate(holes) if hole.first <= seq <= hole.last), None)
        if i is None:
            return numbers
        hole = holes[i]
        holes[i : i + 1] = [
            h for h in (replace(hole, last=seq - 1), replace(hole, first=seq + 1)) if h.first <= h.last
        ]  # fmt: skip
    lost = numbers.lost
    while len(holes) > HOLES:
        oldest = min(holes, key=lambda h: (h.since, h.first))
        holes.remove(oldest)
        lost += oldest.size
    return replace(numbers, holes=tuple(holes), lost=lost)


def note(store: Store, camera: str, boot: str, seq: int, at: float) -> None:
    """A frame was answered for good."""
    row = store.row("select first, last, holes, lost from sequence where camera = ? and boot = ?", (camera, boot))
    known = None
    if row is not None:
        holes = msgspec.json.decode(row["holes"], type=tuple[Hole, ...])
        known = Numbers(row["first"], row["last"], holes, row["lost"])
    numbers = taken(known, seq, at)
    store.execute(
        "insert into sequence (camera, boot, first, last, holes, lost, updated) values (?1, ?2, ?3, ?4, ?5, ?6, ?7)"
        " on conflict (camera, boot) do update set first = ?3, last = ?4, holes = ?5, lost = ?6,"
        " updated = max(updated, ?7)",
        (camera, boot, numbers.first, numbers.last, msgspec.json.encode(numbers.holes).decode(), numbers.lost, at),
    )
    if known is None:
        store.execute(
            "delete from sequence where camera = ?1 and boot <> ?2 and boot not in"
            " (select boot from sequence where camera = ?1 order by updated desc limit ?3)",
            (camera, boot, BOOTS),
        )


def missing(store: Store, at: float) -> dict[str, Missing]:
    """By camera, what was found missing in the last day and is not merely late; cameras that miss nothing are not in it."""
    found: dict[str, Missing] = {}
    for row in store.rows("select camera, holes from sequence where holes <> '[]' order by camera"):
        for hole in msgspec.json.decode(row["holes"], type=tuple[Hole, ...]):
            if GRACE_S <= at - hole.since <= SHOWN_S:
                before = found.get(row["camera"], Missing(0, hole.since))
                found[row["camera"]] = Missing(before.frames + hole.size, min(before.since, hole.since))
    return found
