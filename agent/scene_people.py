"""People of the generated street, with and without backpacks; nobody real."""

from __future__ import annotations

import numpy as np

from agent.scene_brush import Box, Brush, Light, Paint, pick, spot, tone
from agent.scene_street import Image, View

CLOTHES: tuple[Paint, ...] = (
    (40, 40, 44), (70, 62, 58), (92, 74, 58), (64, 60, 88), (74, 88, 70), (150, 144, 138), (188, 190, 190),
    (84, 104, 128), (92, 74, 84), (100, 116, 128), (118, 100, 82), (56, 66, 78),
)  # fmt: skip
SKINS: tuple[Paint, ...] = ((170, 196, 232), (140, 172, 216), (96, 134, 184), (62, 92, 138), (44, 64, 98))
HAIR: tuple[Paint, ...] = ((24, 26, 30), (40, 56, 84), (70, 110, 150), (130, 150, 160), (30, 40, 60))
SHEEN = 0.15  # packs have reflecting cloth: so much brighter than their surroundings by night
PACKS: tuple[Paint, ...] = (
    (30, 30, 190), (200, 90, 20), (40, 170, 60), (10, 140, 240), (150, 40, 150), (190, 190, 20), (20, 200, 230),
)  # fmt: skip


def draw_person(
    image: Image, view: View, rng: np.random.Generator, x: float, z: float, light: Light,
    *, backpack: bool, facing: str, mirror: bool, stride: float,
) -> Box:  # fmt: skip
    """One walker, `facing` "side" | "front" | "back"; 120-320 px high between z = 5 and 12.5 m; `stride` in radians."""
    tall = float(rng.uniform(1.58, 1.92))
    coat, trousers, skin = pick(rng, CLOTHES), pick(rng, CLOTHES), SKINS[int(rng.integers(len(SKINS)))]
    hair, pack = HAIR[int(rng.integers(len(HAIR)))], pick(rng, PACKS)
    coat_end = tall * float(rng.choice([0.48, 0.44, 0.34]))
    hat, bag = rng.random() < 0.22, rng.random() < 0.15
    stout = float(rng.uniform(0.9, 1.2))
    spot(image, view.point(x + 0.12, 0, z), view.scale(z) * 0.5, view.scale(z) * 0.14, (-60, -60, -60))
    b = Brush(image, view, x, z, light, mirror)
    hip, knee, shoulder = tall * 0.5, tall * 0.27, tall * 0.81
    swing = np.sin(stride)
    for leg in (-1, 1):
        step = leg * swing * (0.24 if facing == "side" else 0.05)
        off = 0.0 if facing == "side" else leg * 0.09
        tint = tone(trousers, 0.8 if leg < 0 else 1.0)
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
        b.poly(
            [
                (hand - 0.13, 0.42 * tall),
                (hand + 0.13, 0.42 * tall),
                (hand + 0.15, 0.27 * tall),
                (hand - 0.15, 0.27 * tall),
            ],
            tone(coat, 0.6),
        )
    return b.box()


def _torso_side(
    b: Brush, tall: float, hip: float, shoulder: float, coat_end: float, coat: Paint, pack: Paint | None, stout: float,
    swing: float, skin: Paint,
) -> None:  # fmt: skip
    d = 0.13 * stout
    b.limb(
        [(0.0, shoulder - 0.05), (-0.2 * swing, tall * 0.62), (-0.3 * swing + 0.06, tall * 0.5)], 0.1, tone(coat, 0.7)
    )
    if pack is not None:  # behind the back, with a pocket and a lid
        top, low = shoulder + 0.06, shoulder - 0.56
        b.poly([(-d + 0.08, top), (-d - 0.24, top - 0.03), (-d - 0.36, top - 0.22), (-d - 0.35, low + 0.06),
                (-d - 0.27, low), (-d + 0.08, low + 0.02)], pack, glow=SHEEN)  # fmt: skip
        b.poly([(-d - 0.24, low + 0.3), (-d - 0.42, low + 0.27), (-d - 0.4, low + 0.07), (-d - 0.26, low + 0.05)],
               tone(pack, 0.7), glow=SHEEN)  # fmt: skip
    b.poly([(-d * 0.7, shoulder + 0.03), (d * 0.6, shoulder + 0.02), (d * 1.1, shoulder - 0.18), (d, hip),
            (d * 1.25, coat_end), (-d * 1.2, coat_end), (-d, hip + 0.08), (-d * 1.15, shoulder - 0.2)],
           coat)  # fmt: skip
    if pack is not None:
        b.limb(
            [(-d + 0.04, shoulder + 0.0), (d * 0.7, shoulder - 0.12), (-d + 0.05, shoulder - 0.36)],
            0.05,
            tone(pack, 0.6),
        )
    b.limb(
        [(0.0, shoulder - 0.06), (0.2 * swing, tall * 0.62), (0.3 * swing + 0.08, tall * 0.5)], 0.105, tone(coat, 0.9)
    )
    b.oval(0.3 * swing + 0.09, tall * 0.485, 0.045, 0.055, skin)


