"""The still part of the generated street: geometry, facades, road, lamps, by day and by night.

Guarantees: the same variant gives the same pixels; numpy and OpenCV only. Does not guarantee: any likeness to a
real place, or physical light; it is made to look like a fixed camera's picture and to drift like one.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

Phase = Literal["day", "night"]
Colour = tuple[int, int, int]  # BGR, 0..255
Image = NDArray[np.uint8]

WIDTH, HEIGHT = 1280, 720
KERB = 3.2  # half the road's width in metres
WALL = 5.1  # distance of the facades from the middle of the road, metres
CROSSING = (5.0, 7.3)  # the zebra's near and far edge, metres from the camera
FAR = 52.0  # where the street ends, metres


@dataclass(frozen=True)
class View:
    """A level pinhole camera. World in metres: x right of the road's middle, y above ground, z ahead of the lens."""

    vanish_x: float = 640.0
    horizon: float = 212.0
    height: float = 2.6  # of the lens above the ground, metres
    focal: float = 900.0  # pixels

    def scale(self, z: float) -> float:
        """Pixels per metre at distance z."""
        return self.focal / z

    def point(self, x: float, y: float, z: float) -> tuple[float, float]:
        p = self.focal / max(z, 0.5)
        return self.vanish_x + x * p, self.horizon + (self.height - y) * p

    def points(self, world: list[tuple[float, float, float]]) -> NDArray[np.float64]:
        return np.array([self.point(*w) for w in world])


# Each variant is another place: where the camera hangs and what the facades are made of (BGR).
VARIANTS: dict[str, tuple[View, tuple[Colour, ...]]] = {
    "north": (View(), ((92, 112, 150), (128, 150, 168), (150, 160, 168), (104, 128, 142), (120, 128, 160))),
    "south": (View(vanish_x=590, horizon=222), ((150, 150, 146), (120, 132, 138), (96, 110, 128), (158, 166, 172))),
    "gate": (View(vanish_x=690, horizon=206), ((84, 96, 140), (108, 118, 128), (140, 152, 160), (88, 104, 116))),
    "yard": (View(vanish_x=615, horizon=216), ((120, 140, 176), (96, 104, 112), (160, 168, 176), (110, 120, 100))),
}


@dataclass(frozen=True)
class Street:
    """`day` and `night` are 720x1280x3 BGR; `lamps` are the world positions of the lamp heads."""

    view: View
    day: Image
    night: Image
    lamps: tuple[tuple[float, float, float], ...]

    def light(self, x: float, z: float, phase: Phase) -> tuple[float, float, float]:
        """How strongly (B, G, R; 1 = full daylight) a thing standing at x, z is lit."""
        if phase == "day":
            return 1.0, 1.0, 1.0
        near = sum(1 / (1 + ((x - lx) ** 2 + 0.6 * (z - lz) ** 2) / 5.0) for lx, _, lz in self.lamps)
        return 0.42 + 0.10 * near, 0.35 + 0.18 * near, 0.31 + 0.24 * near


def build(variant: str) -> Street:
    """Draws the place once (about half a second). `variant` is a key of VARIANTS."""
    view, paints = VARIANTS[variant]
    rng = np.random.default_rng(list(variant.encode()))
    day = _sky(rng)
    glow = np.zeros_like(day)
    _skyline(day, glow, view, rng)
    for side in (-1, 1):
        _facades(day, glow, view, side, paints, rng)
    _ground(day, view, rng)
    lamps = tuple((side * 4.75, 5.0, z) for side, z in ((-1, 9.5), (1, 13.0), (-1, 19.0), (1, 27.0)))
    for side, z in ((1, 8.6), (-1, 13.5), (1, 19.5), (-1, 28.0)):
        _tree(day, glow, view, side * 4.6, z, rng)
    for lamp in lamps:
        _lamp_post(day, view, lamp)
    day = np.asarray(cv2.GaussianBlur(day, (0, 0), 0.8), np.uint8)
    return Street(view, day, _by_night(day, glow, view, lamps), lamps)


