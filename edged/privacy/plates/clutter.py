"""Drawn surroundings, and things that look like plates and are none: signs, fences, bricks, windows, clocks, road marks.

Everything draws into a luma picture uint8 [h,w] in place.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from edged.privacy.plates import glyphs
from edged.privacy.plates.render import slope
from edged.privacy.plates.vehicles import stamp

Grey = NDArray[np.uint8]
Rng = np.random.Generator
Box = tuple[float, float, float, float]


def ground(rng: Rng, side: int) -> Grey:
    """A street, wall or thicket [side,side] for want of a photograph."""
    level = rng.uniform(20, 220)
    luma = np.full((side, side), level, np.float32)
    luma += slope(rng, -60, 60, side)[:, None]
    for cells in (4, 12, 40):
        noise = rng.normal(0, rng.uniform(2, 22), (cells, cells)).astype(np.float32)
        luma += np.asarray(cv2.resize(noise, (side, side), interpolation=cv2.INTER_LINEAR), np.float32)
    out = np.clip(luma, 0, 255).astype(np.uint8)
    for _ in range(int(rng.integers(0, 14))):  # kerbs, houses, poles, leaves
        shape = int(rng.integers(3))
        x, y = (int(v) for v in rng.integers(-20, side, 2))
        tone = int(rng.uniform(5, 250))
        if shape == 0:
            cv2.rectangle(out, (x, y), (x + int(rng.integers(5, side)), y + int(rng.integers(5, side))), tone, -1)
        elif shape == 1:
            ends = rng.integers(0, side, 2)
            cv2.line(out, (x, y), (int(ends[0]), int(ends[1])), tone, int(rng.integers(1, 9)), cv2.LINE_AA)
        else:
            axes = (int(rng.integers(3, 60)), int(rng.integers(3, 60)))
            cv2.ellipse(out, (x, y), axes, float(rng.uniform(0, 180)), 0, 360, tone, -1, cv2.LINE_AA)
    return out


def clutter(rng: Rng, luma: Grey, taken: list[Box]) -> None:
    """Adds one thing that is no plate where it covers none of the boxes `taken`."""
    side = luma.shape[0]
    w = int(np.exp(rng.uniform(np.log(16), np.log(side * 0.9))))
    h = int(np.clip(w * np.exp(rng.uniform(np.log(0.1), np.log(1.6))), 6, side * 0.9))
    for _ in range(8):
        x, y = int(rng.integers(-w // 4, side - w // 2)), int(rng.integers(-h // 4, side - h // 2))
        if all(x > b[0] + b[2] or y > b[1] + b[3] or x + w < b[0] or y + h < b[1] for b in taken):
            break
    else:
        return
    thing = (
        _text_line
        if rng.random() < 0.4
        else (_sign, _bars, _bricks, _windows, _clock, _arrow, _blobs)[int(rng.integers(7))]
    )
    part = np.zeros((h, w), np.uint8)
    x0, y0, x1, y1 = max(0, x), max(0, y), min(side, x + w), min(side, y + h)
    if x1 - x0 < 4 or y1 - y0 < 4:
        return
    part = np.asarray(cv2.resize(luma[y0:y1, x0:x1], (w, h)), np.uint8)
    thing(rng, part)
    luma[y0:y1, x0:x1] = part[y0 - y : y1 - y, x0 - x : x1 - x]


def _text(rng: Rng, length: int) -> str:
    alphabet = glyphs.LETTERS.lower() * 3 + glyphs.LETTERS + glyphs.DIGITS + "    "
    return "".join(rng.choice(list(alphabet), length)).strip() or "shop"


def _text_line(rng: Rng, part: Grey) -> None:
    """Words straight on what is there: no field, no edge around them."""
    h, w = part.shape
    rows = 1 if h < 12 else int(rng.integers(1, 5))
    ink = int(rng.uniform(0, 90)) if part.mean() > 120 else int(rng.uniform(150, 255))
    for i in range(rows):
        word = glyphs.Font(rng).word(_text(rng, int(rng.integers(3, 22))), max(4, int(h / rows * 0.7)))
        stamp(part, word[:, :w], 0, int(h * i / rows), ink)


def _sign(rng: Rng, part: Grey) -> None:
    """A shop's or road's sign: words of several sizes, arrows, discs; mostly lower case, rarely one row of capitals."""
    h, w = part.shape
    level = int(rng.uniform(5, 250))
    ink = 255 - level if abs(level - 128) > 50 else int(rng.choice([5, 250]))
    round_one = rng.random() < 0.35
    if round_one:
        r = min(h, w) // 2
        cv2.circle(part, (w // 2, h // 2), r, level, -1, cv2.LINE_AA)
        cv2.circle(part, (w // 2, h // 2), max(1, r * 9 // 10), ink, max(1, r // 8), cv2.LINE_AA)
        word = glyphs.Font(rng).word(str(rng.choice(["30", "50", "70", "P", "80", "5t", "i"])), max(4, r * 4 // 5))
        stamp(part, word, (w - word.shape[1]) // 2, h // 2 - word.shape[0] // 2, ink)
        return
    part[:] = level
    if rng.random() < 0.5:
        cv2.rectangle(part, (1, 1), (w - 2, h - 2), ink, max(1, min(w, h) // 20))
    rows = max(1, min(int(rng.integers(1, 7)), h // 5))
    if w / h < 6 and rows < 2 and h >= 12:
        rows = 3  # a single row of capitals in a field of this shape would be a plate
    y = 1
    for _ in range(rows):
        high = max(4, int(h / rows * rng.uniform(0.4, 0.8)))
        word = glyphs.Font(rng).word(_text(rng, int(rng.integers(3, 26))), high)
        stamp(part, word[:, :w], int(rng.integers(0, max(1, w // 3))), y, ink)
        y += h // rows
    if rng.random() < 0.3:
        cv2.circle(part, (int(rng.integers(0, w)), h // 2), max(2, h // 4), ink, -1, cv2.LINE_AA)


def _bars(rng: Rng, part: Grey) -> None:
    h, w = part.shape
    dark, light = int(rng.uniform(0, 90)), int(rng.uniform(90, 250))
    pitch = int(rng.integers(3, 14))
    if rng.random() < 0.7:
        part[:] = dark
    across = rng.random() < 0.5
    for i in range(0, h if across else w, pitch):
        end = (w, i) if across else (i, h)
        cv2.line(part, (0, i) if across else (i, 0), end, light, max(1, pitch // 3))


def _bricks(rng: Rng, part: Grey) -> None:
    h, w = part.shape
    part[:] = int(rng.uniform(40, 200))
    high, joint = int(rng.integers(4, 18)), int(rng.uniform(90, 230))
    for row, y in enumerate(range(0, h, high)):
        cv2.line(part, (0, y), (w, y), joint, 1)
        for x in range(-(row % 2) * high, w, high * 2):
            cv2.line(part, (x, y), (x, y + high), joint, 1)


def _windows(rng: Rng, part: Grey) -> None:
    h, w = part.shape
    part[:] = int(rng.uniform(20, 230))
    nx, ny, level = int(rng.integers(1, 9)), int(rng.integers(1, 6)), int(rng.uniform(5, 250))
    gap = rng.uniform(0.1, 0.4)
    for i in range(nx):
        for j in range(ny):
            x, y = w * (i + gap / 2) / nx, h * (j + gap / 2) / ny
            size = (w * (1 - gap) / nx, h * (1 - gap) / ny)
            tone = level if rng.random() < 0.7 else int(rng.uniform(5, 250))
            cv2.rectangle(part, (int(x), int(y)), (int(x + size[0]), int(y + size[1])), tone, -1)


def _clock(rng: Rng, part: Grey) -> None:
    """A time stamp as recorders burn in."""
    h, w = part.shape
    text = "-".join(str(n) for n in rng.integers(10, 60, 3)) + "  " + " ".join(str(n) for n in rng.integers(10, 60, 3))
    word = glyphs.Font(rng).word(text, min(h, max(5, w // 12)))
    if rng.random() < 0.4:
        part[: word.shape[0] + 2] = 5
    stamp(part, word[:, :w], 0, 1, int(rng.uniform(180, 255)))


def _arrow(rng: Rng, part: Grey) -> None:
    h, w = part.shape
    tone = int(rng.uniform(170, 255))
    for i in range(int(rng.integers(1, 5))):
        x = w * i // 4
        corners = np.asarray([(x, h), (x + w // 9, h), (x + w // 5, 0), (x + w // 7, 0)], np.int32)
        cv2.fillPoly(part, [corners], tone, cv2.LINE_AA)


def _blobs(rng: Rng, part: Grey) -> None:
    """Lamps, reflectors, bright rectangles without any writing."""
    h, w = part.shape
    for _ in range(int(rng.integers(1, 5))):
        x, y, tone = int(rng.integers(0, w)), int(rng.integers(0, h)), int(rng.uniform(120, 255))
        if rng.random() < 0.5:
            cv2.rectangle(part, (x, y), (x + int(rng.integers(3, w + 3)), y + int(rng.integers(3, h + 3))), tone, -1)
        else:
            cv2.ellipse(part, (x, y), (max(2, w // 4), max(2, h // 4)), 0, 0, 360, tone, -1, cv2.LINE_AA)
