"""Masks painted for a camera: what lies under them is covered before anything is looked for or kept.

Guarantees: a mask is a simple polygon inside the picture, at most MOST of them hold for a camera at a time; painting and
removing one leave a row in the audit log in the same transaction; a mask of config.toml has no row and cannot be removed
here. Does not guarantee that a picture which was stored before is masked, or that one which is stored is ever unmasked.
Corners are shares of the picture's width and height, 0..1.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta

from edged.errors import EXIT_NOT_FOUND, Corrupt, Refused
from edged.storage import audit
from edged.storage.store import Store

if TYPE_CHECKING:
    from edged.privacy.talk import Polygon

MOST = 32  # that hold for one camera
FEWEST_CORNERS, MOST_CORNERS = 3, 32
NAME_LENGTH = 60
LEAST_AREA = 1e-8  # of the picture: a fraction of a pixel

Corner = tuple[float, float]
Share = Annotated[float, Meta(ge=0, le=1)]
Stored = Annotated[tuple[tuple[Share, Share], ...], Meta(min_length=FEWEST_CORNERS)]


@dataclass(frozen=True)
class Mask:
    """One row; `removed` None = it holds."""

    id: int
    camera: str
    name: str
    polygon: Polygon
    author: str
    created: float
    removed: float | None

    @property
    def area(self) -> float:
        """Share of the picture, 0..1, before it is snapped outward to whole blocks."""
        return area(self.polygon)


class Painted:
    """The masks that hold now, by camera, for those who scrub. Thread-safe.

    Looks for a changed row at most every `every_s` seconds: a mask holds at the latest so long after it was painted.
    Raises what the store raises: who cannot know the masks must not take the frame.
    """

    def __init__(self, store: Store, every_s: float = 1.0) -> None:
        self._store, self._every_s = store, every_s
        self._lock = threading.Lock()
        self._next = -math.inf
        self._stamp: tuple[int, int] | None = None
        self._held: dict[str, tuple[Polygon, ...]] = {}

    def of(self, camera: str) -> tuple[Polygon, ...]:
        """The polygons of one camera, oldest first."""
        with self._lock:
            now = self._store.clock.monotonic()
            if now >= self._next:
                self._refresh()
                self._next = now + self._every_s
            return self._held.get(camera, ())

    def _refresh(self) -> None:
        # Rows are only ever added or marked as removed, so these two numbers change with every change.
        stamp = _stamp(self._store)
        if stamp != self._stamp:
            held: dict[str, tuple[Polygon, ...]] = {}
            for mask in holding(self._store):
                held[mask.camera] = (*held.get(mask.camera, ()), mask.polygon)
            self._held, self._stamp = held, stamp


def paint(store: Store, camera: str, name: str, polygon: Iterable[Sequence[float]], author: str) -> Mask:
    """Let a mask hold from now on. Raises Refused (bad_name, bad_polygon, too_many)."""
    name, corners = check_name(name), check_polygon(polygon)
    with store.transaction():
        if len(holding(store, camera)) >= MOST:
            raise Refused(f"{camera} has {MOST} painted masks already; remove one first", code="too_many")
        created = store.clock.now()
        number = store.insert(
            "insert into mask (camera, name, polygon, author, created) values (?, ?, ?, ?, ?)",
            (camera, name, msgspec.json.encode(corners).decode(), author, created),
        )
        made = Mask(number, camera, name, corners, author, created, None)
        audit.append(store, author, "mask.paint", camera, _facts(made))  # without its name, which may be a person's
    return made


def remove(store: Store, camera: str, mask_id: int, author: str) -> Mask:
    """Let a mask hold no longer; pictures that are stored stay masked. Raises Refused("not_found")."""
    with store.transaction():
        found = get(store, camera, mask_id)
        removed = store.clock.now()
        store.execute("update mask set removed = ? where id = ?", (removed, mask_id))
        audit.append(store, author, "mask.remove", camera, _facts(found))
    return replace(found, removed=removed)


def get(store: Store, camera: str, mask_id: int) -> Mask:
    """A mask that holds; raises Refused("not_found")."""
    for mask in holding(store, camera):
        if mask.id == mask_id:
            return mask
    raise Refused(f"{camera} has no painted mask {mask_id}", code="not_found", exit_code=EXIT_NOT_FOUND)


def holding(store: Store, camera: str | None = None) -> list[Mask]:
    """The masks that hold, oldest first; `camera` None = of every camera."""
    rows = store.rows(
        "select id, camera, name, polygon, author, created, removed from mask where removed is null"
        " and (?1 is null or camera = ?1) order by id",
        (camera,),
    )
    return [Mask(**(dict(r) | {"polygon": _read(r["id"], r["polygon"])})) for r in rows]


def check_name(name: str) -> str:
    """The name without white space around it; raises Refused("bad_name")."""
    name = name.strip()
    if not 0 < len(name) <= NAME_LENGTH or not name.isprintable():
        raise Refused(f"a mask's name has 1 to {NAME_LENGTH} characters that can be printed", code="bad_name")
    return name


def check_polygon(polygon: Iterable[Sequence[float]]) -> Polygon:
    """The corners, without those that repeat the one before; raises Refused("bad_polygon")."""
    corners: list[Corner] = []
    for at in polygon:
        if len(at) != 2 or not all(math.isfinite(v) and 0 <= v <= 1 for v in at):
            raise Refused("a corner is two numbers from 0 to 1, across and down", code="bad_polygon")
        corner = (float(at[0]), float(at[1]))
        if not corners or corner != corners[-1]:
            corners.append(corner)
        if len(corners) > MOST_CORNERS + 1:
            break
    if len(corners) > 1 and corners[0] == corners[-1]:
        corners.pop()
    if not FEWEST_CORNERS <= len(corners) <= MOST_CORNERS:
        raise Refused(f"a mask has {FEWEST_CORNERS} to {MOST_CORNERS} different corners", code="bad_polygon")
    if area(corners) < LEAST_AREA:
        raise Refused("these corners enclose nothing", code="bad_polygon")
    if not _simple(corners):
        # Filled by the even-odd rule, its inside could have holes.
        raise Refused("the sides of a mask must not cross or touch", code="bad_polygon")
    return tuple(corners)


def parse_polygon(text: str) -> Polygon:
    """ "0.1,0.2 0.4,0.2 0.4,0.9" as checked corners; raises Refused("bad_polygon")."""
    if len(text) > 4000:
        raise Refused("that is too long for a mask's corners", code="bad_polygon")
    try:
        return check_polygon([[float(v) for v in at.split(",")] for at in text.split()])
    except ValueError as e:
        raise Refused('corners are written "0.1,0.2 0.4,0.2 0.4,0.9"', code="bad_polygon") from e


def format_polygon(polygon: Polygon) -> str:
    """What `parse_polygon` reads."""
    return " ".join(f"{x:.6g},{y:.6g}" for x, y in polygon)


def area(polygon: Sequence[Corner]) -> float:
    """Share of the picture, 0..1 (the shoelace formula)."""
    return abs(sum(ax * by - bx * ay for (ax, ay), (bx, by) in pairwise([*polygon, polygon[0]]))) / 2


def _simple(corners: Sequence[Corner]) -> bool:
    """Whether no side meets another but at the corner between them."""
    sides = list(pairwise([*corners, corners[0]]))
    last = len(sides) - 1
    apart = ((i, j) for i in range(last + 1) for j in range(i + 2, last + 1) if (i, j) != (0, last))
    return not any(_meet(*sides[i], *sides[j]) for i, j in apart)


def _meet(a: Corner, b: Corner, c: Corner, d: Corner) -> bool:
    """Whether ab and cd have a point in common."""
    abc, abd, cda, cdb = _turn(a, b, c), _turn(a, b, d), _turn(c, d, a), _turn(c, d, b)
    if abc != abd and cda != cdb:
        return True
    on_line = ((abc, a, b, c), (abd, a, b, d), (cda, c, d, a), (cdb, c, d, b))
    return any(turn == 0 and _between(*three) for turn, *three in on_line)


def _turn(a: Corner, b: Corner, c: Corner) -> float:
    """1 or -1 by the side of ab on which c lies, 0 on the line."""
    turn = (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
    return 0.0 if abs(turn) < 1e-12 else math.copysign(1.0, turn)


def _between(a: Corner, b: Corner, c: Corner) -> bool:
    return all(min(a[i], b[i]) <= c[i] <= max(a[i], b[i]) for i in (0, 1))


def _facts(mask: Mask) -> dict[str, object]:
    return {"mask": mask.id, "corners": len(mask.polygon), "area": round(mask.area, 4)}


def _stamp(store: Store) -> tuple[int, int]:
    row = store.row("select coalesce(max(id), 0), count(removed) from mask")
    assert row is not None
    return int(row[0]), int(row[1])


def _read(mask_id: int, text: str) -> Polygon:
    try:
        return msgspec.json.decode(text, type=Stored)
    except msgspec.MsgspecError as e:
        raise Corrupt(f"mask {mask_id} does not read back as it was painted: {e}", code="mask_damaged") from e
