"""How well the detectors hide, measured on annotated pictures: the arithmetic and the reading of boxes. Pure.

Guarantees: every share comes with the number that it is of and Wilson's 95 % interval (E. B. Wilson, JASA 22, 1927); a
row that is no box is refused by its line, never guessed at. Does not guarantee: that the annotators saw everything, or
that these pictures are like yours.

A box is hidden when at least 90 % of it, as far as it lies in the picture, is covered in the picture as delivered. False
area is what is covered although no annotated box, grown by the margin and outward to blocks of 16 pixels, reaches there.
"""

from __future__ import annotations

import csv
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from edged.errors import EXIT_NOT_FOUND, Refused
from edged.interval import wilson
from edged.privacy.file_talk import GotAudit

HIDDEN_FROM = 0.9
EDGES = (8, 16, 32, 64)  # of the classes of size, pixels
IGNORE = "ignore"
KIND = re.compile("[a-z][a-z0-9-]{0,15}")
CORNERS, ENDS = ("x", "y", "w", "h"), ("xmin", "ymin", "xmax", "ymax")
FILE = {"image": "file", "filename": "file"}  # what other sets call that column


class Annotated(NamedTuple):
    """One picture. `boxes` are (kind, x, y, w, h) in pixels of the stored picture; `others` may be hidden or not."""

    file: str
    boxes: tuple[tuple[str, float, float, float, float], ...]
    others: tuple[tuple[float, float, float, float], ...]


class Seen(NamedTuple):
    """One box after the scrub: pixels as the detectors saw it, and how much of it was covered, 0..1."""

    kind: str
    size: float
    share: float


class Limit(NamedTuple):
    """At least this share of a kind's boxes of `size` pixels and more must be hidden."""

    kind: str
    size: float
    share: float


