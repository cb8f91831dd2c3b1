"""What moves in the generated street: vehicles with number plates, people with and without backpacks, and "nothing".

Each `draw_*` paints one actor into a 720x1280x3 BGR picture and returns the box around what it painted. Looks come from
the generator that is handed in, so the same actor looks the same in each frame of its life. No real plate, face or person.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from agent.scene_street import HEIGHT, WIDTH, Image, Phase, View

Box = tuple[int, int, int, int]  # x, y, w, h in pixels, inside the picture
Light = tuple[float, float, float]
Paint = tuple[float, float, float]  # BGR

CAR_PAINTS: tuple[Paint, ...] = (
    (208, 208, 208), (236, 236, 236), (36, 34, 32), (96, 92, 88), (150, 148, 146), (44, 36, 150), (130, 74, 34),
    (60, 88, 44), (66, 120, 170), (30, 150, 190), (90, 60, 70),
)  # fmt: skip
CLOTHES: tuple[Paint, ...] = (
    (40, 40, 44), (70, 62, 58), (120, 84, 48), (60, 50, 140), (70, 110, 60), (150, 140, 130), (196, 196, 190),
    (40, 120, 190), (120, 60, 100), (90, 120, 140), (150, 110, 60), (50, 70, 90),
)  # fmt: skip
SKINS: tuple[Paint, ...] = ((170, 196, 232), (140, 172, 216), (96, 134, 184), (62, 92, 138), (44, 64, 98))
HAIR: tuple[Paint, ...] = ((24, 26, 30), (40, 56, 84), (70, 110, 150), (130, 150, 160), (30, 40, 60))
PACKS: tuple[Paint, ...] = (
    (36, 36, 150), (150, 90, 30), (40, 40, 40), (50, 130, 60), (20, 130, 220), (120, 50, 120), (160, 160, 40),
)  # fmt: skip


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

    def poly(self, world: list[tuple[float, ...]], paint: Paint, *, hull: bool = False, glow: float = 0.0) -> None:
        points = (np.array([self.at(*w) for w in world]) * 16).astype(np.int32)
        if hull:
            points = cv2.convexHull(points).reshape(-1, 2)
        cv2.fillPoly(self.image, [points], self.lit(paint, glow), cv2.LINE_AA, 4)

    def limb(self, joints: list[tuple[float, float]], wide: float, paint: Paint) -> None:
        """A bent, round-ended stroke through the joints, `wide` metres thick."""
        points = (np.array([self.at(*j) for j in joints]) * 16).astype(np.int32)
        cv2.polylines(
            self.image, [points], False, self.lit(paint), max(1, round(self.size(wide))), cv2.LINE_AA, 4
        )  # fmt: skip

    def oval(self, x: float, y: float, rx: float, ry: float, paint: Paint, *, z: float = 0.0, glow: float = 0.0) -> None:
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
    return (rim * rim * (3 - 2 * rim)).astype(np.float32)


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


def _pick(rng: np.random.Generator, paints: tuple[Paint, ...]) -> Paint:
    b, g, r = np.clip(np.array(paints[int(rng.integers(len(paints)))]) * rng.uniform(0.85, 1.12), 8, 245)
    return float(b), float(g), float(r)


def _tone(paint: Paint, factor: float) -> Paint:
    b, g, r = (min(250.0, c * factor) for c in paint)
    return b, g, r


# --- vehicles


def draw_vehicle(
    image: Image, view: View, rng: np.random.Generator, x: float, z: float, phase: Phase, light: Light, front: bool
) -> Box:
    """A car, an off-roader or a van seen from its front or rear; 175-340 px wide between z = 5 and 9 m."""
    kind = ("car", "car", "suv", "van")[int(rng.integers(4))]
    paint = _pick(rng, CAR_PAINTS)
    wide = {"car": 1.74, "suv": 1.84, "van": 1.94}[kind] * float(rng.uniform(0.96, 1.04)) / 2
    waist, roof = {"car": (0.88, 1.42), "suv": (1.02, 1.66), "van": (1.08, 2.02)}[kind]
    long = {"car": 4.1, "suv": 4.3, "van": 4.9}[kind]
    bonnet = {"car": 1.05, "suv": 0.95, "van": 0.5}[kind] if front else {"car": 0.45, "suv": 0.1, "van": 0.0}[kind]
    spot(image, view.point(x, 0, z + long / 2.6), view.scale(z) * 1.45, view.scale(z) * 0.52, (-62, -62, -62))
    b = Brush(image, view, x, z, light)
    side, dark, glass = _tone(paint, 0.62), (28.0, 28.0, 30.0), (74.0, 62.0, 50.0)
    body = [(-wide, 0.28), (-wide, waist - 0.12), (-wide + 0.06, waist), (wide - 0.06, waist), (wide, waist - 0.12)]
    body += [(wide, 0.28)]
    for sx in (-1, 1):  # tyres
        b.poly([(sx * (wide - 0.24), 0.0), (sx * (wide - 0.02), 0.0), (sx * (wide - 0.02), 0.4), (sx * (wide - 0.24), 0.4)], dark)
    b.poly([(px, py, pz) for pz in (0.0, long) for px, py in body], side, hull=True)
    visible = -1 if x > 0 else 1  # the side that is turned to the middle of the picture
    for wz in (0.85, long - 0.95):
        ring = [(visible * (wide + 0.01), 0.32 + 0.32 * np.sin(a), wz + 0.32 * np.cos(a)) for a in np.linspace(0, 6.28, 14)]
        b.poly(ring, dark)
        b.poly([(px, 0.32 + (py - 0.32) * 0.55, wz + (pz - wz) * 0.55) for px, py, pz in ring], (150, 150, 150))
    shoulder, crown = wide - 0.07, wide - 0.26 if kind != "van" else wide - 0.14
    z0, z1 = bonnet, long - (0.5 if front else 1.2)
    z_roof = z0 + (0.75 if front and kind != "van" else 0.3)
    cabin = [(sx * shoulder, waist, zz) for sx in (-1, 1) for zz in (z0, z1)]
    cabin += [(sx * crown, roof, zz) for sx in (-1, 1) for zz in (z_roof, z1 - 0.3)]
    b.poly(cabin, _tone(paint, 0.8), hull=True)
    for sx in (-1, 1):  # mirrors stand at the front of the cabin
        b.oval(sx * (wide + 0.05), waist + 0.08, 0.1, 0.07, _tone(paint, 0.9), z=z0 + 0.5 if front else z1 - 0.8)
    edge = visible
    b.poly([(edge * shoulder, waist + 0.04, z0 + 0.35), (edge * shoulder, waist + 0.04, z1 - 0.25),
            (edge * crown, roof - 0.08, z1 - 0.5), (edge * crown, roof - 0.08, z_roof + 0.2)], _tone(glass, 0.8))  # fmt: skip
    if bonnet:
        b.poly([(-shoulder, waist, 0.02), (shoulder, waist, 0.02), (shoulder, waist + 0.05, z0), (-shoulder, waist + 0.05, z0)], _tone(paint, 1.18))
    screen = [(-shoulder + 0.07, waist + 0.05, z0), (shoulder - 0.07, waist + 0.05, z0)]
    screen += [(crown - 0.05, roof - 0.08, z_roof), (-crown + 0.05, roof - 0.08, z_roof)]
    b.poly(screen, glass)
    b.poly([(-shoulder + 0.2, waist + 0.06, z0), (-shoulder + 0.55, waist + 0.06, z0), (-crown + 0.7, roof - 0.1, z_roof),
            (-crown + 0.4, roof - 0.1, z_roof)], _tone(glass, 1.5))  # fmt: skip
    if front:
        for dx in (-0.36, 0.36):  # heads behind the windscreen
            b.oval(dx, waist + 0.17, 0.1, 0.13, (46, 46, 50), z=z0 + 0.5)
            b.poly([(dx - 0.2, waist + 0.05, z0), (dx + 0.2, waist + 0.05, z0), (dx, waist + 0.16, z0)], (46, 46, 50))
    b.poly(body, paint)
    b.poly([(-wide, 0.28), (wide, 0.28), (wide, 0.46), (-wide, 0.46)], _tone(paint, 0.72))
    b.poly([(-wide + 0.03, 0.14), (wide - 0.03, 0.14), (wide, 0.3), (-wide, 0.3)], dark)
    b.poly([(-wide + 0.06, waist - 0.05), (wide - 0.06, waist - 0.05), (wide - 0.08, waist), (-wide + 0.08, waist)], _tone(paint, 1.25))
    _lights(image, b, wide, waist, front, phase)
    plate_y = float(rng.uniform(0.38, 0.5)) if front else float(rng.uniform(0.46, 0.62))
    if front:
        b.poly([(-0.42, plate_y + 0.1), (0.42, plate_y + 0.1), (0.48, waist - 0.16), (-0.48, waist - 0.16)], dark)
    _plate(b, rng, plate_y, glow=0.12 if phase == "night" else 0.0)
    return b.box()


def _lights(image: Image, b: Brush, wide: float, waist: float, front: bool, phase: Phase) -> None:
    y, night = waist - 0.2, phase == "night"
    for sx in (-1, 1):
        shape: list[tuple[float, ...]] = [
            (sx * (wide - 0.02), y + 0.08), (sx * (wide - 0.42), y + 0.04), (sx * (wide - 0.38), y - 0.08),
            (sx * (wide - 0.02), y - 0.06),
        ]  # fmt: skip
        lamp: Paint = (235, 240, 240) if front else (36, 30, 190)
        b.poly(shape, lamp, glow=1.0 if night else 0.0)
        if night:
            centre = b.at(sx * (wide - 0.2), y)
            size = b.size(0.75 if front else 0.42)
            spot(image, (centre[0], centre[1]), size, size, (190, 215, 225) if front else (20, 16, 150))
    if night and front:  # the beam on the road before the car
        ground = b.view.point(b.x, 0, max(3.4, b.z - 1.6))
        spot(image, ground, b.size(1.9), b.size(0.55), (58, 70, 74))


def _plate(b: Brush, rng: np.random.Generator, y: float, glow: float) -> None:
    """White or yellow, 0.52 x 0.11 m, dark random letters: a string that no registry gives out in this form."""
    middle = b.at(0, y)
    w, h = max(8, round(b.size(0.54))), max(4, round(b.size(0.125)))
    paint: Paint = (70, 205, 240) if rng.random() < 0.4 else (238, 240, 240)
    letters = "".join(rng.choice(list("ABCDEFGHJKLMNPRSTUVWXYZ"), 3)) + " " + "".join(rng.choice(list("0123456789"), 4))
    tile = np.empty((44, 200, 3), np.uint8)
    tile[:] = b.lit(paint, glow)
    cv2.rectangle(tile, (1, 1), (198, 42), b.lit((40, 40, 40)), 2)
    cv2.putText(tile, letters, (10, 34), cv2.FONT_HERSHEY_SIMPLEX, 1.12, b.lit((30, 26, 26)), 4, cv2.LINE_AA)
    x0, y0 = int(middle[0] - w / 2), int(middle[1] - h / 2)
    if x0 < 0 or y0 < 0 or x0 + w > WIDTH or y0 + h > HEIGHT:
        return
    b.image[y0 : y0 + h, x0 : x0 + w] = cv2.resize(tile, (w, h), interpolation=cv2.INTER_AREA)


# --- people


def draw_person(
    image: Image, view: View, rng: np.random.Generator, x: float, z: float, light: Light,
    *, backpack: bool, facing: str, mirror: bool, stride: float,
) -> Box:  # fmt: skip
    """One walker, `facing` "side" | "front" | "back"; 120-320 px high between z = 5 and 12.5 m; `stride` in radians."""
    tall = float(rng.uniform(1.58, 1.92))
    coat, trousers, skin = _pick(rng, CLOTHES), _pick(rng, CLOTHES), SKINS[int(rng.integers(len(SKINS)))]
    hair, pack = HAIR[int(rng.integers(len(HAIR)))], _pick(rng, PACKS)
    coat_end = tall * float(rng.choice([0.48, 0.44, 0.34]))
    hat, bag = rng.random() < 0.22, rng.random() < 0.2
    stout = float(rng.uniform(0.9, 1.2))
    spot(image, view.point(x + 0.12, 0, z), view.scale(z) * 0.5, view.scale(z) * 0.14, (-60, -60, -60))
    b = Brush(image, view, x, z, light, mirror)
    hip, knee, shoulder = tall * 0.5, tall * 0.27, tall * 0.81
    swing = np.sin(stride)
    for leg in (-1, 1):
        step = leg * swing * (0.24 if facing == "side" else 0.05)
        off = 0.0 if facing == "side" else leg * 0.09
        tint = _tone(trousers, 0.8 if leg < 0 else 1.0)
        lift = max(0.0, -leg * np.cos(stride)) * 0.07
        b.limb([(off, hip), (off + step * 0.6 + 0.03, knee), (off + step, 0.09 + lift)], 0.145 * stout, tint)
        toe = 0.13 if facing == "side" else 0.02
        b.limb([(off + step - 0.02, 0.05 + lift), (off + step + toe, 0.05 + lift)], 0.1, (34, 32, 34))
    if facing == "side":
        _torso_side(b, tall, hip, shoulder, coat_end, coat, pack if backpack else None, stout, swing, skin)
    else:
        _torso_plain(b, tall, shoulder, coat_end, coat, pack if backpack else None, stout, swing, skin, facing)
    _head(b, tall, skin, hair, coat if hat else None, facing)
    if bag and not backpack:
        hand = 0.2 * swing if facing == "side" else 0.3
        b.poly([(hand - 0.13, 0.42 * tall), (hand + 0.13, 0.42 * tall), (hand + 0.15, 0.27 * tall), (hand - 0.15, 0.27 * tall)], pack)
    return b.box()


def _torso_side(
    b: Brush, tall: float, hip: float, shoulder: float, coat_end: float, coat: Paint, pack: Paint | None, stout: float,
    swing: float, skin: Paint,
) -> None:  # fmt: skip
    d = 0.13 * stout
    b.limb([(0.0, shoulder - 0.05), (-0.2 * swing, tall * 0.62), (-0.3 * swing + 0.06, tall * 0.5)], 0.1, _tone(coat, 0.7))
    if pack is not None:  # behind the back, with a pocket and a lid
        top, low = shoulder + 0.02, shoulder - 0.5
        b.poly([(-d + 0.06, top), (-d - 0.2, top - 0.03), (-d - 0.3, top - 0.2), (-d - 0.29, low + 0.06),
                (-d - 0.22, low), (-d + 0.06, low + 0.02)], pack)  # fmt: skip
        b.poly([(-d - 0.2, low + 0.27), (-d - 0.35, low + 0.24), (-d - 0.34, low + 0.07), (-d - 0.22, low + 0.05)], _tone(pack, 0.75))
    b.poly([(-d * 0.7, shoulder + 0.03), (d * 0.6, shoulder + 0.02), (d * 1.1, shoulder - 0.18), (d, hip),
            (d * 1.25, coat_end), (-d * 1.2, coat_end), (-d, hip + 0.08), (-d * 1.15, shoulder - 0.2)], coat)  # fmt: skip
    if pack is not None:
        b.limb([(-d + 0.04, shoulder + 0.0), (d * 0.7, shoulder - 0.12), (-d + 0.05, shoulder - 0.36)], 0.05, _tone(pack, 0.6))
    b.limb([(0.0, shoulder - 0.06), (0.2 * swing, tall * 0.62), (0.3 * swing + 0.08, tall * 0.5)], 0.105, _tone(coat, 0.9))
    b.oval(0.3 * swing + 0.09, tall * 0.485, 0.045, 0.055, skin)


def _torso_plain(
    b: Brush, tall: float, shoulder: float, coat_end: float, coat: Paint, pack: Paint | None, stout: float, swing: float,
    skin: Paint, facing: str,
) -> None:  # fmt: skip
    d = 0.21 * stout
    if pack is not None and facing == "front":  # looks out on both sides of the body
        b.poly([(-d - 0.09, shoulder - 0.06), (d + 0.09, shoulder - 0.06), (d + 0.12, shoulder - 0.5), (-d - 0.12, shoulder - 0.5)], _tone(pack, 0.8))
    for arm in (-1, 1):
        b.limb([(arm * d, shoulder - 0.05), (arm * (d + 0.08), tall * 0.62), (arm * (d + 0.06), tall * (0.5 + 0.02 * arm * swing))], 0.1, _tone(coat, 0.82))
        b.oval(arm * (d + 0.06), tall * 0.48, 0.045, 0.055, skin)
    b.poly([(-d * 0.5, shoulder + 0.05), (d * 0.5, shoulder + 0.05), (d, shoulder - 0.03), (d * 0.92, tall * 0.52), (d, coat_end),
            (-d, coat_end), (-d * 0.92, tall * 0.52), (-d, shoulder - 0.03)], coat)  # fmt: skip
    if pack is not None and facing == "front":
        for arm in (-1, 1):
            b.limb([(arm * d * 0.62, shoulder + 0.04), (arm * d * 0.62, shoulder - 0.3), (arm * d * 0.95, shoulder - 0.42)], 0.065, pack)
    elif pack is not None:
        top, low = shoulder + 0.05, shoulder - 0.5
        b.poly([(-d * 0.75, top - 0.06), (-d * 0.45, top), (d * 0.45, top), (d * 0.75, top - 0.06), (d * 0.85, low + 0.05),
                (d * 0.7, low), (-d * 0.7, low), (-d * 0.85, low + 0.05)], pack)  # fmt: skip
        b.poly([(-d * 0.55, low + 0.25), (d * 0.55, low + 0.25), (d * 0.6, low + 0.05), (-d * 0.6, low + 0.05)], _tone(pack, 0.72))
        b.limb([(-d * 0.6, top - 0.14), (d * 0.6, top - 0.14)], 0.03, _tone(pack, 0.6))
    elif facing == "front":
        b.limb([(0.0, shoulder), (0.0, coat_end + 0.02)], 0.025, _tone(coat, 0.65))


def _head(b: Brush, tall: float, skin: Paint, hair: Paint, hat: Paint | None, facing: str) -> None:
    y = tall * 0.925
    b.limb([(0.0, tall * 0.82), (0.01, tall * 0.87)], 0.1, _tone(skin, 0.85))
    b.oval(0.0, y, 0.095, 0.125, hair if facing == "back" else skin)
    if facing == "front":
        b.poly([(-0.1, y + 0.03), (-0.08, y + 0.12), (0.0, y + 0.145), (0.08, y + 0.12), (0.1, y + 0.03), (0.06, y + 0.065), (-0.06, y + 0.07)], hair)
        for ex in (-0.036, 0.036):
            b.oval(ex, y + 0.015, 0.017, 0.01, (225, 225, 225))
            b.oval(ex, y + 0.015, 0.009, 0.01, (40, 36, 34))
            b.limb([(ex - 0.02, y + 0.042), (ex + 0.02, y + 0.044)], 0.012, _tone(hair, 0.8))
        b.limb([(0.0, y + 0.01), (0.01, y - 0.028)], 0.014, _tone(skin, 0.8))
        b.limb([(-0.028, y - 0.062), (0.028, y - 0.062)], 0.016, (92, 84, 150))
    elif facing == "side":
        b.poly([(-0.1, y - 0.07), (-0.105, y + 0.05), (-0.05, y + 0.135), (0.05, y + 0.13), (0.08, y + 0.07), (0.02, y + 0.05), (-0.01, y - 0.02)], hair)
        b.poly([(0.085, y + 0.02), (0.118, y - 0.03), (0.085, y - 0.035)], skin)
        b.oval(0.055, y + 0.015, 0.013, 0.012, (40, 36, 34))
    if hat is not None:
        b.poly([(-0.11, y + 0.05), (-0.095, y + 0.14), (0.0, y + 0.175), (0.095, y + 0.14), (0.11, y + 0.05)], _tone(hat, 0.8))


# --- nothing: what moves and is of no interest


def draw_clutter(
    image: Image, view: View, rng: np.random.Generator, x: float, z: float, phase: Phase, light: Light, beat: float
) -> Box:
    """A cloud's shadow or a sweep of light, blown leaves, a drifting bag; `beat` 0..1 is how far through its life it is."""
    kind = int(rng.integers(3))
    p = view.scale(z)
    centre = view.point(x, 0.0, z)
    if kind == 0:
        rx, ry = p * float(rng.uniform(0.7, 1.3)), p * float(rng.uniform(0.3, 0.55))
        shade: Paint = (-44, -44, -44) if phase == "day" else (64, 84, 96)
        for _ in range(3):
            shift = rng.normal(0, 0.25, 2) * (rx, ry)
            spot(image, (centre[0] + shift[0], centre[1] + shift[1]), rx * 0.85, ry * 0.85, shade)
        return _inside(centre[0] - rx, centre[1] - ry, 2 * rx, 2 * ry)
    b = Brush(image, view, x, z, light)
    if kind == 1:
        tint = ((40, 90, 130), (36, 110, 80), (30, 60, 90))[int(rng.integers(3))]
        for _ in range(int(rng.integers(14, 30))):
            dx, dy, size = rng.normal(0, 0.35), abs(rng.normal(0.25, 0.25)), rng.uniform(0.025, 0.06)
            b.oval(float(dx + 0.1 * np.sin(9 * beat + 20 * dx)), float(dy), float(size * 1.5), float(size), _tone(tint, float(rng.uniform(0.7, 1.3))))
        return b.box()
    y = 0.25 + 0.5 * abs(np.sin(3 * beat + 1))
    turn = float(rng.uniform(0, 3)) + 4 * beat
    angles = np.linspace(0, 2 * np.pi, 7)[:-1]
    radii = rng.uniform(0.16, 0.34, 6)
    outline = [(float(r * np.cos(a + turn)), float(y + r * np.sin(a + turn))) for a, r in zip(angles, radii, strict=True)]
    paint = ((232.0, 236.0, 236.0), (150.0, 180.0, 200.0), (170.0, 120.0, 60.0))[int(rng.integers(3))]
    b.poly(list(outline), paint)
    b.limb([outline[0], (0.0, y), outline[2]], 0.025, _tone(paint, 0.75))
    b.limb([(0.0, y), outline[4]], 0.025, _tone(paint, 0.8))
    return b.box()


def _inside(x: float, y: float, w: float, h: float) -> Box:
    x0, y0 = int(np.clip(x, 0, WIDTH)), int(np.clip(y, 0, HEIGHT))
    return x0, y0, int(np.clip(x + w, 0, WIDTH)) - x0, int(np.clip(y + h, 0, HEIGHT)) - y0