def _sky(rng: np.random.Generator) -> Image:
    rows = np.linspace(0, 1, HEIGHT)[:, None, None] * 2.4
    sky = np.clip(1 - rows, 0, 1) * (222, 178, 138) + np.clip(rows, 0, 1) * (236, 226, 214)
    clouds = cv2.GaussianBlur(cv2.resize(rng.random((9, 12)).astype(np.float32), (WIDTH, HEIGHT)), (0, 0), 18)
    veil = np.clip((clouds - 0.5) * 2.2, 0, 0.8)[:, :, None]
    return np.asarray(np.broadcast_to(sky, (HEIGHT, WIDTH, 3)) * (1 - veil) + 246 * veil, np.uint8)


def _skyline(day: Image, glow: Image, view: View, rng: np.random.Generator) -> None:
    x = view.vanish_x - 170.0
    while x < view.vanish_x + 170:
        width, top = int(rng.integers(26, 60)), int(view.horizon - rng.integers(35, 110))
        shade = int(rng.integers(158, 188))
        base = int(view.horizon + 60)
        cv2.rectangle(day, (int(x), top), (int(x) + width, base), (shade + 14, shade + 4, shade - 6), -1)
        for wy in range(top + 6, int(view.horizon), 11):
            for wx in range(int(x) + 5, int(x) + width - 4, 9):
                cv2.rectangle(day, (wx, wy), (wx + 4, wy + 5), (shade - 22, shade - 28, shade - 34), -1)
                if rng.random() < 0.3:
                    cv2.rectangle(glow, (wx, wy), (wx + 4, wy + 5), (50, 110, 150), -1)
        x += width - 2


def _facades(
    day: Image, glow: Image, view: View, side: int, paints: tuple[Colour, ...], rng: np.random.Generator
) -> None:
    """Houses along one side, far ones first, each a flat texture bent onto its wall."""
    edges = [2.2, 9.5]
    while edges[-1] < FAR:
        edges.append(edges[-1] + float(rng.uniform(5, 9)))
    for z0, z1 in reversed(list(pairwise(edges))):
        storeys = int(rng.integers(3, 6))
        top = storeys * 3.1 + 0.6
        wall, lit = _facade(z1 - z0, storeys, paints[int(rng.integers(len(paints)))], side, rng)
        corners = [(side * WALL, top, z0), (side * WALL, top, z1), (side * WALL, 0.0, z1), (side * WALL, 0.0, z0)]
        to = view.points(corners).astype(np.float32)
        height, width = wall.shape[:2]
        source = np.array([(0, 0), (width, 0), (width, height), (0, height)], np.float32)
        bend = cv2.getPerspectiveTransform(source, to)
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        cv2.fillPoly(mask, [np.clip(to, -30000, 30000).astype(np.int32)], 255)
        haze = min(0.55, z1 / 90)
        bent = cv2.warpPerspective(wall, bend, (WIDTH, HEIGHT), flags=cv2.INTER_AREA, borderMode=cv2.BORDER_REPLICATE)
        bent = cv2.addWeighted(bent, 1 - haze, np.full_like(bent, 205), haze, 0)
        cv2.copyTo(bent, mask, day)
        cv2.copyTo(cv2.warpPerspective(lit, bend, (WIDTH, HEIGHT), flags=cv2.INTER_AREA), mask, glow)


