"""How long a camera was without an answer by a model that works, by kind of bad model, as an SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from bench.chart import COLOURS

WIDTH, LEFT, TOP, ROW, BAR, LIMIT = 900, 170, 84, 34, 12, 60.0


def draw(measured: Mapping[str, Sequence[Mapping[str, Any]]], note: str) -> str:
    """`measured`: by broker, the documents of bad models (bench/fleets/bad.py) with `name` and `gap` in seconds."""
    names = [told["name"] for told in next(iter(measured.values()))]
    height = TOP + ROW * len(names) + 30
    scale = (WIDTH - LEFT - 70) / LIMIT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img"',
        ' font-family="sans-serif" font-size="12">', "<title>Seconds without a working model</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
        '<text x="20" y="24" font-size="16">Longest time that any camera gave no label by a model that works</text>',
        f'<text x="20" y="44" fill="#444">{escape(note)}</text>',
        f'<path d="M{LEFT + LIMIT * scale:.1f},{TOP - 10}V{height - 24}" stroke="#b3261e" stroke-dasharray="4 3"/>',
        f'<text x="{LEFT + LIMIT * scale:.1f}" y="{height - 8}" text-anchor="middle">60 s</text>',
    ]  # fmt: skip
    for i, broker in enumerate(measured):
        parts.append(f'<rect x="{20 + 160 * i}" y="54" width="{BAR}" height="{BAR}" fill="{COLOURS[i]}"/>')
        parts.append(f'<text x="{38 + 160 * i}" y="64">{escape(broker)}</text>')
    for i, name in enumerate(names):
        parts.append(f'<text x="{LEFT - 8}" y="{TOP + ROW * i + 16}" text-anchor="end">{escape(name)}</text>')
        for j, told in enumerate(measured.values()):
            gap = next((t["gap"] for t in told if t["name"] == name), None)
            if gap is None:
                continue
            y = TOP + ROW * i + (BAR + 1) * j
            parts.append(
                f'<rect x="{LEFT}" y="{y}" width="{gap * scale:.1f}" height="{BAR}" fill="{COLOURS[j]}"/>'
                f'<text x="{LEFT + gap * scale + 4:.1f}" y="{y + 10}">{gap:.1f}</text>'
            )
    return "\n".join([*parts, "</svg>\n"])


PANELS = (  # field of a release, title, of what a line is drawn
    ("copies_published", "copies published (2 are needed)", 2.0), ("last", "seconds until the last has it", None),
    ("broker_cpu_ms_per_mb", "ms of the broker's CPU a MB delivered", None),
)  # fmt: skip
PANEL, GAP, NAMES = 235, 30, 70


def crowd(measured: Mapping[str, Sequence[Mapping[str, Any]]], note: str) -> str:
    """`measured`: by broker, the documents of releases (bench/fleet.py). A figure that is None has no bar."""
    names = [told["step"] for told in next(iter(measured.values()))]
    height = TOP + 20 + ROW * len(names)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img"',
        ' font-family="sans-serif" font-size="12">', "<title>A release on many light cameras, by broker</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
        '<text x="20" y="24" font-size="16">What a release costs, by how it goes and by broker</text>',
        f'<text x="20" y="44" fill="#444">{escape(note)}</text>',
    ]  # fmt: skip
    for i, broker in enumerate(measured):
        parts.append(f'<rect x="{20 + 160 * i}" y="54" width="{BAR}" height="{BAR}" fill="{COLOURS[i]}"/>')
        parts.append(f'<text x="{38 + 160 * i}" y="64">{escape(broker)}</text>')
    for i, name in enumerate(names):
        parts.append(f'<text x="{NAMES - 8}" y="{TOP + 20 + ROW * i + 16}" text-anchor="end">{escape(name)}</text>')
    for k, (field, title, line) in enumerate(PANELS):
        left = NAMES + k * (PANEL + GAP)
        found = [(i, j, t.get(field)) for j, told in enumerate(measured.values()) for i, t in enumerate(told)]
        scale = (PANEL - 40) / max(v for _, _, v in found if v is not None)
        parts.append(f'<text x="{left}" y="{TOP + 6}">{escape(title)}</text>')
        if line is not None:
            x = left + line * scale
            parts.append(f'<path d="M{x:.1f},{TOP + 14}V{height - 6}" stroke="#b3261e" stroke-dasharray="4 3"/>')
        for i, j, value in found:
            if value is not None:
                y = TOP + 20 + ROW * i + (BAR + 1) * j
                parts.append(
                    f'<rect x="{left}" y="{y}" width="{value * scale:.1f}" height="{BAR}" fill="{COLOURS[j]}"/>'
                )
                parts.append(f'<text x="{left + value * scale + 4:.1f}" y="{y + 10}">{value:.3g}</text>')
    return "\n".join([*parts, "</svg>\n"])
