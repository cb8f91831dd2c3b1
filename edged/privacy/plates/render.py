"""One drawn number plate: ground, band, frame, words, wear and light, in luma.

Guarantees: the same generator state gives the same plate. Numbers are random and of nobody. Shapes: luma float32 [h,w]
0..255, alpha float32 [h,w] 0..1 (rounded corners).
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from edged.privacy.plates import glyphs
from edged.privacy.plates.layouts import HELD_OUT, LAYOUTS, Layout

Float = NDArray[np.float32]
Rng = np.random.Generator

GROUNDS = {"light": (190, 250), "grey": (120, 185), "yellow": (150, 215), "dark": (8, 60), "mid": (50, 125)}


class Plate(NamedTuple):
    """A plate and its frame seen straight on; `mm` is the width and height of both in millimetres.

    `box` is x, y, w, h of the plate without its frame, in pixels.
    """

    luma: Float
    alpha: Float
    mm: tuple[int, int]
    layout: Layout
    box: tuple[int, int, int, int]


def layout(rng: Rng, held_out: bool = False, bike: bool | None = None) -> Layout:
    """Any layout, by how often it is to be drawn; `bike` asks for those of motorbikes or for the others."""
    of = [one for one in (HELD_OUT if held_out else LAYOUTS) if bike is None or one.bike == bike]
    often = np.asarray([one.often for one in of], float)
    return of[int(rng.choice(len(of), p=often / often.sum()))]


def plate(rng: Rng, kind: Layout, width: int, held_out: bool = False) -> Plate:
    """A plate of this layout, about `width` pixels wide (48 to 480)."""
    mm = (int(kind.mm[0] * rng.uniform(0.96, 1.04)), int(kind.mm[1] * rng.uniform(0.96, 1.05)))
    scale = float(np.clip(width, 48, 480)) / mm[0]
    w, h = max(24, round(mm[0] * scale)), max(10, round(mm[1] * scale))
    tone = kind.tones[int(rng.integers(len(kind.tones)))]
    luma, ink = _ground(rng, tone, w, h)
    inner = _band(rng, kind.band, luma)
    _words(rng, kind, luma, ink, inner, glyphs.Font(rng, held_out))
    _border(rng, luma, ink)
    luma, alpha, corner = _frame(rng, luma)
    _wear(rng, luma)
    outer = (round(luma.shape[1] / scale), round(luma.shape[0] / scale))
    return Plate(luma, alpha, outer, kind, (*corner, w, h))


def _ground(rng: Rng, tone: str, w: int, h: int) -> tuple[Float, float]:
    """An empty plate and the level of its ink."""
    if tone == "scene":
        level = float(rng.uniform(120, 235))
        luma = level + _clouds(rng, w, h, int(rng.integers(2, 6))) * float(rng.uniform(15, 70))
        if rng.random() < 0.5:
            luma += slope(rng, -50, 50, h)[:, None]
        if rng.random() < 0.4:  # a range of hills or a skyline
            top = h * rng.uniform(0.4, 0.8) + np.cumsum(rng.normal(0, h * 0.03, w))
            luma[np.arange(h)[:, None] > top[None]] -= rng.uniform(10, 60)
        ink = float(rng.uniform(5, 90)) if level > 110 else 245.0
        return np.clip(luma, 5, 255).astype(np.float32), ink
    level = float(rng.uniform(*GROUNDS[tone]))
    luma = np.full((h, w), level, np.float32)
    dark = tone in ("dark", "mid") or (tone == "grey" and level < 95)
    ink = float(rng.uniform(170, 250)) if dark else float(rng.uniform(5, min(95.0, level - 60)))
    return luma, ink


def _band(rng: Rng, where: str, luma: Float) -> tuple[int, int, int, int]:
    """Paints the coloured band and returns what is left for the number: left, top, right, bottom."""
    h, w = luma.shape
    left, top, right, bottom = (round(w * 0.03), round(h * 0.06), round(w * 0.97), round(h * 0.94))
    level, wide = float(rng.uniform(20, 90)), max(2, round(min(w * 0.13, h * rng.uniform(0.34, 0.42))))
    if where in ("left", "both") and rng.random() < 0.92:
        luma[:, :wide] = level
        if rng.random() < 0.7:
            cv2.circle(luma, (wide // 2, h // 3), max(1, wide // 4), level + 120, max(1, wide // 12), cv2.LINE_AA)
        letter = glyphs.Font(rng).word(str(rng.choice(list(glyphs.LETTERS))), max(3, h // 5))
        _stamp(luma, letter, wide // 2 - letter.shape[1] // 2, round(h * 0.68), 240.0)
        left = wide + round(w * 0.01)
    if where in ("right", "both") and rng.random() < 0.92:
        if where == "both" or rng.random() < 0.5:
            luma[:, w - wide :] = level
        else:
            luma[:, w - round(wide * 1.9)] = level
        right = w - wide - round(w * 0.01) if where == "both" else right
    if where == "top":
        high = max(2, round(h * rng.uniform(0.18, 0.26)))
        luma[:high] = level
        word = glyphs.Font(rng).word(
            str(rng.choice(["BRASIL", "ARGENTINA", "URUGUAY", "PARAGUAY"])), max(3, high * 2 // 3)
        )
        _stamp(luma, word, w // 2 - word.shape[1] // 2, high // 6, 235.0)
        top = high
    if where == "bottom":
        high = max(2, round(h * rng.uniform(0.12, 0.22)))
        luma[h - high :] = level
        bottom = h - high
    return left, top, right, bottom


def _words(
    rng: Rng, kind: Layout, luma: Float, ink: float, inner: tuple[int, int, int, int], font: glyphs.Font
) -> None:
    left, top, right, bottom = inner
    room = bottom - top
    small = max(3, round(luma.shape[0] * rng.uniform(0.09, 0.16)))
    for share, y in ((kind.small_top, top), (kind.small_bottom, bottom - small - 1)):
        if rng.random() < share:
            length = int(rng.integers(4, 18))
            text = "".join(rng.choice(list(glyphs.LETTERS + "   "), length))
            word = glyphs.Font(rng).word(text.strip() or "CITY", small)
            word = word[:, : max(1, right - left)]
            _stamp(
                luma,
                word,
                (left + right - word.shape[1]) // 2,
                y,
                ink if rng.random() < 0.7 else float(rng.uniform(20, 200)),
            )
    if rng.random() < kind.small_top:
        top += round(small * 0.8)
    if rng.random() < kind.small_bottom:
        bottom -= round(small * 0.8)
    heights = [max(4, round(luma.shape[0] * share * rng.uniform(0.92, 1.08))) for _, share in kind.rows]
    spare = max(0, (bottom - top if kind.small_top or kind.small_bottom else room) - sum(heights)) / (len(heights) + 1)
    y = top + spare
    shade = _emboss(rng)
    for (patterns, _), high in zip(kind.rows, heights, strict=True):
        mask = font.word(_fill(rng, str(rng.choice(list(patterns)))), high)
        room_x = max(8, right - left - 2)
        if mask.shape[1] > room_x * 0.96 or (mask.shape[1] < room_x * 0.55 and rng.random() < 0.6):
            goal = int(room_x * rng.uniform(0.8, 0.96))
            goal = min(goal, round(mask.shape[1] * 1.7))
            mask = np.asarray(cv2.resize(mask, (max(4, goal), high), interpolation=cv2.INTER_AREA), np.uint8)
        x = left + 1 + (room_x - mask.shape[1]) * (0.5 if rng.random() < 0.8 else rng.random())
        if shade:
            _stamp(luma, mask, int(x) + shade[0], int(y) + shade[1], shade[2])
        _stamp(luma, mask, int(x), int(y), ink)
        y += high + spare
    for _ in range(int(rng.integers(0, 3)) if rng.random() < 0.35 else 0):  # stickers and seals
        at = (int(rng.integers(left, max(left + 1, right))), int(rng.integers(top, max(top + 1, bottom))))
        cv2.circle(
            luma, at, max(1, int(luma.shape[0] * rng.uniform(0.04, 0.11))), float(rng.uniform(20, 240)), -1, cv2.LINE_AA
        )


def _fill(rng: Rng, pattern: str) -> str:
    signs = {"L": glyphs.LETTERS, "D": glyphs.DIGITS, "C": glyphs.CJK, "Y": glyphs.CYRILLIC}
    signs["X"] = glyphs.LETTERS + glyphs.DIGITS
    signs["."] = " "
    return "".join(str(rng.choice(list(signs[c]))) if c in signs else c for c in pattern)


def _emboss(rng: Rng) -> tuple[int, int, float] | None:
    """Offset and level of the light or dark edge beside stamped letters."""
    if rng.random() < 0.5:
        return None
    return int(rng.integers(-1, 2)), int(rng.integers(-1, 2)), float(rng.choice([40.0, 120.0, 255.0]))


def _stamp(luma: Float, mask: glyphs.Mask, x: int, y: int, level: float) -> None:
    h, w = luma.shape
    x0, y0, x1, y1 = max(0, x), max(0, y), min(w, x + mask.shape[1]), min(h, y + mask.shape[0])
    if x1 <= x0 or y1 <= y0:
        return
    share = mask[y0 - y : y1 - y, x0 - x : x1 - x].astype(np.float32) / 255
    luma[y0:y1, x0:x1] += (level - luma[y0:y1, x0:x1]) * share


def _border(rng: Rng, luma: Float, ink: float) -> None:
    if rng.random() < 0.55:
        h, w = luma.shape
        off, thick = int(rng.integers(0, max(1, h // 16) + 1)), max(1, round(h * rng.uniform(0.01, 0.045)))
        cv2.rectangle(luma, (off, off), (w - 1 - off, h - 1 - off), ink, thick, cv2.LINE_AA)
    for _ in range(int(rng.integers(0, 5)) if rng.random() < 0.5 else 0):  # screws
        at = (int(luma.shape[1] * rng.uniform(0.05, 0.95)), int(luma.shape[0] * rng.choice([0.1, 0.5, 0.9])))
        cv2.circle(luma, at, max(1, luma.shape[0] // 22), float(rng.uniform(10, 220)), -1, cv2.LINE_AA)


def _frame(rng: Rng, luma: Float) -> tuple[Float, Float, tuple[int, int]]:
    """A dealer's frame around some plates, often with words on it, the corners' alpha, and where the plate now lies."""
    corner = (0, 0)
    if rng.random() < 0.3:
        h, w = luma.shape
        sides = [round(h * v) for v in rng.uniform(0.02, 0.09, 4)]
        if rng.random() < 0.6:
            sides[3] = round(h * rng.uniform(0.08, 0.18))
        corner = (sides[0], sides[2])
        level = float(rng.choice([rng.uniform(5, 50), rng.uniform(5, 50), rng.uniform(150, 230)]))
        luma = np.pad(luma, ((sides[2], sides[3]), (sides[0], sides[1])), constant_values=level)
        if sides[3] > 4 and rng.random() < 0.7:
            word = glyphs.Font(rng).word(
                _fill(rng, str(rng.choice(["LLLLLLL", "LLLLL LLLLL", "LLLL DDDDDD"]))), sides[3] * 2 // 3
            )
            word = word[:, : luma.shape[1] - 4]
            _stamp(luma, word, (luma.shape[1] - word.shape[1]) // 2, luma.shape[0] - sides[3] * 5 // 6, 255.0 - level)
    h, w = luma.shape
    alpha = np.zeros((h, w), np.float32)
    r = int(h * rng.uniform(0.0, 0.14))
    cv2.rectangle(alpha, (r, 0), (w - 1 - r, h - 1), 1.0, -1)
    cv2.rectangle(alpha, (0, r), (w - 1, h - 1 - r), 1.0, -1)
    for x in (r, w - 1 - r):
        for y in (r, h - 1 - r):
            cv2.circle(alpha, (x, y), r, 1.0, -1, cv2.LINE_AA)
    return luma, alpha, corner


def _wear(rng: Rng, luma: Float) -> None:
    """Dirt, fading, a gradient of light and the edge of a shadow, in place."""
    h, w = luma.shape
    if rng.random() < 0.4:
        share = np.clip(_clouds(rng, w, h, int(rng.integers(2, 9))) * rng.uniform(0.2, 0.8), 0, 0.8)
        luma += (float(rng.uniform(40, 150)) - luma) * share
    if rng.random() < 0.3:  # faded: less contrast
        luma += (float(luma.mean()) - luma) * float(rng.uniform(0.1, 0.55))
    if rng.random() < 0.5:
        luma *= slope(rng, 0.75, 1.15, w)[None] * slope(rng, 0.75, 1.15, h)[:, None]
    if rng.random() < 0.22:
        cut = np.zeros((h, w), np.float32)
        corners = [(rng.uniform(-0.2, 1.2) * w, -2), (w * 2, -2), (w * 2, h + 2), (rng.uniform(-0.2, 1.2) * w, h + 2)]
        if rng.random() < 0.6:  # from above: the shadow of a bumper or of the boot's edge
            corners = [(-2, -2), (w + 2, -2), (w + 2, h * rng.uniform(0.1, 0.9)), (-2, h * rng.uniform(0.1, 0.9))]
        cv2.fillPoly(cut, [np.asarray(corners, np.int32)], 1.0)
        cut = np.asarray(cv2.blur(cut, (max(1, h // 10), max(1, h // 10))), np.float32)
        luma *= 1 - cut * float(rng.uniform(0.25, 0.7))
    np.clip(luma, 0, 255, out=luma)


def _clouds(rng: Rng, w: int, h: int, cells: int) -> Float:
    """Smooth noise of mean 0, about -1..1."""
    low = rng.normal(0, 0.7, (cells, cells * 3)).astype(np.float32)
    return np.asarray(cv2.resize(low, (w, h), interpolation=cv2.INTER_CUBIC), np.float32)


def slope(rng: Rng, low: float, high: float, length: int) -> Float:
    """A straight line [length] between two random levels."""
    return np.linspace(rng.uniform(low, high), rng.uniform(low, high), length, dtype=np.float32)
