"""Vehicles, drawn flat around a plate: what a plate usually sits on, and what beside it must not be taken for one.

Shapes: luma and alpha uint8 [h,w], in the plane of the plate; `at` is where the plate's top left corner lies, pixels.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from edged.privacy.plates import glyphs
from edged.privacy.plates.render import Plate, slope

Grey = NDArray[np.uint8]
Rng = np.random.Generator


class Drawn(NamedTuple):
    """`lamps` are (x, y, radius) of lights, in pixels of the canvas."""

    luma: Grey
    alpha: Grey
    at: tuple[int, int]
    lamps: tuple[tuple[int, int, int], ...]


def vehicle(rng: Rng, plate: Plate | None, scale: float, bike: bool) -> Drawn:
    """A vehicle of a random make at `scale` pixels a millimetre; without a plate where there is none."""
    if bike:
        return _bike(rng, plate, scale)
    return _car(rng, plate, scale)


def mount(rng: Rng, plate: Plate, scale: float) -> Drawn:
    """Only the panel around a plate: bodywork, a seam or two, a recess."""
    w, h = int(plate.mm[0] * rng.uniform(1.3, 2.6) * scale), int(plate.mm[1] * rng.uniform(1.4, 3.5) * scale)
    luma = np.full((h, w), int(rng.uniform(5, 240)), np.uint8)
    _shade(rng, luma)
    at = (
        int((w - plate.luma.shape[1]) * rng.uniform(0.25, 0.75)),
        int((h - plate.luma.shape[0]) * rng.uniform(0.2, 0.8)),
    )
    at = (max(0, at[0]), max(0, at[1]))
    for _ in range(int(rng.integers(0, 4))):
        y = int(rng.integers(0, h))
        cv2.line(luma, (0, y), (w, y + int(rng.normal(0, h * 0.03))), int(rng.uniform(0, 255)), max(1, int(8 * scale)))
    _recess(rng, luma, at, plate)
    _put(luma, plate, at)
    return Drawn(luma, np.full((h, w), 255, np.uint8), at, ())


def _car(rng: Rng, plate: Plate | None, scale: float) -> Drawn:
    tall = rng.random() < 0.3  # vans, lorries, off-roaders
    wide, high = rng.uniform(1550, 2000), rng.uniform(1750, 2600) if tall else rng.uniform(1300, 1600)
    w, h = max(16, int(wide * scale)), max(12, int(high * scale))
    luma, alpha = np.zeros((h, w), np.uint8), np.zeros((h, w), np.uint8)
    body = int(np.clip(rng.choice([rng.uniform(8, 60), rng.uniform(60, 170), rng.uniform(180, 245)]), 0, 255))
    luma[:] = body
    _shade(rng, luma)
    roof = rng.uniform(0.0, 0.06) if tall else rng.uniform(0.1, 0.22)
    belt, floor = rng.uniform(0.34, 0.5), rng.uniform(0.88, 0.95)
    outline = [(roof, 0.03), (0.5, 0.0), (1 - roof, 0.03), (0.99, belt), (1, 0.7), (0.97, floor), (0.03, floor), (0, 0.7),
               (0.01, belt)]  # fmt: skip
    cv2.fillPoly(alpha, [_points(outline, w, h)], 255, cv2.LINE_AA)
    for side in (0.03, 0.83):  # wheels
        cv2.rectangle(alpha, _at(side, 0.8, w, h), _at(side + 0.13, 0.995, w, h), 255, -1)
        cv2.rectangle(luma, _at(side, floor - 0.02, w, h), _at(side + 0.13, 1.0, w, h), int(rng.uniform(5, 40)), -1)
    glass = [(roof + 0.05, 0.07), (0.95 - roof, 0.07), (0.93, belt - 0.03), (0.07, belt - 0.03)]
    if rng.random() < 0.85:
        cv2.fillPoly(luma, [_points(glass, w, h)], int(rng.uniform(5, 110)), cv2.LINE_AA)
        if rng.random() < 0.5:  # what the glass mirrors
            cv2.line(luma, _at(rng.uniform(0.2, 0.8), 0.08, w, h), _at(rng.uniform(0.1, 0.9), belt - 0.05, w, h),
                     int(rng.uniform(90, 230)), max(1, w // 40), cv2.LINE_AA)  # fmt: skip
    front = rng.random() < 0.45
    lamps = _lamps(rng, luma, w, h, belt, front)
    place = rng.uniform(0.55, 0.62) if not front and rng.random() < 0.5 else rng.uniform(0.68, 0.82)
    bumper = rng.uniform(0.66, 0.78)
    if rng.random() < 0.6:
        cv2.rectangle(luma, _at(0.02, bumper, w, h), _at(0.98, floor, w, h), int(rng.uniform(10, 230)), -1)
        cv2.line(luma, _at(0.02, bumper, w, h), _at(0.98, bumper, w, h), int(rng.uniform(5, 60)), max(1, h // 120))
    for _ in range(int(rng.integers(1, 4))):  # seams
        y = rng.uniform(belt, floor)
        cv2.line(luma, _at(0.05, y, w, h), _at(0.95, y, w, h), int(rng.uniform(5, 200)), max(1, h // 150))
    if (front and rng.random() < 0.9) or rng.random() < 0.15:
        _grille(rng, luma, w, h, belt + 0.02, rng.uniform(0.6, 0.72))
    if rng.random() < 0.5:
        _grille(rng, luma, w, h, rng.uniform(0.76, 0.82), floor - 0.01)
    _badges(rng, luma, w, h, belt, place)
    if tall and rng.random() < 0.5:
        _lettering(rng, luma, w, h)
    at = (0, 0)
    if plate is not None:
        off = 0.5 if rng.random() < 0.85 else rng.uniform(0.25, 0.75)
        at = (int(w * off - plate.luma.shape[1] / 2), int(h * place - plate.luma.shape[0] / 2))
        at = (max(0, min(at[0], w - plate.luma.shape[1])), max(0, min(at[1], h - plate.luma.shape[0])))
        _recess(rng, luma, at, plate)
        _put(luma, plate, at)
        if rng.random() < 0.08:
            _cover(rng, luma, at, plate)
    return Drawn(luma, alpha, at, tuple(lamps))


def _bike(rng: Rng, plate: Plate | None, scale: float) -> Drawn:
    w, h = max(12, int(rng.uniform(500, 800) * scale)), max(16, int(rng.uniform(1100, 1500) * scale))
    luma, alpha = np.full((h, w), int(rng.uniform(10, 60)), np.uint8), np.zeros((h, w), np.uint8)
    wheel = rng.uniform(0.12, 0.2)
    cv2.rectangle(alpha, _at(0.5 - wheel, 0.5, w, h), _at(0.5 + wheel, 1.0, w, h), 255, -1)
    cv2.ellipse(alpha, _at(0.5, 0.38, w, h), (int(w * 0.36), int(h * 0.3)), 0, 0, 360, 255, -1, cv2.LINE_AA)
    cv2.ellipse(luma, _at(0.5, 0.35, w, h), (int(w * 0.3), int(h * 0.2)), 0, 0, 360, int(rng.uniform(10, 230)), -1)
    for _ in range(int(rng.integers(3, 10))):  # pipes, springs, legs
        ends = rng.uniform(0.05, 0.95, 4)
        for canvas, level in ((luma, int(rng.uniform(10, 240))), (alpha, 255)):
            cv2.line(
                canvas,
                _at(ends[0], ends[1], w, h),
                _at(ends[2], ends[3], w, h),
                level,
                max(1, int(w * 0.05)),
                cv2.LINE_AA,
            )
    lamp = (w // 2, int(h * rng.uniform(0.3, 0.42)), max(2, int(w * 0.1)))
    cv2.circle(luma, lamp[:2], lamp[2], int(rng.uniform(60, 240)), -1, cv2.LINE_AA)
    at = (0, 0)
    if plate is not None:
        at = (max(0, (w - plate.luma.shape[1]) // 2), int(h * rng.uniform(0.45, 0.65)))
        at = (at[0], max(0, min(at[1], h - plate.luma.shape[0])))
        alpha[at[1] : at[1] + plate.luma.shape[0], at[0] : at[0] + plate.luma.shape[1]] = 255
        _put(luma, plate, at)
    return Drawn(luma, alpha, at, (lamp,))


def _lamps(rng: Rng, luma: Grey, w: int, h: int, belt: float, front: bool) -> list[tuple[int, int, int]]:
    y, high = rng.uniform(belt + 0.02, 0.6), rng.uniform(0.04, 0.16)
    inner, level = rng.uniform(0.13, 0.28), int(rng.uniform(150, 255) if front else rng.uniform(30, 200))
    lamps = []
    for mirror in (False, True):
        corners = [(0.02, y), (inner, y + rng.uniform(0, high / 2)), (inner * 0.9, y + high), (0.02, y + high)]
        if mirror:
            corners = [(1 - x, v) for x, v in corners]
        cv2.fillPoly(luma, [_points(corners, w, h)], level, cv2.LINE_AA)
        cv2.polylines(luma, [_points(corners, w, h)], True, int(rng.uniform(5, 90)), max(1, w // 250), cv2.LINE_AA)
        middle = _at((1 - inner / 2) if mirror else inner / 2, y + high / 2, w, h)
        radius = max(1, int(h * high * 0.35))
        cv2.circle(luma, middle, radius, min(255, level + 60), -1, cv2.LINE_AA)
        lamps.append((middle[0], middle[1], radius))
    return lamps


def _grille(rng: Rng, luma: Grey, w: int, h: int, top: float, bottom: float) -> None:
    inset, dark, light = rng.uniform(0.22, 0.36), int(rng.uniform(5, 50)), int(rng.uniform(50, 220))
    (x0, y0), (x1, y1) = _at(inset, top, w, h), _at(1 - inset, bottom, w, h)
    if y1 - y0 < 3 or x1 - x0 < 6:
        return
    cv2.rectangle(luma, (x0, y0), (x1, y1), dark, -1)
    bars, thick = int(rng.integers(3, 16)), max(1, (y1 - y0) // 14)
    style = int(rng.integers(4))
    for i in range(bars + 1):
        if style != 1:
            y = y0 + (y1 - y0) * i // bars
            cv2.line(luma, (x0, y), (x1, y), light, thick)
        if style in (1, 2):
            x = x0 + (x1 - x0) * i // bars
            cv2.line(luma, (x, y0), (x, y1), light, thick)
    if style == 3:
        cv2.rectangle(luma, (x0, y0), (x1, y1), light, thick + 1)


def _badges(rng: Rng, luma: Grey, w: int, h: int, belt: float, place: float) -> None:
    """The maker's mark and the model's name: letters on bodywork that are no plate."""
    ink = int(rng.uniform(130, 255)) if rng.random() < 0.7 else int(rng.uniform(5, 60))
    if rng.random() < 0.7:
        r = max(1, int(h * rng.uniform(0.015, 0.04)))
        cv2.circle(
            luma,
            _at(0.5, belt + rng.uniform(0.02, 0.1), w, h),
            r,
            ink,
            int(rng.choice([-1, max(1, r // 4)])),
            cv2.LINE_AA,
        )
    for _ in range(int(rng.integers(0, 4))):
        text = "".join(
            rng.choice(list(glyphs.LETTERS.lower() + glyphs.LETTERS + glyphs.DIGITS), int(rng.integers(2, 9)))
        )
        word = glyphs.Font(rng).word(text, max(3, int(h * rng.uniform(0.015, 0.04))))
        x, y = int(w * rng.uniform(0.08, 0.75)), int(h * rng.uniform(belt, min(0.9, place + 0.15)))
        stamp(luma, word, x, y, ink)


def _lettering(rng: Rng, luma: Grey, w: int, h: int) -> None:
    """A firm's name and telephone number on a van's door."""
    for i in range(int(rng.integers(1, 4))):
        text = "".join(
            rng.choice(list(glyphs.LETTERS.lower() + glyphs.DIGITS + "  "), int(rng.integers(5, 14)))
        ).strip()
        word = glyphs.Font(rng).word(text or "x", max(4, int(h * rng.uniform(0.03, 0.09))))
        stamp(luma, word, int(w * rng.uniform(0.1, 0.4)), int(h * (0.08 + 0.11 * i)), int(rng.uniform(0, 255)))


def stamp(luma: Grey, mask: glyphs.Mask, x: int, y: int, level: int) -> None:
    """Blends `level` into the picture under a mask, in place; what lies outside is cut off."""
    h, w = luma.shape
    x0, y0, x1, y1 = max(0, x), max(0, y), min(w, x + mask.shape[1]), min(h, y + mask.shape[0])
    if x1 > x0 and y1 > y0:
        share = mask[y0 - y : y1 - y, x0 - x : x1 - x].astype(np.float32) / 255
        part = luma[y0:y1, x0:x1]
        part[:] = (part + (level - part.astype(np.float32)) * share).astype(np.uint8)


def _recess(rng: Rng, luma: Grey, at: tuple[int, int], plate: Plate) -> None:
    """The darker or lighter field that many makers leave around the plate, and the lamp's shade above it."""
    if rng.random() < 0.6:
        ph, pw = plate.luma.shape
        grow = [int(ph * v) for v in rng.uniform(0.02, 0.5, 4)]
        corner, other = (at[0] - grow[0], at[1] - grow[1]), (at[0] + pw + grow[2], at[1] + ph + grow[3])
        cv2.rectangle(luma, corner, other, int(rng.choice([rng.uniform(5, 60), rng.uniform(60, 245)])), -1)
        if rng.random() < 0.5:
            cv2.rectangle(luma, corner, (other[0], at[1]), int(rng.uniform(5, 80)), -1)


