"""How the street's actors are painted: in world metres, through the camera's view, by the light where they stand."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from agent.scene_street import HEIGHT, WIDTH, Image, View

Box = tuple[int, int, int, int]  # x, y, w, h in pixels, inside the picture
Light = tuple[float, float, float]
Paint = tuple[float, float, float]  # BGR


class Brush:
    """Paints in world metres, relative to an actor at (x, z); `mirror` turns right to left. Remembers its extent."""

    def __init__(self, image: Image, view: View, x: float, z: float, light: Light, mirror: bool = False) -> None:
        self.image, self.view, self.x, self.z, self.light = image, view, x, z, light
        self.sign = -1.0 if mirror else 1.0
        self.low, self.high = np.array([np.inf, np.inf]), np.array([-np.inf, -np.inf])

    def at(self, x: float, y: float, z: float = 0.0) -> NDArray[np.float64]:
        point = np.array(self.view.point(self.x + self.sign * x, y, self.z + z))
        self.low, self.high = np.minimum(self.low, point), np.maximum(self.high, point)
        return point

    def size(self, metres: float, z: float = 0.0) -> float:
        return metres * self.view.scale(self.z + z)

    def lit(self, paint: Paint, glow: float = 0.0) -> tuple[float, float, float]:
        b, g, r = (min(255.0, c * min(1.0, k + glow)) for c, k in zip(paint, self.light, strict=True))
        return b, g, r

    def poly(self, world: Sequence[tuple[float, ...]], paint: Paint, *, hull: bool = False, glow: float = 0.0) -> None:
        points = np.asarray(np.array([self.at(*w) for w in world]) * 16, np.int32)
        if hull:
            points = np.asarray(cv2.convexHull(points), np.int32).reshape(-1, 2)
        cv2.fillPoly(self.image, [points], self.lit(paint, glow), cv2.LINE_AA, 4)

    def limb(self, joints: list[tuple[float, float]], wide: float, paint: Paint) -> None:
        """A bent, round-ended stroke through the joints, `wide` metres thick."""
        points = (np.array([self.at(*j) for j in joints]) * 16).astype(np.int32)
        cv2.polylines(
            self.image, [points], False, self.lit(paint), max(1, round(self.size(wide))), cv2.LINE_AA, 4
        )  # fmt: skip

    def oval(
        self, x: float, y: float, rx: float, ry: float, paint: Paint, *, z: float = 0.0, glow: float = 0.0
    ) -> None:
        centre = self.at(x, y, z)
        self.at(x - rx, y - ry, z), self.at(x + rx, y + ry, z)
        axes = (max(16, int(self.size(rx, z) * 16)), max(16, int(self.size(ry, z) * 16)))
        middle = (int(centre[0] * 16), int(centre[1] * 16))
        cv2.ellipse(self.image, middle, axes, 0, 0, 360, self.lit(paint, glow), -1, cv2.LINE_AA, 4)

    def box(self) -> Box:
        """The painted extent, cut to the picture; width or height 0 when nothing of it is in view."""
        x0, y0 = np.clip(np.floor(self.low), 0, (WIDTH, HEIGHT)).astype(int)
        x1, y1 = np.clip(np.ceil(self.high), 0, (WIDTH, HEIGHT)).astype(int)
        return int(x0), int(y0), int(x1 - x0), int(y1 - y0)


@lru_cache(maxsize=1)
def _blob() -> NDArray[np.float32]:
    """A soft round spot, 1 in the middle, 0 at the rim, 128x128."""
    yy, xx = np.mgrid[-1:1:128j, -1:1:128j]
    rim = np.clip(1 - np.sqrt(xx**2 + yy**2), 0, 1)
    return np.asarray(rim * rim * (3 - 2 * rim), np.float32)


def spot(image: Image, centre: tuple[float, float], rx: float, ry: float, paint: Paint) -> None:
    """Adds light (or, with negative values, takes it away in per cent of what is there) in a soft ellipse."""
    x0, y0, x1, y1 = int(centre[0] - rx), int(centre[1] - ry), int(centre[0] + rx), int(centre[1] + ry)
    cx0, cy0, cx1, cy1 = max(x0, 0), max(y0, 0), min(x1, WIDTH), min(y1, HEIGHT)
    if cx1 - cx0 < 2 or cy1 - cy0 < 2:
        return
    soft = cv2.resize(_blob(), (x1 - x0, y1 - y0))[cy0 - y0 : cy1 - y0, cx0 - x0 : cx1 - x0, None]
    there = image[cy0:cy1, cx0:cx1].astype(np.float32)
    there = there * (1 + soft * (min(paint) / 100)) if min(paint) < 0 else there + soft * np.array(paint, np.float32)
    image[cy0:cy1, cx0:cx1] = np.clip(there, 0, 255).astype(np.uint8)


def pick(rng: np.random.Generator, paints: tuple[Paint, ...]) -> Paint:
    b, g, r = np.clip(np.array(paints[int(rng.integers(len(paints)))]) * rng.uniform(0.85, 1.12), 8, 245)
    return float(b), float(g), float(r)


def tone(paint: Paint, factor: float) -> Paint:
    b, g, r = (min(250.0, c * factor) for c in paint)
    return b, g, r
