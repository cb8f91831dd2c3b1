"""What moves in the generated street and is of no interest: shadows and light, leaves, a bag in the wind."""

from __future__ import annotations

import numpy as np

from agent.scene_brush import Box, Brush, Light, Paint, spot, tone
from agent.scene_street import HEIGHT, WIDTH, Image, Phase, View


def draw_clutter(
    image: Image, view: View, rng: np.random.Generator, x: float, z: float, phase: Phase, light: Light, beat: float
) -> Box:
    """A cloud's shadow or a sweep of light, blown leaves, a drifting bag; `beat` 0..1 is its age."""
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
            b.oval(
                float(dx + 0.1 * np.sin(9 * beat + 20 * dx)),
                float(dy),
                float(size * 1.5),
                float(size),
                tone(tint, float(rng.uniform(0.7, 1.3))),
            )
        return b.box()
    y = 0.25 + 0.5 * abs(np.sin(3 * beat + 1))
    turn = float(rng.uniform(0, 3)) + 4 * beat
    angles = np.linspace(0, 2 * np.pi, 7)[:-1]
    radii = rng.uniform(0.16, 0.34, 6)
    outline = [
        (float(r * np.cos(a + turn)), float(y + r * np.sin(a + turn))) for a, r in zip(angles, radii, strict=True)
    ]
    paint = ((232.0, 236.0, 236.0), (150.0, 180.0, 200.0), (170.0, 120.0, 60.0))[int(rng.integers(3))]
    b.poly(list(outline), paint)
    b.limb([outline[0], (0.0, y), outline[2]], 0.025, tone(paint, 0.75))
    b.limb([(0.0, y), outline[4]], 0.025, tone(paint, 0.8))
    return b.box()


def _inside(x: float, y: float, w: float, h: float) -> Box:
    x0, y0 = int(np.clip(x, 0, WIDTH)), int(np.clip(y, 0, HEIGHT))
    return x0, y0, int(np.clip(x + w, 0, WIDTH)) - x0, int(np.clip(y + h, 0, HEIGHT)) - y0
