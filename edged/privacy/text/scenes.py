"""Pictures with text burned into them, drawn: names, dates, readings and scales as devices and recorders put them there.

Guarantees: the same generator state and backgrounds give the same scene. Each line is boxed in pieces about PIECE heights
long, so that one network can find short words and whole lines alike. What is written is random and of nobody.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from edged.privacy.plates import clutter, glyphs
from edged.privacy.plates.scenes import IGNORED, PLATE, SIDE, Grey, Rng, Scene, background
from edged.privacy.plates.vehicles import stamp

HERSHEY = (cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_PLAIN, cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_COMPLEX)
PIECE = 3.0  # heights of a line to a piece of it
MOST = 64  # pieces a scene
SMALLEST, LARGEST = 5, 44  # pixels of a capital's height at the network's input
Box = tuple[float, float, float, float]


def drawn(rng: Rng, photos: Sequence[Grey], held_out: bool = False, side: int = SIDE, small: float = 1.0) -> Scene:
    """A scene with 0 to 8 lines. The arguments are those of plates.scenes.drawn; `small` is of no use here."""
    luma = _scan(rng, side) if rng.random() < 0.3 else background(rng, photos, side)
    for _ in range(int(rng.integers(0, 4))):
        thing = (clutter._bars, clutter._bricks, clutter._windows, clutter._blobs, clutter._arrow)[int(rng.integers(5))]
        w, h = (int(np.exp(rng.uniform(np.log(12), np.log(side * 0.7)))) for _ in range(2))
        left, top = int(rng.integers(0, side - w)), int(rng.integers(0, side - h))
        part = luma[top : top + h, left : left + w].copy()
        thing(rng, part)
        luma[top : top + h, left : left + w] = part
    if rng.random() < 0.3:
        luma = (luma * rng.uniform(0.1, 0.7)).astype(np.uint8)
    pieces: list[Box] = []
    if rng.random() < 0.88:
        for _ in range(int(rng.integers(1, 4))):
            _paragraph(rng, luma, pieces, held_out)
    if rng.random() < 0.25:
        luma = np.asarray(cv2.GaussianBlur(luma, (0, 0), float(rng.uniform(0.3, 0.9))), np.uint8)
    boxes = np.zeros((MOST, 5), np.float32)
    for row, (x, y, wide, high) in zip(boxes, pieces, strict=False):
        x0, y0, x1, y1 = max(0.0, x), max(0.0, y), min(float(side), x + wide), min(float(side), y + high)
        if x1 > x0 and y1 > y0:
            enough = (x1 - x0) * (y1 - y0) > 0.5 * wide * high and high >= SMALLEST - 0.5
            row[:] = x0, y0, x1 - x0, y1 - y0, PLATE if enough else IGNORED
    return Scene(luma, boxes, 1.0)


def _paragraph(rng: Rng, luma: Grey, pieces: list[Box], held_out: bool) -> None:
    """One to five lines below each other, of one typeface, size and tone."""
    side = luma.shape[0]
    high = int(np.exp(rng.uniform(np.log(SMALLEST), np.log(LARGEST + 1))))
    x = int(rng.integers(-high * 2, side - high * 2))
    y = int(rng.integers(2, max(3, side - high - 2)))
    if rng.random() < 0.4:  # a corner, as recorders do
        x, y = int(rng.integers(1, 16)), int(rng.choice([rng.integers(1, 16), max(2, side - high * 2)]))
    face = _face(rng, held_out)
    face_weight = int(rng.integers(2, 9)) * 100
    stamped = glyphs.Font(rng, held_out)  # capitals of the stroke alphabet, for one line in four
    aspect, coarse = float(rng.uniform(0.65, 1.3)), rng.random() < 0.25
    capitals = rng.random() < 0.25
    style, tone = (
        int(rng.integers(4)),
        int(rng.choice([rng.integers(180, 256), rng.integers(180, 256), rng.integers(0, 70)])),
    )
    for _ in range(int(rng.integers(1, 6))):
        if y + high > side or len(pieces) >= MOST - 8:
            return
        words = _words(rng)
        if capitals:
            mask = stamped.word("".join(c if c.isalnum() else " " for c in words.upper()), high)
        else:
            mask = line(words, 8 if coarse else high, face, face_weight)
        wide, tall = max(2, round(mask.shape[1] * aspect)), mask.shape[0]
        if coarse and not capitals:  # the letters of a few dots that recorders have in memory
            mask = ((mask > 100) * 255).astype(np.uint8)
            wide, tall = max(2, round(wide * high / 8)), max(2, round(tall * high / 8))
        how = cv2.INTER_NEAREST if coarse and not capitals else cv2.INTER_AREA
        mask = np.asarray(cv2.resize(mask, (wide, tall), interpolation=how), np.uint8)[:, : side * 2]
        box = (x - 2, y - 2, mask.shape[1] + 4, mask.shape[0] + 4)
        if any(_touch(box, other) for other in pieces):
            return
        _write(rng, luma, mask, x, y, tone, style)
        pieces += cut(mask, x, y)
        y += int(high * rng.uniform(1.25, 2.0)) + 1


def _face(rng: Rng, held_out: bool) -> str | int:
    """The name of one of OpenCV's typefaces or the number of one of its Hershey fonts."""
    if held_out:
        return "uni" if glyphs.FACES else cv2.FONT_HERSHEY_TRIPLEX
    if glyphs.FACES and rng.random() < 0.55:
        return "italic" if rng.random() < 0.15 else "sans"
    return HERSHEY[int(rng.integers(len(HERSHEY)))]


