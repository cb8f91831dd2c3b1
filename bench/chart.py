"""One stacked bar as an SVG, to be read without colours: every part has its name and figure in it or on a line to it.

The colours are those of M. Okabe, K. Ito, "Color Universal Design", 2008, which most colour-blind people tell apart; parts
are also divided by a white gap, and stand in the order of the table.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7", "#999999")
DARK = {"#0072B2", "#D55E00", "#009E73"}  # white letters on these
WIDTH, BAR, LEFT, TOP = 900, 56, 20, 64
LETTER = 7.2  # px that a letter takes at 13 px
LABEL = 20  # px between the lines of what stands below


def stacked_bar(title: str, note: str, parts: Sequence[tuple[str, float]], unit: str) -> str:
    """`parts` are names and amounts > 0, in order; what is too narrow for its name is named below the bar."""
    total = sum(amount for _, amount in parts)
    scale = (WIDTH - 2 * LEFT) / total
    bars, below = [], []
    x = float(LEFT)
    for i, (name, amount) in enumerate(parts):
        colour, width = COLOURS[i % len(COLOURS)], amount * scale
        text = f"{name} {amount:.3g} {unit}, {amount / total:.1%}"
        bars.append(
            f'<rect x="{x:.1f}" y="{TOP}" width="{max(width - 1.5, 0.5):.1f}" height="{BAR}" fill="{colour}">'
            f"<title>{escape(text)}</title></rect>"
        )
        short = f"{name} {amount / total:.0%}"
        if width > LETTER * len(short) + 8:
            ink = "#fff" if colour in DARK else "#000"
            bars.append(
                f'<text x="{x + width / 2:.1f}" y="{TOP + BAR / 2 + 5:.0f}" fill="{ink}" text-anchor="middle">'
                f"{escape(short)}</text>"
            )
        else:
            below.append((x + width / 2, text))
        x += width
    lines, y = [], TOP + BAR + 26.0
    for at, text in below:
        right = at + 10 + LETTER * len(text) > WIDTH - LEFT
        end = at - 8 if right else at + 8
        lines.append(
            f'<path d="M{at:.1f} {TOP + BAR} V{y - 4:.0f} H{end:.1f}" fill="none" stroke="#555"/>'
            f'<text x="{end - 3 if right else end + 3:.1f}" y="{y:.0f}" text-anchor="{"end" if right else "start"}">'
            f"{escape(text)}</text>"
        )
        y += LABEL
    height = int(y + 8)
    return "\n".join((
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img"',
        ' font-family="sans-serif" font-size="13">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
        f'<text x="{LEFT}" y="24" font-size="16">{escape(title)}</text>',
        f'<text x="{LEFT}" y="46" fill="#444">{escape(note)}</text>',
        *bars, *lines, "</svg>\n",
    ))  # fmt: skip