def _torso_plain(
    b: Brush, tall: float, shoulder: float, coat_end: float, coat: Paint, pack: Paint | None, stout: float,
    swing: float, skin: Paint, facing: str,
) -> None:  # fmt: skip
    d = 0.21 * stout
    if pack is not None and facing == "front":  # looks out on both sides of the body
        b.poly(
            [
                (-d - 0.12, shoulder + 0.02),
                (d + 0.12, shoulder + 0.02),
                (d + 0.2, shoulder - 0.52),
                (-d - 0.2, shoulder - 0.52),
            ],
            tone(pack, 0.85),
            glow=SHEEN,
        )
    for arm in (-1, 1):
        b.limb(
            [
                (arm * d, shoulder - 0.05),
                (arm * (d + 0.08), tall * 0.62),
                (arm * (d + 0.06), tall * (0.5 + 0.02 * arm * swing)),
            ],
            0.1,
            tone(coat, 0.82),
        )
        b.oval(arm * (d + 0.06), tall * 0.48, 0.045, 0.055, skin)
    b.poly([(-d * 0.5, shoulder + 0.05), (d * 0.5, shoulder + 0.05), (d, shoulder - 0.03), (d * 0.92, tall * 0.52),
            (d, coat_end), (-d, coat_end), (-d * 0.92, tall * 0.52), (-d, shoulder - 0.03)], coat)  # fmt: skip
    if pack is not None and facing == "front":
        for arm in (-1, 1):
            b.limb(
                [
                    (arm * d * 0.62, shoulder + 0.04),
                    (arm * d * 0.62, shoulder - 0.3),
                    (arm * d * 0.95, shoulder - 0.42),
                ],
                0.09,
                pack,
            )
    elif pack is not None:
        top, low = shoulder + 0.05, shoulder - 0.5
        b.poly([(-d * 0.9, top - 0.06), (-d * 0.55, top), (d * 0.55, top), (d * 0.9, top - 0.06),
                (d * 1.02, low + 0.05), (d * 0.85, low), (-d * 0.85, low), (-d * 1.02, low + 0.05)],
               pack, glow=SHEEN)  # fmt: skip
        b.poly(
            [(-d * 0.55, low + 0.25), (d * 0.55, low + 0.25), (d * 0.6, low + 0.05), (-d * 0.6, low + 0.05)],
            tone(pack, 0.72),
            glow=SHEEN,
        )
        b.limb([(-d * 0.6, top - 0.14), (d * 0.6, top - 0.14)], 0.03, tone(pack, 0.6))
    elif facing == "front":
        b.limb([(0.0, shoulder), (0.0, coat_end + 0.02)], 0.025, tone(coat, 0.65))


def _head(b: Brush, tall: float, skin: Paint, hair: Paint, hat: Paint | None, facing: str) -> None:
    y = tall * 0.925
    b.limb([(0.0, tall * 0.82), (0.01, tall * 0.87)], 0.1, tone(skin, 0.85))
    b.oval(0.0, y, 0.095, 0.125, hair if facing == "back" else skin)
    if facing == "front":
        b.poly(
            [
                (-0.1, y + 0.03),
                (-0.08, y + 0.12),
                (0.0, y + 0.145),
                (0.08, y + 0.12),
                (0.1, y + 0.03),
                (0.06, y + 0.065),
                (-0.06, y + 0.07),
            ],
            hair,
        )
        for ex in (-0.036, 0.036):
            b.oval(ex, y + 0.015, 0.017, 0.01, (225, 225, 225))
            b.oval(ex, y + 0.015, 0.009, 0.01, (40, 36, 34))
            b.limb([(ex - 0.02, y + 0.042), (ex + 0.02, y + 0.044)], 0.012, tone(hair, 0.8))
        b.limb([(0.0, y + 0.01), (0.01, y - 0.028)], 0.014, tone(skin, 0.8))
        b.limb([(-0.028, y - 0.062), (0.028, y - 0.062)], 0.016, (92, 84, 150))
    elif facing == "side":
        b.poly(
            [
                (-0.1, y - 0.07),
                (-0.105, y + 0.05),
                (-0.05, y + 0.135),
                (0.05, y + 0.13),
                (0.08, y + 0.07),
                (0.02, y + 0.05),
                (-0.01, y - 0.02),
            ],
            hair,
        )
        b.poly([(0.085, y + 0.02), (0.118, y - 0.03), (0.085, y - 0.035)], skin)
        b.oval(0.055, y + 0.015, 0.013, 0.012, (40, 36, 34))
    if hat is not None:
        b.poly(
            [(-0.11, y + 0.05), (-0.095, y + 0.14), (0.0, y + 0.175), (0.095, y + 0.14), (0.11, y + 0.05)],
            tone(hat, 0.8),
        )
