"""Faces and plates to be planted, each drawn large and by itself, to be shrunk into a scene.

Guarantees: the same state of the generator gives the same figure. The one photograph is in the public domain
(README.md beside this file); the other faces are drawings of nobody, the numbers on plates are random. Does not
guarantee: that a drawing is as hard to find as a face is; that is why the photograph is there.
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from edged.privacy.talk import Box

Rng = np.random.RandomState  # its streams are frozen (NEP 19), so that a seed gives the same picture for ever
Colour = tuple[int, int, int]  # BGR

# Fitzpatrick I to VI, roughly
SKINS: tuple[Colour, ...] = (
    (197, 214, 240), (160, 188, 226), (130, 162, 208), (100, 132, 184), (70, 98, 148), (52, 72, 110),
)  # fmt: skip
HAIRS: tuple[Colour, ...] = ((24, 24, 28), (34, 42, 58), (52, 74, 104), (92, 140, 178), (170, 172, 176))
CLOTHES: tuple[Colour, ...] = ((60, 40, 40), (120, 60, 30), (40, 40, 120), (50, 90, 60), (170, 160, 150), (30, 30, 34))

# Outline of head, collar and shoulders in astronaut.jpg, and her face in it.
_OUTLINE = (
    (127, 77), (132, 47), (157, 20), (197, 7), (237, 20), (264, 47), (272, 82), (264, 107), (252, 120), (240, 132),
    (234, 157), (258, 180), (276, 215), (276, 250), (318, 275), (332, 332), (0, 332), (17, 282), (72, 222), (86, 192),
    (112, 168), (157, 152), (152, 132), (144, 112),
)  # fmt: skip
_FACE: Box = (148, 60, 98, 122)


class Figure(NamedTuple):
    """`bgr` float32 [h,w,3] 0..255, `alpha` float32 [h,w] 0..1, `box` of what is private, in its pixels."""

    bgr: NDArray[np.float32]
    alpha: NDArray[np.float32]
    box: tuple[float, float, float, float]


def mirrored(figure: Figure) -> Figure:
    x, y, w, h = figure.box
    across = figure.alpha.shape[1]
    return Figure(figure.bgr[:, ::-1].copy(), figure.alpha[:, ::-1].copy(), (across - x - w, y, w, h))


@cache
def photograph() -> Figure:
    """The one real face, with its collar and shoulders."""
    data = resources.files("edged.privacy.planted").joinpath("astronaut.jpg").read_bytes()
    image = np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), np.float32)
    alpha = np.zeros(image.shape[:2], np.float32)
    cv2.fillPoly(alpha, [np.array(_OUTLINE, np.int32)], 1.0)
    alpha = np.asarray(cv2.GaussianBlur(alpha, (0, 0), 1.5), np.float32)
    return Figure(image, alpha, _FACE)


def drawing(rng: Rng) -> Figure:
    """A drawn face on shoulders: any skin, hair, clothes, side of light; its head a little tilted."""
    size = 100
    w, h, x, y = 360, 400, 180, 160
    skin, hair, cloth = (colours[rng.randint(len(colours))] for colours in (SKINS, HAIRS, CLOTHES))
    image = np.zeros((h, w, 3), np.uint8)
    alpha = np.zeros((h, w), np.uint8)

    def oval(dx: float, dy: float, rx: float, ry: float, colour: Colour, turn: int = 360) -> None:
        middle, radii = (x + round(dx * size), y + round(dy * size)), (round(rx * size), round(ry * size))
        thick = -1 if turn == 360 else 4
        cv2.ellipse(image, middle, radii, 0, 0, turn, colour, thick, cv2.LINE_AA)
        cv2.ellipse(alpha, middle, radii, 0, 0, turn, 255, thick, cv2.LINE_AA)

    wide = float(rng.uniform(0.66, 0.74))
    oval(0, 1.9, 1.5, 0.95, cloth)
    oval(0, 0.85, 0.35, 0.5, _shade(skin, 0.82))
    if rng.uniform() < 0.4:  # long hair
        oval(0, 0.25, 0.95, 1.15, hair)
    oval(0, -0.15, 0.8, 1.02, hair)
    oval(0, 0, wide, 0.95, skin)
    for side in (-0.3, 0.3):
        oval(side, -0.34, 0.2, 0.05, _shade(hair, 0.8))
        oval(side, -0.15, 0.15, 0.08, (225, 232, 238))
        oval(side, -0.15, 0.075, 0.075, (44, 38, 32))
        oval(side, -0.06, 0.15, 0.04, _shade(skin, 0.85))
    oval(0, 0.12, 0.07, 0.24, _shade(skin, 1.08))
    oval(0, 0.15, 0.12, 0.16, _shade(skin, 0.7), turn=180)
    smile = float(rng.uniform(0.06, 0.12))
    oval(0, 0.48, 0.28, smile, _mixed(skin, (70, 60, 160)))
    if rng.uniform() < 0.25:  # glasses
        for side in (-0.3, 0.3):
            cv2.ellipse(image, (x + round(side * size), y - 15), (24, 18), 0, 0, 360, (30, 30, 30), 4, cv2.LINE_AA)
        cv2.line(image, (x - 7, y - 17), (x + 7, y - 17), (30, 30, 30), 4, cv2.LINE_AA)
    soft = np.asarray(cv2.GaussianBlur(image, (0, 0), 4.0), np.float32)
    across = (np.arange(w) - x + float(rng.uniform(-0.3, 0.3)) * size) / size
    light = np.clip(1.12 - 0.4 * across**2, 0.45, 1.15).astype(np.float32)
    lit = np.clip(soft * light[None, :, None], 0, 255)
    turn = cv2.getRotationMatrix2D((x, y + 90), float(rng.uniform(-8, 8)), 1.0)
    bgr = np.asarray(cv2.warpAffine(lit, turn, (w, h), borderMode=cv2.BORDER_REPLICATE), np.float32)
    seen = np.asarray(cv2.warpAffine(alpha.astype(np.float32) / 255, turn, (w, h)), np.float32)
    moved = turn @ np.array([x, y, 1.0])
    return Figure(bgr, seen, (float(moved[0]) - wide * size, float(moved[1]) - 0.8 * size, 2 * wide * size, 175.0))


# Strokes of each sign through points of a grid of 5x7, "xy xy ...": the fonts of OpenCV change with its versions.
STROKES = {
    "A": "06 20 46,14 34", "B": "33 03 00 30 41 42 33 44 45 36 06 03", "C": "41 30 10 01 05 16 36 45",
    "D": "00 06 26 45 41 20 00", "E": "40 00 06 46,03 33", "F": "40 00 06,03 33",
    "G": "41 30 10 01 05 16 36 45 43 23", "H": "00 06,40 46,03 43", "J": "40 45 36 16 05", "K": "00 06,40 03 46",
    "L": "00 06 46", "M": "06 00 23 40 46", "N": "06 00 46 40", "P": "06 00 30 41 42 33 03",
    "R": "06 00 30 41 42 33 03,23 46", "S": "41 30 10 01 02 13 33 44 45 36 16 05", "T": "00 40,20 26",
    "U": "00 05 16 36 45 40", "V": "00 26 40", "W": "00 16 23 36 40", "X": "00 46,40 06", "Y": "00 23 40,23 26",
    "Z": "00 40 06 46", "0": "10 30 41 45 36 16 05 01 10", "1": "02 20 26", "2": "01 10 30 41 42 06 46",
    "3": "01 10 30 41 42 33 23,33 44 45 36 16 05", "4": "36 30 04 44", "5": "40 00 03 33 44 45 36 16 05",
    "6": "41 30 10 01 05 16 36 45 44 33 03", "7": "00 40 16",
    "8": "13 02 01 10 30 41 42 33 13 04 05 16 36 45 44 33", "9": "43 13 02 01 10 30 41 45 36 16 05",
}  # fmt: skip
LETTERS, DIGITS = "ABCDEFGHJKLMNPRSTUVWXYZ", "0123456789"
# ground and ink, pattern of the number, share of the width that a blue band at the left or a strip at the top takes
PLATES: tuple[tuple[Colour, Colour, str, float, float], ...] = (
    ((236, 238, 238), (30, 26, 26), "AA 000 A", 0.09, 0.0),
    ((236, 238, 238), (30, 26, 26), "A AA 0000", 0.09, 0.0),
    ((60, 200, 240), (24, 22, 22), "AA00 AAA", 0.0, 0.0),
    ((235, 236, 236), (28, 24, 24), "AAA0A00", 0.0, 0.2),
    ((232, 226, 214), (120, 50, 20), "000 AAA", 0.0, 0.0),
)


def plate(rng: Rng) -> Figure:
    """A plate on the dark rear of a car, seen a little from the side."""
    ground, ink, pattern, band, strip = PLATES[rng.randint(len(PLATES))]
    wide, high = 480, 108 if strip == 0 else 150
    tile = np.full((high, wide, 3), ground, np.uint8)
    left, top = round(band * wide), round(strip * high)
    tile[:, :left] = tile[:top] = (150, 60, 20)
    cv2.rectangle(tile, (2, 2), (wide - 3, high - 3), ink, 4)
    number = "".join(
        LETTERS[rng.randint(len(LETTERS))] if c == "A" else DIGITS[rng.randint(10)] if c == "0" else c for c in pattern
    )
    _write(tile, number, (left + 25, top + 18, wide - 20, high - 18), ink, int(rng.randint(8, 12)))
    canvas = np.zeros((high * 4, wide * 2, 3), np.float32)
    paint = np.array(CLOTHES[rng.randint(len(CLOTHES))], np.float32) * 0.8 + 8
    canvas[:] = paint * np.linspace(1.25, 0.7, high * 4, dtype=np.float32)[:, None, None]
    x, y = wide // 2, high * 3 // 2
    cv2.rectangle(canvas, (x - 20, y - 20), (x + wide + 20, y + high + 20), (paint * 0.45).tolist(), -1, cv2.LINE_AA)
    canvas[y : y + high, x : x + wide] = tile
    for side in (30, wide * 2 - 130):  # lamps
        cv2.rectangle(canvas, (side, 20), (side + 100, 90), (30, 24, 150), -1, cv2.LINE_AA)
    corners = np.array([[x, y], [x + wide, y], [x + wide, y + high], [x, y + high]], np.float32)
    moved = corners + rng.uniform(-0.07, 0.07, (4, 2)).astype(np.float32) * (wide * 0.5, high)
    skew = cv2.getPerspectiveTransform(corners, moved.astype(np.float32))
    size = (wide * 2, high * 4)
    bgr = np.asarray(cv2.warpPerspective(canvas, skew, size, borderMode=cv2.BORDER_REPLICATE), np.float32)
    alpha = np.ones((high * 4, wide * 2), np.float32)
    (x0, y0), (x1, y1) = moved.min(axis=0), moved.max(axis=0)
    return Figure(bgr, alpha, (float(x0), float(y0), float(x1 - x0), float(y1 - y0)))


def _write(tile: NDArray[np.uint8], text: str, room: Box, ink: Colour, thick: int) -> None:
    """Signs of equal width into a room (left, top, right, bottom), in place."""
    left, top, right, bottom = room
    step = (right - left) / len(text)
    for i, sign in enumerate(text):
        for stroke in filter(None, STROKES.get(sign, "").split(",")):
            at = np.array([(int(p[0]) / 4, int(p[1]) / 6) for p in stroke.split()])
            points = at * (step * 0.66, bottom - top) + (left + step * (i + 0.17), top)
            cv2.polylines(tile, [np.rint(points * 16).astype(np.int32)], False, ink, thick, cv2.LINE_AA, 4)


def _shade(colour: Colour, share: float) -> Colour:
    b, g, r = (min(255, round(c * share)) for c in colour)
    return b, g, r


def _mixed(one: Colour, other: Colour) -> Colour:
    b, g, r = ((a + c) // 2 for a, c in zip(one, other, strict=True))
    return b, g, r
