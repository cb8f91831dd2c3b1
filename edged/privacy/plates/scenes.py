"""Scenes to train on: backgrounds, vehicles with drawn plates on them, clutter, light and the camera's faults.

Guarantees: the same generator state and backgrounds give the same scene; every plate that can be made out has its box,
every one that cannot (too small, cut off) has a box marked IGNORED. Photographs come from the caller and stay there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from edged.privacy.plates import clutter, render, vehicles
from edged.privacy.plates.vehicles import Drawn

Grey = NDArray[np.uint8]
Float = NDArray[np.float32]
Rng = np.random.Generator

SIDE = 256  # pixels of a cached scene; training cuts INPUT from it
WIDEST = 180  # of a plate, pixels at the network's input
NARROWEST = 15
PLATE, IGNORED = 1.0, -1.0
MOST = 6  # boxes a scene


class Scene(NamedTuple):
    """`boxes` float32 [MOST,5]: x, y, w, h in pixels and PLATE, IGNORED or 0 for none.

    `trust` is how far the absence of a box can be believed: 1 for drawn scenes, less where people drew the boxes.
    """

    luma: Grey
    boxes: Float
    trust: float


def drawn(rng: Rng, photos: Sequence[Grey], held_out: bool = False, side: int = SIDE, small: float = 1.0) -> Scene:
    """A scene of 0 to 3 plates on a photograph, or on a drawn ground where there is none."""
    luma = background(rng, photos, side)
    plates: list[tuple[float, float, float, float]] = []
    lamps: list[tuple[float, float, float]] = []
    night = rng.random() < 0.2
    for _ in range(int(rng.choice([0, 1, 2, 3], p=[0.12, 0.62, 0.2, 0.06]))):
        _vehicle(rng, luma, plates, lamps, photos, held_out, small)
    for _ in range(int(rng.integers(0, 5))):
        clutter.clutter(rng, luma, plates)
    luma = light(rng, luma, lamps, plates, night)
    return Scene(luma, table(plates, side), 1.0)


def background(rng: Rng, photos: Sequence[Grey], side: int) -> Grey:
    """[side,side] out of a photograph, at any size and mirrored or not."""
    if not photos or rng.random() < 0.12:
        return clutter.ground(rng, side)
    photo = photos[int(rng.integers(len(photos)))]
    h, w = photo.shape
    most = min(h, w)
    cut = int(np.clip(side * np.exp(rng.uniform(np.log(0.5), np.log(3.0))), 64, most))
    x, y = int(rng.integers(0, w - cut + 1)), int(rng.integers(0, h - cut + 1))
    piece = photo[y : y + cut, x : x + cut]
    how = cv2.INTER_AREA if cut > side else cv2.INTER_LINEAR
    piece = np.asarray(cv2.resize(piece, (side, side), interpolation=how), np.uint8)
    return np.ascontiguousarray(piece[:, ::-1]) if rng.random() < 0.5 else piece


def table(plates: Sequence[Sequence[float]], side: int) -> Float:
    """The boxes of Scene: cut to the picture, with what shows too little of a plate marked IGNORED."""
    out = np.zeros((MOST, 5), np.float32)
    for row, (x, y, w, h) in zip(out, plates, strict=False):
        x0, y0, x1, y1 = max(0.0, x), max(0.0, y), min(float(side), x + w), min(float(side), y + h)
        if x1 <= x0 or y1 <= y0:
            continue
        seen = (x1 - x0) * (y1 - y0) / (w * h)
        row[:] = x0, y0, x1 - x0, y1 - y0, PLATE if seen > 0.6 and w >= NARROWEST and h >= 4 else IGNORED
    return out


def _vehicle(
    rng: Rng,
    luma: Grey,
    plates: list[tuple[float, float, float, float]],
    lamps: list[tuple[float, float, float]],
    photos: Sequence[Grey],
    held_out: bool,
    small: float,
) -> None:
    """Draws a vehicle with a plate (sometimes without) and warps it into the picture by a turned plane."""
    side = luma.shape[0]
    kind = render.layout(rng, held_out)
    width = float(np.exp(rng.uniform(np.log(NARROWEST), np.log(WIDEST * small))))
    if kind.bike or kind.mm[0] < 350:
        width *= float(rng.uniform(0.6, 0.9))
    plate = render.plate(rng, kind, int(width * 1.6), held_out)
    scale = plate.luma.shape[1] / plate.mm[0]  # pixels a millimetre on the canvas
    how = rng.random()
    if how < 0.72 and width < 150:
        bare = None if rng.random() < 0.08 else plate
        drawing = vehicles.vehicle(rng, bare, scale, kind.bike and rng.random() < 0.8)
    elif how < 0.9:
        bare, drawing = plate, vehicles.mount(rng, plate, scale)
    else:
        bare = plate
        drawing = Drawn(plate.luma.astype(np.uint8), (plate.alpha * 255).astype(np.uint8), (0, 0), ())
    if drawing.at != (0, 0) and photos and rng.random() < 0.6:
        vehicles.mirror(rng, drawing, bare, photos[int(rng.integers(len(photos)))])
    pw, ph = plate.box[2:]
    x, y = drawing.at[0] + plate.box[0], drawing.at[1] + plate.box[1]
    corners = np.asarray([(x, y), (x + pw, y), (x + pw, y + ph), (x, y + ph)], np.float32)
    turned = _turn(rng, corners, width)
    spread = turned.max(0) - turned.min(0)
    margin = 0.15 * spread
    place = np.asarray([rng.uniform(-margin[i], side - spread[i] + margin[i]) for i in (0, 1)], np.float32)
    quad = turned - turned.min(0) + place
    box = (float(quad[:, 0].min()), float(quad[:, 1].min()), float(spread[0]), float(spread[1]))
    if any(_overlap(box, other) for other in plates):
        return
    matrix = cv2.getPerspectiveTransform(corners, quad.astype(np.float32))
    source, alpha = drawing.luma, drawing.alpha
    reduce = pw / max(1.0, width)
    if reduce > 1.3:  # against aliasing: the warp itself does not average
        blur = (reduce - 1) * 0.45
        source = np.asarray(cv2.GaussianBlur(source, (0, 0), blur), np.uint8)
        alpha = np.asarray(cv2.GaussianBlur(alpha, (0, 0), blur), np.uint8)
    warped = cv2.warpPerspective(source, matrix, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    mask = cv2.warpPerspective(alpha, matrix, (side, side), flags=cv2.INTER_LINEAR)
    covered = [
        other for other in plates
        if mask[max(0, int(other[1])) : int(other[1] + other[3]), max(0, int(other[0])) : int(other[0] + other[2])].any()
    ]  # fmt: skip
    if covered:
        return
    share = mask.astype(np.float32) / 255
    luma[:] = (luma + (warped.astype(np.float32) - luma) * share).astype(np.uint8)
    if bare is not None:
        plates.append(box)
    for lx, ly, radius in drawing.lamps:
        at = matrix @ np.asarray([lx, ly, 1.0])
        lamps.append((float(at[0] / at[2]), float(at[1] / at[2]), radius * width / pw))


def _turn(rng: Rng, corners: Float, width: float) -> Float:
    """The plate's corners after a turn in space, seen from a few metres, `width` pixels wide."""
    middle = corners.mean(0)
    flat = (corners - middle) / float(np.ptp(corners[:, 0]))
    yaw = float(np.clip(rng.normal(0, 22), -62, 62)) * np.pi / 180
    pitch, roll = (float(rng.normal(0, s)) * np.pi / 180 for s in (9, 4))
    if rng.random() < 0.1:
        roll *= 3
    x, y, z = flat[:, 0], flat[:, 1], np.zeros(4)
    x, z = x * np.cos(yaw), x * np.sin(yaw)
    y, z = y * np.cos(pitch) - z * np.sin(pitch), y * np.sin(pitch) + z * np.cos(pitch)
    x, y = x * np.cos(roll) - y * np.sin(roll), x * np.sin(roll) + y * np.cos(roll)
    depth = float(rng.uniform(4, 20))
    seen = np.stack([x, y], 1) * (depth / (depth + z))[:, None]
    return np.asarray(seen * width, np.float32)


