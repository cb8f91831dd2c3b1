"""Words as masks for drawn plates and signs: OpenCV's own typefaces, its Hershey fonts and a stroke alphabet.

Guarantees: the same generator state gives the same mask; no font file is read. OpenCV before 5 has no typefaces; the
stroke alphabet and Hershey take their place, so masks differ between the two.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.uint8]

TALL = 56  # pixels of a glyph in the cache

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
DIGITS = "0123456789"
CJK = "京津沪渝冀晋辽吉黑苏浙皖闽赣鲁豫鄂湘粤琼川贵云陕甘青品川横浜練馬多摩さすせそたちつてとなにぬのはひふほまみむめも"
CYRILLIC = "АВЕКМНОРСТУХ"
# Corners "xy" on a grid of 5 x 7 from the top left, strokes parted by "|": a plain condensed alphabet, such as stamps use.
STROKES = {
    "0": "10 30 41 45 36 16 05 01 10", "1": "11 20 26", "2": "01 10 30 41 42 06 46", "3": "00 40 22 32 43 45 36 16 05",
    "4": "30 04 44|32 36", "5": "40 00 02 32 43 45 36 16 05", "6": "40 10 01 05 16 36 45 43 33 03", "7": "00 40 16",
    "8": "10 30 41 42 33 13 02 01 10|13 04 05 16 36 45 44 33", "9": "06 36 45 41 30 10 01 02 13 43",
    "A": "06 20 46|14 34", "B": "00 30 41 42 33 03|33 44 45 36 06 00", "C": "41 30 10 01 05 16 36 45",
    "D": "00 30 41 45 36 06 00", "E": "40 00 06 46|03 33", "F": "40 00 06|03 33",
    "G": "41 30 10 01 05 16 36 45 43 23", "H": "00 06|40 46|03 43", "I": "20 26", "J": "40 45 36 16 05",
    "K": "00 06|40 03 46", "L": "00 06 46", "M": "06 00 23 40 46", "N": "06 00 46 40",
    "O": "10 30 41 45 36 16 05 01 10", "P": "06 00 30 41 42 33 03", "Q": "10 30 41 45 36 16 05 01 10|34 46",
    "R": "06 00 30 41 42 33 03|23 46", "S": "41 30 10 01 02 13 33 44 45 36 16 05", "T": "00 40|20 26",
    "U": "00 05 16 36 45 40", "V": "00 26 40", "W": "00 16 23 36 40", "X": "00 46|40 06", "Y": "00 23 40|23 26",
    "Z": "00 40 06 46", "-": "03 43",
}  # fmt: skip
FACES = ("sans", "italic", "uni") if hasattr(cv2, "FontFace") else ()
HERSHEY = (cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_COMPLEX, cv2.FONT_HERSHEY_TRIPLEX)


class Font:
    """One way to draw glyphs: a family, a weight 1..9 and the width of a glyph against its usual width."""

    def __init__(self, rng: np.random.Generator, held_out: bool = False) -> None:
        families = [f"face:{name}" for name in FACES] * 2 + ["stroke"] * 3 + [f"hershey:{n}" for n in HERSHEY]
        kept_back = {"face:uni", f"hershey:{cv2.FONT_HERSHEY_TRIPLEX}"}  # for the look-alike test only
        choice = [f for f in families if (f in kept_back) == held_out] or ["stroke"]
        self.family = choice[int(rng.integers(len(choice)))]
        self.weight = int(rng.integers(3, 9))
        self.aspect = float(rng.uniform(0.6, 1.05))
        self.gap = float(rng.uniform(0.06, 0.24))  # between glyphs, in heights

    def word(self, text: str, height: int) -> Mask:
        """Mask [height, as wide as it comes] of `text`, 0..255; a space is half a glyph."""
        height = max(3, height)
        parts = []
        space = np.zeros((TALL, max(1, int(TALL * self.gap))), np.uint8)
        for char in text:
            if char == " ":
                parts.append(np.zeros((TALL, TALL // 4), np.uint8))
                continue
            glyph = _glyph(self.family, self.weight, char)
            width = max(4, int(glyph.shape[1] * self.aspect))
            parts += [np.asarray(cv2.resize(glyph, (width, TALL), interpolation=cv2.INTER_AREA), np.uint8), space]
        row = np.hstack(parts[:-1] if parts else [space])
        width = max(1, round(row.shape[1] * height / TALL))
        return np.asarray(cv2.resize(row, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


@lru_cache(maxsize=4096)
def _glyph(family: str, weight: int, char: str) -> Mask:
    """One glyph, cut to its ink, TALL pixels high (a hyphen keeps its place)."""
    size = TALL * 2
    canvas = np.zeros((size * 2, size * 2), np.uint8)
    if char == "?":  # a sign of no script, for scripts that OpenCV cannot draw
        raise ValueError("draw unknown signs by `sign`")
    if family.startswith("face:") and hasattr(cv2, "FontFace"):
        face = cv2.FontFace(family[5:])
        cv2.putText(canvas, char, (size // 3, size + size // 3), 255, face, size, weight * 100)
    elif (family == "stroke" and char not in STROKES) or (family.startswith("hershey") and ord(char) > 126):
        return _glyph("face:uni", weight, char) if FACES else sign(ord(char), weight)
    elif family == "stroke":
        _strokes(canvas, STROKES[char], size, weight)
    else:
        cv2.putText(canvas, char, (20, size + 40), int(family[8:]), size / 26, 255, weight + 4, cv2.LINE_AA)
    if char == "-":
        columns = np.flatnonzero(canvas.max(0))
        rows = np.flatnonzero(canvas.max(1))
        if len(rows) == 0:
            return sign(45, weight)
        middle = int(rows.mean())
        canvas = canvas[max(0, middle - size // 2) : middle + size // 2, columns[0] : columns[-1] + 1]
    else:
        rows, columns = np.flatnonzero(canvas.max(1)), np.flatnonzero(canvas.max(0))
        if len(rows) == 0:
            return sign(ord(char), weight)
        canvas = canvas[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    width = max(6, round(canvas.shape[1] * TALL / canvas.shape[0]))
    return np.asarray(cv2.resize(canvas, (width, TALL), interpolation=cv2.INTER_AREA), np.uint8)


def _strokes(canvas: Mask, corners: str, size: int, weight: int) -> None:
    step_x, step_y, thick = size * 0.13, size / 6.0, 5 + weight * 2
    for stroke in corners.split("|"):
        points = [(30 + int(p[0]) * step_x, 30 + int(p[1]) * step_y) for p in stroke.split()]
        cv2.polylines(canvas, [np.asarray(points, np.int32)], False, 255, thick, cv2.LINE_AA)


def sign(seed: int, weight: int) -> Mask:
    """A made-up sign of a few strokes [TALL,TALL], in place of a script that cannot be drawn."""
    rng = np.random.default_rng(seed)
    canvas = np.zeros((TALL, TALL), np.uint8)
    for _ in range(int(rng.integers(2, 6))):
        points = rng.integers(4, TALL - 4, (int(rng.integers(2, 4)), 2)).astype(np.int32)
        cv2.polylines(canvas, [points], False, 255, 2 + weight // 2, cv2.LINE_AA)
    return canvas
