"""Small pictures with a face and a plate in colours that nothing else in them has, and that JPEG keeps.

So a stored picture can be asked whether it shows anything planted, and whose picture it is, without a detector.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from edged.engine import patterns
from edged.privacy import selftest
from edged.privacy.detect import Found, View

WIDTH, HEIGHT = 320, 180
COLOURS = {"face": (200, 30, 220), "plate": (220, 210, 20)}  # BGR
STRONG = 60  # between the largest and the smallest channel; the scene itself is grey
MANY = 12  # pixels of a colour that are no accident of JPEG

Image = NDArray[np.uint8]
Box = tuple[int, int, int, int]


class Signed(NamedTuple):
    image: Image
    face: Box
    plate: Box


def picture(seed: int, width: int = WIDTH, height: int = HEIGHT, *, places: int | None = None) -> Signed:
    """A grey scene of its own for every seed with a face and a plate in it, where a seed of their own puts them."""
    grey = cv2.cvtColor(patterns.picture(seed, width)[:height], cv2.COLOR_BGR2GRAY) // 2 + 60
    grain = np.random.default_rng(seed).integers(-6, 7, grey.shape)
    scene = np.clip(grey + grain, 0, 255).astype(np.uint8)
    image = np.ascontiguousarray(np.repeat(scene[..., None], 3, axis=2))
    rng = np.random.default_rng(seed + 1 if places is None else places)
    face = selftest.draw_face(image, int(rng.integers(60, 90)), int(rng.integers(70, 90)), 24)
    plate = selftest.draw_plate(image, int(rng.integers(220, 250)), int(rng.integers(100, 130)), 56)
    return Signed(*signed(image, face, plate))


def signed(image: Image, face: Box, plate: Box) -> tuple[Image, Box, Box]:
    """The picture with both painted over, in place, keeping their drawing as light and shade."""
    for (x, y, w, h), colour in ((face, COLOURS["face"]), (plate, COLOURS["plate"])):
        light = cv2.cvtColor(image[y : y + h, x : x + w], cv2.COLOR_BGR2GRAY)[..., None] / 255 * 0.3 + 0.7
        image[y : y + h, x : x + w] = light * np.array(colour)
    return image, face, plate


def where(image: Image, kind: str) -> NDArray[np.bool_]:
    """Pixels of a planted thing's colour."""
    blue, green, red = (image[..., i].astype(int) for i in range(3))
    low, others = (green, (blue, red)) if kind == "face" else (red, (blue, green))
    return np.asarray((others[0] - low > STRONG) & (others[1] - low > STRONG))


def shows(image: Image) -> list[str]:
    """Kinds of planted things that can be seen."""
    return [kind for kind in COLOURS if where(image, kind).sum() > MANY]


def same_scene(image: Image, original: Image) -> bool:
    """Whether a scrubbed picture was made from this one, or shows nothing at all; both [h,w,3]."""
    if image.shape != original.shape:
        return False
    apart = np.abs(image.astype(int) - original).max(axis=2)
    grey = (np.abs(image.astype(int) - 128) <= 6).all(axis=2)
    return bool(grey.all() or ((~grey).mean() > 0.3 and np.median(apart[~grey]) < 10))


class ColourDetector:
    """See detect.Detector: finds a planted thing by its colour."""

    start, keep, runtime, sha256 = 0.5, 0.3, "colour", "c" * 64

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def find(self, view: View) -> list[Found]:
        seen = where(view.image, self.kind)
        if seen.sum() <= MANY:
            return []
        x, y, w, h = cv2.boundingRect(seen.astype(np.uint8))
        return [Found(self.kind, float(x), float(y), float(w), float(h), 0.9)]