def line(text: str, high: int, face: str | int, weight: int) -> glyphs.Mask:
    """A line of text as a mask, cut to its ink; capitals are about `high` pixels tall, drawn larger and averaged."""
    big = 3 if high < 16 else 2
    tall = high * big
    canvas = np.zeros((tall * 2, tall * (len(text) + 2)), np.uint8)
    at = (tall // 2, tall * 3 // 2)
    if isinstance(face, str):
        cv2.putText(canvas, text, at, 255, cv2.FontFace(face), round(tall * 1.3), weight)
    else:
        scale = tall / (9.5 if face == cv2.FONT_HERSHEY_PLAIN else 21.5)
        cv2.putText(canvas, text, at, face, scale, 255, max(1, round(tall * weight / 6000)), cv2.LINE_AA)
    rows, columns = np.flatnonzero(canvas.max(1)), np.flatnonzero(canvas.max(0))
    if len(rows) == 0:
        return np.zeros((1, 1), np.uint8)
    inked = canvas[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    size = (max(1, round(inked.shape[1] / big)), max(1, round(inked.shape[0] / big)))
    return np.asarray(cv2.resize(inked, size, interpolation=cv2.INTER_AREA), np.uint8)


def cut(mask: NDArray[np.uint8], x: int, y: int) -> list[Box]:
    """The boxes of a line's pieces: its inked parts, those nearer than a height joined, then cut to equal lengths."""
    high = mask.shape[0]
    inked = np.flatnonzero(mask.max(0) > 60)
    if len(inked) == 0:
        return []
    breaks = np.flatnonzero(np.diff(inked) > high * 0.8)
    starts, ends = np.r_[inked[0], inked[breaks + 1]], np.r_[inked[breaks], inked[-1]] + 1
    out: list[Box] = []
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        count = max(1, round((end - start) / (high * PIECE)))
        step = (end - start) / count
        out += [(x + start + i * step, float(y), step, float(high)) for i in range(count)]
    return out


def _write(rng: Rng, luma: Grey, mask: glyphs.Mask, x: int, y: int, tone: int, style: int) -> None:
    """Plain, on a bar, outlined, or half transparent."""
    h, w = mask.shape
    pad = max(1, h // 6)
    if style == 1:
        y0, x0 = max(0, y - pad), max(0, x - pad)
        luma[y0 : y + h + pad, x0 : max(0, x + w + pad)] = 255 - tone
    around = luma[max(0, y) : y + h, max(0, x) : max(1, x + w)]
    if style == 2 or (style != 1 and around.size and abs(float(around.mean()) - tone) < 60):
        size = max(3, h // 8 * 2 + 1)
        wide = cv2.dilate(np.pad(mask, pad), np.ones((size, size), np.uint8))
        stamp(luma, np.asarray(wide, np.uint8), x - pad, y - pad, 255 - tone)
    if style == 3:
        mask = (mask * float(rng.uniform(0.65, 1.0))).astype(np.uint8)
    stamp(luma, mask, x, y, tone)


def _words(rng: Rng) -> str:
    """A date, a time, a name, a reading or a line of words."""
    n = [int(v) for v in rng.integers(0, 60, 6)]
    letters = list(glyphs.LETTERS)

    def word(low: int, high: int) -> str:
        made = "".join(rng.choice(letters, int(rng.integers(low, high))))
        return made if rng.random() < 0.4 else made[0] + made[1:].lower()

    kind = int(rng.integers(7))
    if kind == 0:
        return f"{2000 + n[0]}-{n[1] % 12 + 1:02}-{n[2] % 28 + 1:02} {n[3] % 24:02}:{n[4]:02}:{n[5]:02}"
    if kind == 1:
        return f"{n[3] % 24:02}:{n[4]:02}" if rng.random() < 0.5 else f"{n[2]:02}.{n[1] % 12 + 1:02}.{1950 + n[0]}"
    if kind == 2:
        return f"{word(3, 10)}, {word(3, 9)}"
    if kind == 3:
        return f"ID {int(rng.integers(1000, 10_000_000))}"
    if kind == 4:
        return f"{word(1, 4)} {n[0]}.{n[1]} {rng.choice(['mm', 'cm', 'Hz', 'dB', 'bpm', '%', 'kV', 'mAs'])}"
    if kind == 5:
        return " ".join(word(1, 10) for _ in range(int(rng.integers(1, 6))))
    return word(1, 3) if rng.random() < 0.5 else word(4, 12)


def _scan(rng: Rng, side: int) -> Grey:
    """Something like an ultrasound fan or an X-ray: speckle and soft shapes on black."""
    speckle = rng.gamma(2.0, 1.0, (side // 2, side // 2)).astype(np.float32)
    soft = np.asarray(cv2.resize(rng.random((6, 6)).astype(np.float32), (side, side), interpolation=cv2.INTER_CUBIC))
    luma = np.asarray(cv2.resize(speckle, (side, side)), np.float32) * soft * float(rng.uniform(15, 60))
    if rng.random() < 0.5:
        luma = np.asarray(cv2.GaussianBlur(luma, (0, 0), float(rng.uniform(2, 8))), np.float32) * float(
            rng.uniform(1, 2.5)
        )
    fan = np.zeros((side, side), np.float32)
    turn = float(rng.uniform(0, 360))
    middle = (int(rng.integers(0, side)), int(rng.integers(-side // 4, side)))
    reach = int(side * rng.uniform(0.5, 1.3))
    cv2.ellipse(fan, middle, (reach, reach), turn, 0, float(rng.uniform(50, 360)), 1.0, -1)
    shown: Grey = np.clip(luma * fan + float(rng.uniform(0, 12)), 0, 255).astype(np.uint8)
    return shown


def _touch(a: Sequence[float], b: Sequence[float]) -> bool:
    return a[0] < b[0] + b[2] and b[0] < a[0] + a[2] and a[1] < b[1] + b[3] and b[1] < a[1] + a[3]