def _overlap(a: Sequence[float], b: Sequence[float]) -> bool:
    return a[0] < b[0] + b[2] and b[0] < a[0] + a[2] and a[1] < b[1] + b[3] and b[1] < a[1] + a[3]


def light(
    rng: Rng,
    luma: Grey,
    lamps: Sequence[Sequence[float]],
    plates: Sequence[Sequence[float]],
    night: bool,
) -> Grey:
    """Shadows, night with lamps and bright plates, defocus, motion, noise: the picture as a camera gives it."""
    side = luma.shape[0]
    out = luma.astype(np.float32)
    if rng.random() < 0.25:  # a shadow's edge across everything
        cut = np.ones((side, side), np.float32)
        corners = rng.integers(-side // 2, side * 3 // 2, (4, 2)).astype(np.int32)
        cv2.fillPoly(cut, [corners], float(rng.uniform(0.35, 0.8)))
        out *= np.asarray(cv2.blur(cut, (5, 5)), np.float32)
    if night:
        out *= float(rng.uniform(0.12, 0.6))
        glow = np.zeros((side, side), np.float32)
        for x, y, w, h in plates:  # retro-reflection, or the plate's own lamp
            gain = float(rng.uniform(1, 4.5))
            x0, y0, x1, y1 = max(0, int(x)), max(0, int(y)), int(x + w), int(y + h)
            out[y0:y1, x0:x1] *= gain
        for x, y, radius in lamps:
            if rng.random() < 0.8 and -side < x < 2 * side and -side < y < 2 * side:
                cv2.circle(
                    glow,
                    (int(x), int(y)),
                    max(1, int(radius * rng.uniform(0.6, 1.3))),
                    float(rng.uniform(200, 900)),
                    -1,
                )
        if glow.any():
            reach = float(rng.uniform(2, 14))
            out += glow + np.asarray(cv2.GaussianBlur(glow, (0, 0), reach), np.float32) * float(rng.uniform(0.4, 1.5))
    if rng.random() < 0.3:
        out = np.asarray(cv2.GaussianBlur(out, (0, 0), float(rng.uniform(0.4, 1.6))), np.float32)
    if rng.random() < 0.15:
        length, angle = int(rng.integers(3, 10)), float(rng.uniform(0, np.pi))
        kernel = np.zeros((length * 2 + 1, length * 2 + 1), np.float32)
        dx, dy = np.cos(angle) * length / 2, np.sin(angle) * length / 2
        cv2.line(kernel, (round(length - dx), round(length - dy)), (round(length + dx), round(length + dy)), 1.0)
        out = np.asarray(cv2.filter2D(out, -1, kernel / kernel.sum()), np.float32)
    return np.clip(out, 0, 255).astype(np.uint8)