def _facade(length: float, storeys: int, paint: Colour, side: int, rng: np.random.Generator) -> tuple[Image, Image]:
    """A wall and its lit windows as flat textures, 48 pixels to the metre; the sun stands on the left."""
    px = 48
    height, width = int((storeys * 3.1 + 0.6) * px), int(length * px)
    shade = 1.0 if side > 0 else 0.72
    base = np.clip(np.array(paint) * shade + rng.normal(0, 6, 3), 20, 235)
    wall = np.clip(base + rng.normal(0, 5, (height, width, 1)), 0, 255).astype(np.uint8)
    for y in range(0, height, 12):  # courses of brick
        cv2.line(wall, (0, y), (width, y), tuple(float(c) * 0.93 for c in base), 1)
    lit = np.zeros_like(wall)
    cv2.rectangle(wall, (0, 0), (width, 20), tuple(float(c) * 0.7 for c in base), -1)
    frame, glass = tuple(float(c) for c in np.clip(base * 1.35 + 20, 0, 245)), np.array((96, 78, 62)) * shade
    columns = max(2, int(length / 1.9))
    for storey in range(1, storeys):
        y = height - int((storey * 3.1 + 2.5) * px)
        for column in range(columns):
            x = int((column + 0.5) * width / columns) - 26
            cv2.rectangle(wall, (x - 5, y - 5), (x + 57, y + 85), frame, -1)
            tone = tuple(float(c) for c in glass * rng.uniform(0.7, 1.5))
            cv2.rectangle(wall, (x, y), (x + 52, y + 80), tone, -1)
            cv2.line(wall, (x + 4, y + 44), (x + 44, y + 4), tuple(min(255.0, c * 1.35) for c in tone), 7)
            cv2.rectangle(wall, (x + 24, y), (x + 28, y + 80), frame, -1)
            if rng.random() < 0.3:
                warm = tuple(float(c) for c in np.array((70, 150, 205)) * rng.uniform(0.4, 0.95))
                cv2.rectangle(lit, (x, y), (x + 52, y + 80), warm, -1)
    awning = tuple(float(c) for c in rng.integers(40, 170, 3))
    y = height - int(2.5 * px)
    x = 30
    while x + 120 < width:  # shops and doors
        cv2.rectangle(wall, (x, y), (x + 100, height - 30), tuple(float(c) for c in glass * rng.uniform(0.6, 1.2)), -1)
        cv2.rectangle(wall, (x - 8, y - 26), (x + 108, y + 2), awning, -1)
        if rng.random() < 0.35:
            cv2.rectangle(lit, (x, y + 4), (x + 100, height - 34), (60, 100, 120), -1)
        x += int(rng.integers(130, 210))
    cv2.rectangle(wall, (0, height - 22), (width, height), tuple(float(c) * 0.6 for c in base), -1)
    return wall, lit


def _ground(day: Image, view: View, rng: np.random.Generator) -> None:
    near = 1.6

    def patch(x0: float, x1: float, z0: float, z1: float, colour: Colour) -> None:
        corners = view.points([(x0, 0, z0), (x1, 0, z0), (x1, 0, z1), (x0, 0, z1)])
        cv2.fillPoly(day, [(corners * 16).astype(np.int32)], colour, cv2.LINE_AA, 4)

    patch(-WALL - 0.05, WALL + 0.05, near, FAR, (150, 156, 160))
    patch(-KERB, KERB, near, FAR, (96, 94, 92))
    z = near
    while z < FAR:  # slabs of the pavement
        for side in (-1, 1):
            patch(side * KERB, side * WALL, z, z + 0.03 + z * 0.002, (128, 134, 138))
        z += 0.9 if z < 20 else 3.0
    for side in (-1, 1):
        patch(side * 4.15, side * 4.17, near, 25, (132, 138, 142))
        patch(side * KERB, side * (KERB + 0.16), near, FAR, (186, 190, 192))
        patch(side * (KERB - 0.10), side * KERB, near, FAR, (70, 70, 70))
    for z in np.arange(8.5, FAR, 3.4):
        patch(-0.07, 0.07, float(z), float(z) + 1.7, (214, 218, 218))
    for x in np.arange(-2.9, 2.9, 0.85):
        patch(float(x), float(x) + 0.45, CROSSING[0], CROSSING[1], (208, 212, 212))
    top = int(view.horizon)
    grain = rng.normal(0, 1, (HEIGHT - top, WIDTH, 1)) * np.linspace(1.5, 7, HEIGHT - top)[:, None, None]
    stains = cv2.resize(rng.normal(0, 5, (22, 30)).astype(np.float32), (WIDTH, HEIGHT - top))[:, :, None]
    ground = np.zeros((HEIGHT, WIDTH), np.uint8)
    corners = view.points([(-WALL, 0, near), (WALL, 0, near), (WALL, 0, FAR), (-WALL, 0, FAR)])
    cv2.fillPoly(ground, [corners.astype(np.int32)], 255)
    worn = np.clip(day[top:] + grain + stains, 0, 255).astype(np.uint8)
    cv2.copyTo(worn, ground[top:], day[top:])


