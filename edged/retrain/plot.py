"""Loss and accuracy over the epochs, as an SVG that needs no colours: every line has its name at its end and its own dash.

Pure. Colours of M. Okabe, K. Ito, "Color Universal Design", 2008. Guarantees: a well-formed document for any curve, also an
empty one; every point lies inside its frame.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

WIDTH, HEIGHT = 900, 330
TOP, BOTTOM = 74, HEIGHT - 44
_FRAMES = ((60, 400), (510, 810))  # left and right edge of the two panels
Row = Sequence[float]  # epoch, training loss, tune loss, tune accuracy


def curve(title: str, note: str, rows: Sequence[Row], kept: int = 0) -> str:
    """`kept`: the epoch whose weights were kept, 0 = unknown."""
    last = max((int(r[0]) for r in rows), default=1)
    top = max((v for r in rows for v in r[1:3] if math.isfinite(v)), default=1.0) or 1.0
    floor = math.floor(min((r[3] for r in rows), default=0.0) * 10 - 1e-9) / 10
    floor = min(0.9, max(0.0, floor))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" font-family="sans-serif"'
        ' font-size="13">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        f'<text x="20" y="24" font-size="16">{escape(title)}</text>',
        f'<text x="20" y="46" fill="#444">{escape(note)}</text>',
        *_panel(0, "loss", last, 0.0, top, kept, [
            ("training", "#0072B2", "", [(r[0], r[1]) for r in rows]),
            ("tuning", "#D55E00", "6 3", [(r[0], r[2]) for r in rows]),
        ]),
        *_panel(1, "accuracy, %", last, 100 * floor, 100.0, kept, [
            ("tuning", "#D55E00", "6 3", [(r[0], 100 * r[3]) for r in rows]),
        ]),
        "</svg>\n",
    ]  # fmt: skip
    return "\n".join(parts)


def _panel(
    at: int, what: str, last: int, low: float, high: float, kept: int,
    lines: list[tuple[str, str, str, list[tuple[float, float]]]],
) -> list[str]:  # fmt: skip
    left, right = _FRAMES[at]

    def x(epoch: float) -> float:
        return left + (right - left) * ((epoch - 1) / (last - 1) if last > 1 else 0.5)

    def y(value: float) -> float:
        return BOTTOM - (BOTTOM - TOP) * (min(max(value, low), high) - low) / (high - low)

    parts = [
        f'<text x="{left}" y="{TOP - 8}" fill="#444">{what}</text>',
        f'<rect x="{left}" y="{TOP}" width="{right - left}" height="{BOTTOM - TOP}" fill="none" stroke="#999"/>',
    ]
    for value in (low + (high - low) * i / 4 for i in range(5)):
        parts.append(f'<text x="{left - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.3g}</text>')
        parts.append(f'<path d="M{left} {y(value):.1f}H{right}" stroke="#ddd"/>')
    step = max(1, round(last / 6))
    parts += [
        f'<text x="{x(e):.1f}" y="{BOTTOM + 18}" text-anchor="middle">{e}</text>' for e in range(1, last + 1, step)
    ]
    parts.append(f'<text x="{(left + right) / 2:.0f}" y="{BOTTOM + 36}" text-anchor="middle" fill="#444">epoch</text>')
    if kept:
        parts.append(f'<path d="M{x(kept):.1f} {TOP}V{BOTTOM}" stroke="#000" stroke-dasharray="2 3"/>')
        parts.append(f'<text x="{x(kept):.1f}" y="{TOP - 8}" text-anchor="middle">kept</text>')
    ends: list[float] = []
    for name, colour, dash, points in lines:
        good = [(x(e), y(v)) for e, v in points if math.isfinite(v)]
        if not good:
            continue
        path = "L".join(f"{a:.1f} {b:.1f}" for a, b in good)
        parts.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}"/>')
        parts += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="2.5" fill="{colour}"/>' for a, b in good]
        end = good[-1][1]
        end += next((16.0 for other in ends if abs(other - end) < 14), 0.0)  # names do not stand on each other
        ends.append(end)
        parts.append(f'<text x="{right + 6}" y="{end + 4:.1f}" fill="{colour}">{name}</text>')
    return parts