def read_boxes(path: Path) -> list[Annotated]:
    """`file,x,y,w,h[,kind]` or `file,xmin,ymin,xmax,ymax[,kind]`, UTF-8, columns named in the first row, in any order.

    `file` is a path below the audited folder. A row with a file alone is a picture with nothing in it; `kind` is face
    where it is left out; a kind that begins with "ignore" is neither to be hidden nor false. Raises Refused.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as f:
            rows = list(csv.reader(f))
    except OSError as e:
        raise Refused(f"cannot read {path}: {e.strerror}", code="not_found", exit_code=EXIT_NOT_FOUND) from e
    except (UnicodeDecodeError, csv.Error) as e:
        raise Refused(f"{path} is no CSV in UTF-8: {e}", code="bad_boxes") from e
    if not rows or "file" not in (names := [FILE.get(name := cell.strip().lower(), name) for cell in rows[0]]):
        raise Refused(f"{path}: the first row does not name the columns", hint="file,x,y,w,h,kind", code="bad_boxes")
    columns = CORNERS if set(CORNERS) <= set(names) else ENDS
    if not set(columns) <= set(names):
        raise Refused(f"{path} has neither {','.join(CORNERS)} nor {','.join(ENDS)}", code="bad_boxes")
    boxes: dict[str, list[tuple[str, float, float, float, float]]] = {}
    for number, row in enumerate(rows[1:], 2):
        cells = dict(zip(names, (cell.strip() for cell in row), strict=False))
        if not any(cells.values()):
            continue
        if not cells.get("file"):
            raise Refused(f"{path}:{number}: no file is named", code="bad_boxes")
        here = boxes.setdefault(cells["file"], [])
        if any(cells.get(name) for name in columns):
            here.append((cells.get("kind") or "face", *_corners(path, number, [cells.get(n, "") for n in columns])))
            if columns is ENDS:
                kind, x, y, right, bottom = here[-1]
                here[-1] = (kind, x, y, right - x, bottom - y)
            if not KIND.fullmatch(here[-1][0]):
                raise Refused(f"{path}:{number}: {here[-1][0]!r} is no kind", hint="face, plate, ...", code="bad_boxes")
            if here[-1][3] <= 0 or here[-1][4] <= 0:
                raise Refused(f"{path}:{number}: a box without an area", code="bad_boxes")
    return [
        Annotated(
            file,
            tuple(box for box in found if not box[0].startswith(IGNORE)),
            tuple(box[1:] for box in found if box[0].startswith(IGNORE)),
        )
        for file, found in boxes.items()
    ]


def _corners(path: Path, number: int, cells: Sequence[str]) -> tuple[float, float, float, float]:
    try:
        a, b, c, d = (float(cell) for cell in cells)
    except ValueError as e:
        raise Refused(f"{path}:{number}: {','.join(cells)!r} is no box", code="bad_boxes") from e
    if not all(math.isfinite(edge) and abs(edge) < 1e6 for edge in (a, b, c, d)):
        raise Refused(f"{path}:{number}: {','.join(cells)!r} is no box", code="bad_boxes")
    return a, b, c, d


def size_of(kind: str, w: float, h: float) -> float:
    """What counts as a box's size: a plate's width, else the shorter side."""
    return w if kind == "plate" else min(w, h)


def size_class(size: float) -> str:
    """ "under 8", "8-16", ..., "64+"."""
    if size < EDGES[0]:
        return f"under {EDGES[0]}"
    for low, high in pairwise(EDGES):
        if size < high:
            return f"{low}-{high}"
    return f"{EDGES[-1]}+"


def limit_of(text: str) -> Limit:
    """face=0.95, or face:16=0.95 for boxes of 16 pixels and more. Raises ValueError."""
    what, _, share = text.partition("=")
    kind, _, size = what.partition(":")
    limit = Limit(kind, float(size or 0), float(share))
    if not (kind and 0 <= limit.share <= 1 and limit.size >= 0):
        raise ValueError(text)
    return limit


class Audit:
    """Adds up pictures as they come back; `report` at any time."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.pictures = 0
        self.pixels = self.false_pixels = 0
        self.withheld: Counter[str] = Counter()
        self.ms: dict[str, list[float]] = {}

    def add(self, annotated: Annotated, got: GotAudit) -> None:
        """A picture that was delivered, or covered wholly because it could not be judged: that counts as withheld."""
        if got.unjudged:
            self.withheld[got.unjudged] += 1
            return
        self.pictures += 1
        self.pixels += got.width * got.height
        self.false_pixels += got.false_pixels
        for (kind, *_), (_, _, w, h), share in zip(annotated.boxes, got.boxes, got.shares, strict=True):
            self.seen.append(Seen(kind, size_of(kind, w, h), share))
        for stage, took in got.ms.items():
            self.ms.setdefault(stage, []).append(took)

    def hidden(self, kind: str, from_size: float = 0) -> tuple[int, int]:
        """(hidden, n) of a kind's boxes of this size and more."""
        return _count(s for s in self.seen if s.kind == kind and s.size >= from_size)

    def missed(self, limits: Sequence[Limit]) -> list[str]:
        """Which limits are not met, in words; a limit on boxes that are not there is not met."""
        out = []
        for kind, size, share in limits:
            hit, n = self.hidden(kind, size)
            what = f"{kind} of {size:g} pixels and more" if size else kind
            if n == 0:
                out.append(f"{what}: no such box was delivered")
            elif hit / n < share:
                out.append(f"{what}: {hit / n:.1%} of {n} hidden, wanted {share:.1%}")
        return out

    def report(self) -> dict[str, Any]:
        """Shares are 0..1, times milliseconds."""
        kinds: dict[str, Any] = {}
        for kind in sorted({seen.kind for seen in self.seen}):
            own = [seen for seen in self.seen if seen.kind == kind]
            classes = dict.fromkeys(size_class(s) for s in sorted(seen.size for seen in own))
            kinds[kind] = {
                "all": _figures(*_count(own)),
                "from_16": _figures(*self.hidden(kind, 16)),
                "from_32": _figures(*self.hidden(kind, 32)),
                "sizes": {c: _figures(*_count(s for s in own if size_class(s.size) == c)) for c in classes},
            }
        return {
            "pictures": self.pictures,
            "withheld": dict(self.withheld),
            "hidden": kinds,
            "false_area": self.false_pixels / self.pixels if self.pixels else None,
            "ms": {s: {"median": quantile(took, 0.5), "p95": quantile(took, 0.95)} for s, took in self.ms.items()},
        }


def quantile(values: Sequence[float], share: float) -> float:
    """The value that this share of the values does not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def table(report: dict[str, Any]) -> str:
    """The report for people."""
    lines = [f"{'kind':8} {'size':>9} {'hidden':>8} {'95 % interval':>17} {'n':>6}"]
    for kind, found in report["hidden"].items():
        rows = [("all", found["all"]), (">= 16", found["from_16"]), (">= 32", found["from_32"])]
        for size, f in (*found["sizes"].items(), *rows):
            if f["n"]:
                lines.append(f"{kind:8} {size:>9} {f['share']:8.1%} {f['low']:7.1%} to {f['high']:6.1%} {f['n']:6}")
    area = report["false_area"]
    lines += [
        "",
        f"false area   {'-' if area is None else f'{area:.2%}'} of {report['pictures']} pictures' area is covered"
        " although no annotated box, grown by the margin, reaches there",
        f"withheld     {', '.join(f'{n} {why}' for why, n in report['withheld'].items()) or 'none'}",
        "milliseconds " + ", ".join(f"{s} {t['median']:.0f} (p95 {t['p95']:.0f})" for s, t in report["ms"].items()),
    ]
    return "\n".join(lines)


def _count(seen: Iterable[Seen]) -> tuple[int, int]:
    shares = [one.share >= HIDDEN_FROM for one in seen]
    return sum(shares), len(shares)


def _figures(hidden: int, n: int) -> dict[str, Any]:
    low, high = wilson(hidden, n)
    return {"n": n, "hidden": hidden, "share": hidden / n if n else None, "low": low, "high": high}