def _tree(day: Image, glow: Image, view: View, x: float, z: float, rng: np.random.Generator) -> None:
    p = view.scale(z)
    foot, fork = view.point(x, 0, z), view.point(x, 3.0, z)
    cv2.line(day, (int(foot[0]), int(foot[1])), (int(fork[0]), int(fork[1])), (48, 62, 78), max(2, int(0.17 * p)))
    for i in range(420):  # dark leaves first, sunlit ones on the left last
        dx, dy = np.clip(rng.normal(0, 0.5), -1.0, 1.0), 4.1 + np.clip(rng.normal(0, 0.6), -1.1, 1.2)
        r = rng.uniform(0.05, 0.2) * (1.6 if i < 120 else 1)
        tone = (0.5 + 0.6 * i / 420) * rng.uniform(0.85, 1.15) * (1.08 if dx < 0 else 0.88)
        at, size = view.point(x + dx, dy, z), max(2, int(r * p))
        centre = (int(at[0]), int(at[1]))
        cv2.circle(day, centre, size, (int(56 * tone), int(116 * tone), int(92 * tone)), -1, cv2.LINE_AA)
        cv2.circle(glow, centre, size, (0, 0, 0), -1)


def _lamp_post(day: Image, view: View, lamp: tuple[float, float, float]) -> None:
    x, y, z = lamp
    p = view.scale(z)
    foot, top = view.point(x, 0, z), view.point(x, y, z)
    arm = view.point(x - np.sign(x) * 0.8, y + 0.1, z)
    for a, b, wide in ((foot, top, 0.1), (top, arm, 0.07)):
        cv2.line(day, (int(a[0]), int(a[1])), (int(b[0]), int(b[1])), (70, 74, 72), max(2, int(wide * p)), cv2.LINE_AA)


def _by_night(day: Image, glow: Image, view: View, lamps: tuple[tuple[float, float, float], ...]) -> Image:
    """The same place under a dark blue sky, pools of sodium light below the lamps, some windows lit."""
    yy, xx = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)
    light = np.full((HEIGHT, WIDTH, 3), (0.30, 0.24, 0.21), np.float32)
    halo = np.zeros((HEIGHT, WIDTH, 3), np.float32)
    for x, y, z in lamps:
        p = view.scale(z)
        cx, cy = view.point(x - np.sign(x) * 0.8, y, z)
        gx, gy = view.point(x * 0.8, 0.0, z)
        pool = np.exp(-(((xx - gx) / (2.6 * p)) ** 2 + ((yy - gy) / (1.0 * p)) ** 2))
        wall = np.exp(-(((xx - cx) / (1.5 * p)) ** 2 + ((yy - cy - 1.5 * p) / (2.2 * p)) ** 2))
        light += pool[:, :, None] * (0.16, 0.30, 0.40) + wall[:, :, None] * (0.07, 0.15, 0.20)
        far = (xx - cx) ** 2 + (yy - cy) ** 2
        halo += (np.exp(-far / (0.16 * p) ** 2) * 255)[:, :, None] * (0.7, 0.9, 1.0)
        halo += (np.exp(-far / (0.75 * p) ** 2) * 70)[:, :, None] * (0.3, 0.65, 0.9)
    return np.clip(day * light + glow * 0.85 + halo, 0, 255).astype(np.uint8)
