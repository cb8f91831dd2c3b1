"""Vehicles of the generated street, with number plates that nobody issued."""

from __future__ import annotations

import cv2
import numpy as np

from agent.scene_brush import Box, Brush, Light, Paint, pick, spot, tone
from agent.scene_street import HEIGHT, WIDTH, Image, Phase, View

CAR_PAINTS: tuple[Paint, ...] = (
    (208, 208, 208), (236, 236, 236), (36, 34, 32), (96, 92, 88), (150, 148, 146), (44, 36, 150), (130, 74, 34),
    (60, 88, 44), (66, 120, 170), (30, 150, 190), (90, 60, 70),
)  # fmt: skip


def draw_vehicle(
    image: Image, view: View, rng: np.random.Generator, x: float, z: float, phase: Phase, light: Light, front: bool
) -> Box:
    """A car, an off-roader or a van seen from its front or rear; 175-340 px wide between z = 5 and 9 m."""
    kind = ("car", "car", "suv", "van")[int(rng.integers(4))]
    paint = pick(rng, CAR_PAINTS)
    wide = {"car": 1.74, "suv": 1.84, "van": 1.94}[kind] * float(rng.uniform(0.96, 1.04)) / 2
    waist, roof = {"car": (0.88, 1.42), "suv": (1.02, 1.66), "van": (1.08, 2.02)}[kind]
    long = {"car": 4.1, "suv": 4.3, "van": 4.9}[kind]
    bonnet = {"car": 1.05, "suv": 0.95, "van": 0.5}[kind] if front else {"car": 0.45, "suv": 0.1, "van": 0.0}[kind]
    spot(image, view.point(x, 0, z + long / 2.6), view.scale(z) * 1.45, view.scale(z) * 0.52, (-62, -62, -62))
    b = Brush(image, view, x, z, light)
    side, dark, glass = tone(paint, 0.62), (28.0, 28.0, 30.0), (74.0, 62.0, 50.0)
    body = [(-wide, 0.28), (-wide, waist - 0.12), (-wide + 0.06, waist), (wide - 0.06, waist), (wide, waist - 0.12)]
    body += [(wide, 0.28)]
    for sx in (-1, 1):  # tyres
        b.poly(
            [
                (sx * (wide - 0.24), 0.0),
                (sx * (wide - 0.02), 0.0),
                (sx * (wide - 0.02), 0.4),
                (sx * (wide - 0.24), 0.4),
            ],
            dark,
        )
    b.poly([(px, py, pz) for pz in (0.0, long) for px, py in body], side, hull=True)
    visible = -1 if x > 0 else 1  # the side that is turned to the middle of the picture
    for wz in (0.85, long - 0.95):
        ring = [
            (visible * (wide + 0.01), 0.32 + 0.32 * np.sin(a), wz + 0.32 * np.cos(a)) for a in np.linspace(0, 6.28, 14)
        ]
        b.poly(ring, dark)
        b.poly([(px, 0.32 + (py - 0.32) * 0.55, wz + (pz - wz) * 0.55) for px, py, pz in ring], (150, 150, 150))
    shoulder, crown = wide - 0.07, wide - 0.26 if kind != "van" else wide - 0.14
    z0, z1 = bonnet, long - (0.5 if front else 1.2)
    z_roof = z0 + (0.75 if front and kind != "van" else 0.3)
    cabin = [(sx * shoulder, waist, zz) for sx in (-1, 1) for zz in (z0, z1)]
    cabin += [(sx * crown, roof, zz) for sx in (-1, 1) for zz in (z_roof, z1 - 0.3)]
    b.poly(cabin, tone(paint, 0.8), hull=True)
    for sx in (-1, 1):  # mirrors stand at the front of the cabin
        b.oval(sx * (wide + 0.05), waist + 0.08, 0.1, 0.07, tone(paint, 0.9), z=z0 + 0.5 if front else z1 - 0.8)
    edge = visible
    b.poly([(edge * shoulder, waist + 0.04, z0 + 0.35), (edge * shoulder, waist + 0.04, z1 - 0.25),
            (edge * crown, roof - 0.08, z1 - 0.5), (edge * crown, roof - 0.08, z_roof + 0.2)],
           tone(glass, 0.8))  # fmt: skip
    if bonnet:
        b.poly(
            [
                (-shoulder, waist, 0.02),
                (shoulder, waist, 0.02),
                (shoulder, waist + 0.05, z0),
                (-shoulder, waist + 0.05, z0),
            ],
            tone(paint, 1.18),
        )
    screen = [(-shoulder + 0.07, waist + 0.05, z0), (shoulder - 0.07, waist + 0.05, z0)]
    screen += [(crown - 0.05, roof - 0.08, z_roof), (-crown + 0.05, roof - 0.08, z_roof)]
    b.poly(screen, glass)
    b.poly([(-shoulder + 0.2, waist + 0.06, z0), (-shoulder + 0.55, waist + 0.06, z0),
            (-crown + 0.7, roof - 0.1, z_roof), (-crown + 0.4, roof - 0.1, z_roof)], tone(glass, 1.5))  # fmt: skip
    if front:
        for dx in (-0.36, 0.36):  # heads behind the windscreen
            b.oval(dx, waist + 0.17, 0.1, 0.13, (46, 46, 50), z=z0 + 0.5)
            b.poly([(dx - 0.2, waist + 0.05, z0), (dx + 0.2, waist + 0.05, z0), (dx, waist + 0.16, z0)], (46, 46, 50))
    b.poly(body, paint)
    b.poly([(-wide, 0.28), (wide, 0.28), (wide, 0.46), (-wide, 0.46)], tone(paint, 0.72))
    b.poly([(-wide + 0.03, 0.14), (wide - 0.03, 0.14), (wide, 0.3), (-wide, 0.3)], dark)
    b.poly(
        [(-wide + 0.06, waist - 0.05), (wide - 0.06, waist - 0.05), (wide - 0.08, waist), (-wide + 0.08, waist)],
        tone(paint, 1.25),
    )
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