def _put(luma: Grey, plate: Plate, at: tuple[int, int]) -> None:
    x, y = at
    part = luma[y : y + plate.luma.shape[0], x : x + plate.luma.shape[1]]
    ph, pw = part.shape
    alpha = plate.alpha[:ph, :pw]
    part[:] = (part + (plate.luma[:ph, :pw] - part) * alpha).astype(np.uint8)


def _shade(rng: Rng, luma: Grey) -> None:
    h, w = luma.shape
    light = slope(rng, 0.6, 1.25, h)[:, None] * slope(rng, 0.8, 1.15, w)[None]
    luma[:] = np.clip(luma * light, 0, 255).astype(np.uint8)


def mirror(rng: Rng, drawn: Drawn, plate: Plate | None, scene: Grey) -> None:
    """Lets the vehicle's paint and glass reflect a picture, in place; the plate does not."""
    h, w = drawn.luma.shape
    cut = int(min(scene.shape) * rng.uniform(0.3, 1.0))
    x, y = (int(rng.integers(0, side - cut + 1)) for side in scene.shape[::-1])
    seen = np.asarray(cv2.resize(scene[y : y + cut, x : x + cut], (w, h), interpolation=cv2.INTER_AREA), np.float32)
    share = float(rng.uniform(0.1, 0.5))
    new = drawn.luma * (1 - share * 0.6) + (seen - float(seen.mean())) * share * float(rng.uniform(0.4, 1.2))
    kept = None
    px, py = drawn.at
    if plate is not None:
        kept = drawn.luma[py : py + plate.luma.shape[0], px : px + plate.luma.shape[1]].copy()
    drawn.luma[:] = np.clip(new, 0, 255).astype(np.uint8)
    if kept is not None:
        drawn.luma[py : py + kept.shape[0], px : px + kept.shape[1]] = kept


def _cover(rng: Rng, luma: Grey, at: tuple[int, int], plate: Plate) -> None:
    """A tow bar, a rack's strut or a cable before a part of the plate."""
    h, w = plate.luma.shape
    x, wide = at[0] + int(rng.uniform(0.1, 0.9) * w), max(1, int(h * rng.uniform(0.05, 0.25)))
    lean = int(rng.normal(0, 0.2) * h)
    cv2.line(
        luma, (x, at[1] + int(h * rng.uniform(-0.2, 0.7))), (x + lean, at[1] + h * 2), int(rng.uniform(5, 120)), wide
    )


def _at(x: float, y: float, w: int, h: int) -> tuple[int, int]:
    return int(x * w), int(y * h)


def _points(corners: list[tuple[float, float]], w: int, h: int) -> NDArray[np.int32]:
    return np.asarray([_at(x, y, w, h) for x, y in corners], np.int32)
