"""Curves and heat maps as SVG, readable without colours: every curve is named at its end and has its own mark.

Colours are those of M. Okabe, K. Ito, "Color Universal Design", 2008.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from bench.chart import COLOURS

WIDTH, HEIGHT = 760, 440
LEFT, RIGHT, TOP, BOTTOM = 64, 190, 70, 52
MARKS = ("circle", "square", "diamond", "triangle")


@dataclass(frozen=True)
class Curve:
    """`points` (x, y, low, high): a mark with a bar from low to high; equal ones draw no bar."""

    name: str
    points: tuple[tuple[float, float, float, float], ...]
    joined: bool = True


def curves(
    title: str,
    note: str,
    given: Sequence[Curve],
    x_name: str,
    y_name: str,
    *,
    log_x: bool = False,
    percent: bool = True,
) -> str:
    """y is 0..1 when `percent`; the axis covers what there is, not always 0."""
    points = [p for c in given for p in c.points]
    if not points:
        raise ValueError("a chart of nothing")
    place = math.log10 if log_x else float
    x0, x1 = (f(place(p[0]) for p in points) for f in (min, max))
    y0, y1 = min(p[2] for p in points), max(p[3] for p in points)
    step = _step(y1 - y0 or abs(y1) or 1.0)
    y0, y1 = math.floor(y0 / step) * step, math.ceil(y1 / step) * step or step
    if percent:
        y1 = min(y1, 1.0)
    pad = 0.03 * ((x1 - x0) or 1)
    x0, x1 = x0 - pad, x1 + pad
    wide, high = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def at(x: float, y: float) -> tuple[float, float]:
        return LEFT + (place(x) - x0) / (x1 - x0) * wide, TOP + (y1 - y) / ((y1 - y0) or 1) * high

    out = []
    y = y0
    while y <= y1 + step / 9:
        _, py = at(points[0][0], y)
        word = f"{y:.1%}" if percent and step < 0.01 else (f"{y:.0%}" if percent else f"{y:g}")
        out.append(f'<path d="M{LEFT} {py:.1f} H{WIDTH - RIGHT}" stroke="#ddd"/>')
        out.append(f'<text x="{LEFT - 8}" y="{py + 4:.1f}" text-anchor="end">{word}</text>')
        y += step
    for x in _ticks(sorted({p[0] for p in points}), place, x0, x1):
        px, _ = at(x, y0)
        out.append(f'<path d="M{px:.1f} {TOP + high} v5" stroke="#555"/>')
        out.append(f'<text x="{px:.1f}" y="{TOP + high + 20}" text-anchor="middle">{x:g}</text>')
    taken: list[float] = []
    for i, curve in enumerate(given):
        colour, path = COLOURS[(4, 5, 2, 0, 6, 1, 7)[i % 7]], []
        for x, y, low, up in curve.points:
            px, py = at(x, y)
            path.append(f"{px:.1f} {py:.1f}")
            if up > low:
                out.append(f'<path d="M{px:.1f} {at(x, low)[1]:.1f} V{at(x, up)[1]:.1f}" stroke="{colour}"/>')
            out.append(_mark(MARKS[i % 4], px, py, colour, f"{curve.name}: {x:g}, {y:.4g}"))
        if curve.joined and len(path) > 1:
            out.append(f'<path d="M{" L".join(path)}" fill="none" stroke="{colour}" stroke-width="2"/>')
        if curve.points:
            ex, ey = at(*curve.points[-1][:2])
            ty = ey
            while any(abs(ty - other) < 15 for other in taken):
                ty += 15
            taken.append(ty)
            out.append(
                f'<path d="M{ex + 5:.1f} {ey:.1f} L{WIDTH - RIGHT + 6} {ty:.1f}" stroke="{colour}" opacity=".5"/>'
            )
            out.append(_mark(MARKS[i % 4], WIDTH - RIGHT + 12, ty, colour, ""))
            out.append(f'<text x="{WIDTH - RIGHT + 22}" y="{ty + 4:.1f}">{escape(curve.name)}</text>')
    out.append(f'<text x="{LEFT + wide / 2:.0f}" y="{HEIGHT - 12}" text-anchor="middle">{escape(x_name)}</text>')
    out.append(f'<text x="16" y="{TOP - 10}">{escape(y_name)}</text>')
    return _svg(title, note, out, WIDTH, HEIGHT)


def heat(
    title: str, note: str, rows: Sequence[str], columns: Sequence[str], cells: Sequence[Sequence[float | None]]
) -> str:
    """Shares 0..1 as cells with their figure in them; None is empty."""
    left, side, tall = 190, 92, 34
    width, height = max(720, left + side * len(columns) + 20), 90 + tall * len(rows) + 20
    known = [c for row in cells for c in row if c is not None]
    low = min([*known, 0.9])
    out = []
    for j, name in enumerate(columns):
        out.append(f'<text x="{left + side * j + side / 2}" y="80" text-anchor="middle">{escape(name)}</text>')
    for i, name in enumerate(rows):
        y = 90 + tall * i
        out.append(f'<text x="{left - 8}" y="{y + 22}" text-anchor="end">{escape(name)}</text>')
        for j, value in enumerate(cells[i]):
            if value is None:
                continue
            deep = (value - low) / ((1 - low) or 1)
            shade = "#{:02x}{:02x}{:02x}".format(*(round(255 + (c - 255) * deep) for c in (0, 114, 178)))
            x = left + side * j
            out.append(f'<rect x="{x}" y="{y}" width="{side - 2}" height="{tall - 2}" fill="{shade}"/>')
            ink = "#fff" if deep > 0.6 else "#000"
            out.append(
                f'<text x="{x + side / 2 - 1}" y="{y + 21}" text-anchor="middle" fill="{ink}">{value:.1%}</text>'
            )
    return _svg(title, note, out, width, height)


def _svg(title: str, note: str, parts: Sequence[str], width: int, height: int) -> str:
    return "\n".join((
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img"',
        ' font-family="sans-serif" font-size="13">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        f'<text x="16" y="24" font-size="16">{escape(title)}</text>',
        f'<text x="16" y="44" fill="#444">{escape(note)}</text>',
        *parts, "</svg>\n",
    ))  # fmt: skip


def _mark(kind: str, x: float, y: float, colour: str, said: str) -> str:
    title = f"<title>{escape(said)}</title>" if said else ""
    if kind == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" fill="{colour}">{title}</circle>'
    corners = {
        "square": ((-4, -4), (4, -4), (4, 4), (-4, 4)), "diamond": ((0, -6), (6, 0), (0, 6), (-6, 0)),
        "triangle": ((0, -5), (5, 4), (-5, 4)),
    }[kind]  # fmt: skip
    return f'<polygon points="{" ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in corners)}" fill="{colour}">{title}</polygon>'


def _step(span: float) -> float:
    """A round distance between four to nine lines."""
    size = 10 ** math.floor(math.log10(span / 4))
    return next(size * m for m in (1, 2, 2.5, 5, 10) if span / (size * m) <= 8)


def _ticks(values: Sequence[float], place: object, x0: float, x1: float) -> list[float]:
    """Those of the values that stand far enough apart to be read; of many values round figures between them instead."""
    if len(values) > 9 and values[0] > 0:
        first, last = (math.floor(math.log10(v)) for v in (values[0], values[-1]))
        rounds = [m * 10.0**k for k in range(first, last + 1) for m in (1, 2, 5)]
        values = [v for v in rounds if values[0] <= v <= values[-1]]
    chosen: list[float] = []
    for v in values:
        if not chosen or (place(v) - place(chosen[-1])) / (x1 - x0) > 0.07:  # type: ignore[operator]
            chosen.append(v)
    return chosen
