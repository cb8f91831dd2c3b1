"""Scores over samples as an SVG: one strip a stream, the onset and the line of the alarm drawn in."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from bench.chart import COLOURS
from bench.drifting.tell import Told

WIDTH, STRIP, LEFT, TOP = 900, 92, 60, 70
TOPMOST = 6.0
DASHES = {"confidence": "", "features": "6 3", "audit": "2 3"}
NAMES = {"confidence": "answers (KS)", "features": "pictures (MMD)", "audit": "audit labels (Page-Hinkley)"}
INK = {"confidence": COLOURS[4], "features": COLOURS[5], "audit": COLOURS[2]}


def draw(told: Sequence[Told]) -> str:
    """The first stream of each name, at the last window."""
    first: dict[str, Told] = {}
    for t in told:
        if t.window == told[-1].window:
            first.setdefault(t.name, t)
    height = TOP + STRIP * len(first) + 20
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img"',
        ' font-family="sans-serif" font-size="12">',
        "<title>Drift scores over samples, by stream</title>", f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
        f'<text x="20" y="24" font-size="16">Drift scores over samples, window {told[-1].window}; 1 is the line</text>',
    ]  # fmt: skip
    for i, (test, name) in enumerate(NAMES.items()):
        x = 20 + i * 200
        parts.append(
            f'<path d="M{x},44h30" stroke="{INK[test]}" stroke-width="2" stroke-dasharray="{DASHES[test]}"/>'
            f'<text x="{x + 36}" y="48">{name}</text>'
        )
    for i, t in enumerate(first.values()):
        parts += _strip(t, TOP + STRIP * i)
    return "\n".join([*parts, "</svg>\n"])


def _strip(t: Told, top: float) -> list[str]:
    bottom = top + STRIP - 26

    def x(n: float) -> float:
        return LEFT + (WIDTH - LEFT - 20) * n / t.n

    def y(score: float) -> float:
        return bottom - (bottom - top - 14) * (min(score, TOPMOST) / TOPMOST) ** 0.5

    after = "" if t.right_after is None else f", then {t.right_after:.0%}"
    delay = "" if t.onset is None else f"; alarm after {t.delay['any']}" if t.delay["any"] is not None else "; no alarm"
    parts = [
        f'<text x="{LEFT}" y="{top + 8:.0f}">{escape(t.name)}: {t.right_before:.0%} right{after}{delay}</text>',
        f'<path d="M{LEFT},{bottom}H{WIDTH - 20}" stroke="#999" fill="none"/>',
        f'<path d="M{LEFT},{y(1):.1f}H{WIDTH - 20}" stroke="#b3261e" stroke-dasharray="4 3" fill="none"/>',
        f'<text x="{LEFT - 6}" y="{y(1) + 4:.1f}" text-anchor="end">1</text>',
        f'<text x="{WIDTH - 20}" y="{bottom + 14:.0f}" text-anchor="end" fill="#444">{t.n} samples</text>',
    ]
    if t.onset is not None:
        parts.append(f'<path d="M{x(t.onset):.1f},{top + 14}V{bottom}" stroke="#000"/>')
    for test, points in t.scores.items():
        highest: dict[int, float] = {}
        for n, s in points:
            highest[n] = max(s, highest.get(n, 0.0))
        line = " ".join(f"{'ML'[i > 0]}{x(n):.1f},{y(s):.1f}" for i, (n, s) in enumerate(highest.items()))
        if line:
            parts.append(
                f'<path d="{line}" fill="none" stroke="{INK[test]}" stroke-width="1.4" stroke-dasharray="{DASHES[test]}"/>'
            )
    return parts
