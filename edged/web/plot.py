"""Where things stand in the plot of accuracy over time; a template draws it as SVG. Pure geometry, in pixels.

Guarantees: every point lies inside the frame; cameras differ by the shape of their marks and the dash of their lines as
well as by colour. Does not guarantee that labels at the right end never touch: a legend names the cameras too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from edged.storage.trend import Point, Series
from edged.web.words import axis_time, percent

SHAPES = ("circle", "square", "triangle", "diamond", "cross")
COLOURS = 5  # classes c0..c4 of the style sheet
FEW = 10  # a point of fewer labels is not drawn: it would swing between 0 and 100 %
TICK_STEPS = (5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 7 * 86400)


@dataclass(frozen=True)
class Mark:
    """One point: its place, the path of its shape, and what it says."""

    x: float
    y: float
    path: str
    title: str


@dataclass(frozen=True)
class Line:
    """One camera. `colour` and `shape` are numbers and names of the style sheet."""

    camera: str
    name: str
    colour: int
    shape: str
    sample: str  # the shape's path around 0, 0, for the legend
    path: str
    marks: tuple[Mark, ...]


@dataclass(frozen=True)
class Tick:
    at: float
    text: str
    anchor: str = "middle"


@dataclass(frozen=True)
class Chart:
    """`releases`: x, number, state, text anchor."""

    width: int
    height: int
    left: float
    right: float
    top: float
    bottom: float
    lines: tuple[Line, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    releases: tuple[Tick, ...]


def chart(series: Series, names: Mapping[str, str], width: int, height: int) -> Chart | None:
    """None when there is nothing to draw: no point of FEW labels. The scale starts at the decade below the worst point and
    ends at 100 %."""
    drawn = {camera: tuple(p for p in line if p.n >= FEW) for camera, line in series.cameras.items()}
    if not any(drawn.values()):
        return None
    left, right, top, bottom = 50.0, width - 14.0, 26.0, height - 28.0
    worst = min(p.share for line in drawn.values() for p in line)
    floor = min(0.8, math.floor(worst * 10 - 1e-9) / 10) if worst > 0 else 0.0
    span = series.end - series.start

    def x(ts: float) -> float:
        return round(left + (right - left) * (ts - series.start) / span, 1)

    def y(share: float) -> float:
        return round(bottom - (bottom - top) * (share - floor) / (1 - floor), 1)

    lines = tuple(
        _line(i, camera, names.get(camera, camera), points, x, y)
        for i, (camera, points) in enumerate(drawn.items())
        if points
    )
    step = 0.1 if floor >= 0.5 else 0.2
    shares = [1 - i * step for i in range(int((1 - floor) / step + 1e-6) + 1)]
    return Chart(
        width, height, left, right, top, bottom, lines, _time_ticks(series, x, (right - left) / 90),
        tuple(Tick(y(s), f"{100 * s:.0f}") for s in shares),
        tuple(
            Tick(x(ts), f"release {n}" + (" halted" if state == "halted" else ""), "end" if x(ts) > right - 70 else "start")
            for ts, n, state in series.releases
        ),
    )  # fmt: skip


def _line(i: int, camera: str, name: str, points: tuple[Point, ...], x, y) -> Line:  # type: ignore[no-untyped-def]
    shape = SHAPES[i % len(SHAPES)]
    marks = tuple(
        Mark(
            x(p.ts), y(p.share), _shape(shape, x(p.ts), y(p.share)),
            f"{name}: {percent(p.share, 0)} ({p.right} of {p.n})",
        )
        for p in points
    )  # fmt: skip
    path = " ".join(f"{'M' if j == 0 else 'L'}{m.x:g},{m.y:g}" for j, m in enumerate(marks))
    return Line(camera, name, i % COLOURS, shape, _shape(shape, 0, 0), path, marks)


def _shape(shape: str, x: float, y: float) -> str:
    """An SVG path of about 8 px around a place."""
    r = 3.6
    if shape == "circle":
        return f"M{x - r:g},{y:g}a{r},{r} 0 1,0 {2 * r:g},0a{r},{r} 0 1,0 {-2 * r:g},0z"
    if shape == "square":
        return f"M{x - 3.2:g},{y - 3.2:g}h6.4v6.4h-6.4z"
    if shape == "triangle":
        return f"M{x:g},{y - 4.2:g}l4.2,7.4h-8.4z"
    if shape == "diamond":
        return f"M{x:g},{y - 4.6:g}l4.6,4.6l-4.6,4.6l-4.6,-4.6z"
    return f"M{x - 1.2:g},{y - 4:g}h2.4v2.8h2.8v2.4h-2.8v2.8h-2.4v-2.8h-2.8v-2.4h2.8z"


def _time_ticks(series: Series, x, most: float) -> tuple[Tick, ...]:  # type: ignore[no-untyped-def]
    span = series.end - series.start
    step = next((s for s in TICK_STEPS if span / s <= max(2.0, most)), TICK_STEPS[-1])
    first = math.ceil(series.start / step) * step
    times = [first + i * step for i in range(int((series.end - first) // step) + 1)]
    return tuple(Tick(x(t), axis_time(t, step)) for t in times)
