"""What the re-test of a candidate found, for its fragment: the matrix of answers and the speed by regions as drawings, the rest
as numbers that say how they came about. Rows in, frozen values out; geometry in pixels, a template draws it as SVG.

Guarantees: every number of the matrix stands in its cell, so that shade is never alone; a speed's whisker is the interval of
the report. Does not guarantee a matrix for more than MOST classes: it would be too small to read; the table by class has them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from edged.retrain.report import Number, Report
from edged.storage import reports
from edged.storage.store import Store
from edged.web.words import percent

MOST = 12  # classes of a matrix
CELL, LABEL = 40, 92
BAR, LEFT, RIGHT = 30, 74, 318


@dataclass(frozen=True)
class Cell:
    """`shade` 0..1: the share of its row."""

    x: int
    y: int
    n: int
    shade: float
    right: bool


@dataclass(frozen=True)
class Matrix:
    """`rows` and `columns`: (place, class)."""

    width: int
    height: int
    cells: tuple[Cell, ...]
    rows: tuple[tuple[int, str], ...]
    columns: tuple[tuple[int, str], ...]
    empty: int  # answers that are no class of the task


@dataclass(frozen=True)
class Bar:
    """Frames/s with so many regions; x in pixels, the whisker from `low` to `high`."""

    y: int
    text: str
    end: float
    low: float
    high: float
    said: str


@dataclass(frozen=True)
class Speed:
    height: int
    bars: tuple[Bar, ...]
    needed: float | None  # x of what the gate asks for


@dataclass(frozen=True)
class Found:
    report: Report
    matrix: Matrix | None
    speed: Speed | None
    numbers: tuple[tuple[str, str, str], ...]  # what, how much, how


def of(store: Store, candidates: Iterable[int], gate: Mapping[str, Any]) -> dict[int, Found]:
    """By candidate, of those that have a report this edged can read."""
    found = {}
    for id in candidates:
        for row in reports.of(store, id)[:1]:
            try:
                report = msgspec.json.decode(row.body, type=Report)
            except msgspec.MsgspecError:  # of a much older edged
                continue
            found[id] = Found(report, matrix(report), speed(report, float(gate.get("min_fps") or 0)), _numbers(report))
    return found


def matrix(report: Report) -> Matrix | None:
    """None where there is nothing to draw, or too much."""
    n = len(report.classes)
    if not 2 <= n <= MOST or len(report.confusion) != n or not sum(map(sum, report.confusion)):
        return None
    cells = []
    for i, row in enumerate(report.confusion):
        for j, count in enumerate(row):
            shade = count / sum(row) if sum(row) else 0.0
            cells.append(Cell(LABEL + j * CELL, CELL + i * CELL, count, round(shade, 3), i == j))
    places = tuple((CELL // 2 + i * CELL, _short(name)) for i, name in enumerate(report.classes))
    missing = report.n - sum(map(sum, report.confusion))
    return Matrix(LABEL + n * CELL, CELL + n * CELL, tuple(cells), places, places, missing)


def speed(report: Report, least: float) -> Speed | None:
    known = {k: v for k, v in report.fps_regions.items() if v.how != "unknown"}
    if not known:
        return None
    top = max([least, *(v.upper or v.value for v in known.values())]) or 1.0

    def at(fps: float) -> float:
        return round(LEFT + (RIGHT - LEFT) * min(fps, top) / top, 1)

    bars = []
    for i, (k, v) in enumerate(sorted(known.items())):
        low, high = v.lower if v.lower is not None else v.value, v.upper if v.upper is not None else v.value
        text = f"{k} region" + ("s" if k != "1" else "")
        said = f"{text}: {v.value:.0f} frames/s ({v.how}), {low:.0f} to {high:.0f}"
        bars.append(Bar(8 + i * BAR, text, at(v.value), at(low), at(high), said))
    return Speed(16 + len(bars) * BAR, tuple(bars), at(least) if least else None)


def _numbers(r: Report) -> tuple[tuple[str, str, str], ...]:
    found = [
        ("Time of a frame, median", _ms(r.latency_ms_p50), f"{r.latency_ms_p50.how}, here, four regions"),
        ("Time of a frame, 95 of 100", _ms(r.latency_ms_p95), f"{r.latency_ms_p95.how}, here, four regions"),
    ]
    if r.cold_start_ms is not None:
        found.append(("Cold start", _ms(r.cold_start_ms), f"{r.cold_start_ms.how}, here"))
    found.append(("Memory", f"{r.memory_bytes.value / 1e6:.0f} MB", f"{r.memory_bytes.how}, the most that was held"))
    if r.power_w is not None:
        found.append(("Power", f"{r.power_w.value:.1f} W", f"{r.power_w.how}: {r.power_w.basis}"))
    found.append(("File", f"{r.size / 1e6:.2f} MB", "as it runs"))
    if r.size_packed:
        what = "for storage and transport; it runs no faster for it"
        found.append(("Packed", f"{r.size_packed / 1e6:.2f} MB", f"{r.size / r.size_packed:.1f} times smaller; {what}"))
    if r.pinned is not None and r.pinned.n:
        found.append(("Pinned pictures", f"{r.pinned.right} of {r.pinned.n} right", ", ".join(r.pinned.failed[:3])))
    if r.not_numbers:
        found.append(("Not a number", percent(r.not_numbers / r.n), "of the answers"))
    return tuple(found)


def _ms(number: Number) -> str:
    return f"{number.value:.1f} ms"


def _short(name: str) -> str:
    return name if len(name) <= 11 else f"{name[:10]}…"
