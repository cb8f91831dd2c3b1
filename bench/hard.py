"""Harder copies of an annotated picture: night-like and blurred ones, and a pan across it. Same seed, same copies.

Night: edged.privacy.examine's darkening (linear light, a sensor's shot and read noise, sRGB's curve), then JPEG at quality
85. Nothing brightens the picture again, as in a camera whose exposure is fixed; the lamps of a real night are not drawn.

Blur: a Gaussian of so many pixels' standard deviation (out of focus), or a straight smear of so many pixels to the side
(motion), then JPEG.

Pan: a window of 3/4 of the picture's width and height glides from its upper left to its lower right corner at SPEED
pixels a frame (150 a second at 25 frames a second), at most FRAMES frames; each frame gets a little noise and goes
through JPEG, as a camera's would.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import cv2
import numpy as np

from bench.annotated import Box, Image
from edged.privacy.examine import in_less_light

QUALITY = 85
WINDOW = 0.75
SPEED = 6.0
FRAMES = 24

Rng = np.random.Generator
Copy = Callable[[Image, Rng], Image]


def night(image: Image, rng: Rng, *, light: float) -> Image:
    """The picture in this share of its light."""
    return jpeg(in_less_light(image, light, rng))


def out_of_focus(image: Image, rng: Rng, *, px: float) -> Image:
    """Blurred evenly."""
    return jpeg(np.asarray(cv2.GaussianBlur(image, (0, 0), px), np.uint8))


def in_motion(image: Image, rng: Rng, *, px: int) -> Image:
    """Smeared to the side by an odd number of pixels."""
    return jpeg(np.asarray(cv2.blur(image, (px, 1)), np.uint8))


NIGHT: dict[str, Copy] = {f"1/{n} of the light": partial(night, light=1 / n) for n in (8, 32, 128, 512)}
BLUR: dict[str, Copy] = {
    **{f"blur {px} px": partial(out_of_focus, px=px) for px in (2, 4)},
    **{f"motion {px} px": partial(in_motion, px=px) for px in (15, 31)},
}


def pan(image: Image, boxes: tuple[Box, ...], rng: Rng) -> Iterator[tuple[Image, dict[int, Box]]]:
    """Frames, each with the boxes that lie wholly inside it, by their number in `boxes`."""
    height, width = image.shape[:2]
    window = (max(16, round(width * WINDOW)), max(16, round(height * WINDOW)))
    way = np.array([width - window[0], height - window[1]], float)
    length = max(1.0, float(np.hypot(*way)))
    steps = int(min(FRAMES - 1, max(1, length // SPEED)))
    step = way / length * SPEED
    for i in range(steps + 1):
        left, top = step * i
        shift = np.array([[1, 0, -left], [0, 1, -top]], np.float32)
        frame = np.asarray(
            cv2.warpAffine(image, shift, window, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        )
        noise = rng.standard_normal(frame.shape, dtype=np.float32) * 2
        frame = jpeg(np.clip(frame + noise, 0, 255).astype(np.uint8))
        moved = {n: b._replace(x=b.x - left, y=b.y - top) for n, b in enumerate(boxes)}
        inside = {
            n: b
            for n, b in moved.items()
            if b.x >= 0 and b.y >= 0 and b.x + b.w <= window[0] and b.y + b.h <= window[1]
        }
        yield frame, inside


def jpeg(image: Image) -> Image:
    """The picture as it comes out of a JPEG."""
    data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1]
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)
