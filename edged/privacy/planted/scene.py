"""A picture with three faces and three plates, one of each size, at known places; light and camera as the seed says.

Guarantees: the same seed gives the same picture (up to rounding between versions of OpenCV), of any size from 640x360;
no neutral grey, which is the colour that covers. Does not guarantee: that it looks like a street. Sizes are for a
picture 1280 wide and shrink with it.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from edged.engine import patterns
from edged.privacy.planted import figures
from edged.privacy.planted.figures import Figure, Rng
from edged.privacy.sizes import SIZES
from edged.privacy.talk import Spot

COLUMNS, ROWS = 3, 2
LIGHTS = (("day", 0.5), ("dusk", 0.3), ("night", 0.2))
GAIN = {"day": (0.85, 1.1), "dusk": (0.4, 0.6), "night": (0.2, 0.32)}
NOISE = {"day": (1.0, 4.0), "dusk": (3.0, 7.0), "night": (5.0, 10.0)}  # grey levels
BLUR = {"day": 0.8, "dusk": 1.1, "night": 1.3}  # pixels (standard deviation), at most


class Scene(NamedTuple):
    """BGR uint8 [h,w,3]. `easy` = for each spot, whether no scrubber that works can miss it."""

    image: NDArray[np.uint8]
    spots: tuple[Spot, ...]
    easy: tuple[bool, ...]
    light: str


def draw(seed: int, width: int, height: int) -> Scene:
    """The picture of a seed, 0 <= seed < 2**32."""
    rng = Rng(seed)
    light = _one_of(rng, LIGHTS)
    image = _backdrop(rng, width, height)
    scale = width / 1280
    cells = [(i % COLUMNS, i // COLUMNS) for i in rng.permutation(COLUMNS * ROWS)]
    spots: list[Spot] = []
    easy: list[bool] = []
    for (column, row), (kind, size) in zip(cells, [(k, s) for k in SIZES for s in SIZES[k]], strict=True):
        figure, real = _figure(rng, kind, size)
        low, below = SIZES[kind][size]
        px = float(np.exp(rng.uniform(np.log(low), np.log(below - 1)))) * scale
        room = (width * column / COLUMNS, height * row / ROWS, width / COLUMNS, height / ROWS)
        spots.append(_place(rng, image, figure, kind, px, room))
        easy.append(real and size == "large" and light == "day")
    seen = _seen(rng, image, light, soft=light != "day" or rng.uniform() < 0.5)
    return Scene(seen, tuple(spots), tuple(easy), light)


def _one_of(rng: Rng, shares: tuple[tuple[str, float], ...]) -> str:
    at = float(rng.uniform())
    for name, share in shares:
        at -= share
        if at < 0:
            return name
    return shares[-1][0]


def _figure(rng: Rng, kind: str, size: str) -> tuple[Figure, bool]:
    """A figure, and whether it is one that a detector knows well: the photograph, or a plate."""
    if kind == "plate":
        return figures.plate(rng), True
    real = bool(rng.uniform() < (0.75 if size == "large" else 0.5))
    figure = figures.photograph() if real else figures.drawing(rng)
    return (figures.mirrored(figure) if rng.uniform() < 0.5 else figure), real


def _backdrop(rng: Rng, width: int, height: int) -> NDArray[np.float32]:
    """A wall of soft colours, a ground with stripes, windows and posts."""
    wall = patterns.picture(int(rng.randint(1 << 20)), 64)[: max(8, 64 * height // width)]
    image = np.asarray(cv2.resize(wall, (width, height), interpolation=cv2.INTER_CUBIC), np.float32) * 0.25 + 95
    ground = round(height * float(rng.uniform(0.45, 0.75)))
    image[ground:] = image[ground:] * 0.5 + rng.uniform(20, 60, 3).astype(np.float32)
    for _ in range(rng.randint(2, 7)):
        x, y = int(rng.randint(width)), int(rng.randint(ground))
        w, h = int(rng.randint(width // 40, width // 9)), int(rng.randint(height // 20, height // 4))
        cv2.rectangle(image, (x, y), (x + w, y + h), rng.uniform(30, 220, 3).tolist(), -1, cv2.LINE_AA)
    for _ in range(rng.randint(0, 4)):
        x = int(rng.randint(width))
        cv2.line(image, (x, 0), (x, height), rng.uniform(20, 120, 3).tolist(), int(rng.randint(2, 9)), cv2.LINE_AA)
    for _ in range(rng.randint(0, 4)):
        x, slope = int(rng.randint(width)), int(rng.randint(-width // 4, width // 4))
        cv2.line(image, (x, ground), (x + slope, height), (200, 205, 205), int(rng.randint(2, 7)), cv2.LINE_AA)
    return np.asarray(np.clip(image, 0, 255), np.float32)


def _place(
    rng: Rng, image: NDArray[np.float32], figure: Figure, kind: str, px: float, room: tuple[float, float, float, float]
) -> Spot:
    """Shrink a figure so that its box is `px` wide, and put it somewhere in its room, in place."""
    scale = px / figure.box[2]
    w, h = max(2, round(figure.alpha.shape[1] * scale)), max(2, round(figure.alpha.shape[0] * scale))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    bgr = np.asarray(cv2.resize(figure.bgr, (w, h), interpolation=how), np.float32)
    alpha = np.clip(np.asarray(cv2.resize(figure.alpha, (w, h), interpolation=how), np.float32), 0, 1)[..., None]
    fx, fy, fw, fh = (v * scale for v in figure.box)
    # The box stays inside its room; what is around it may reach out of the picture.
    x = round(room[0] + 8 + float(rng.uniform()) * max(0.0, room[2] - fw - 16) - fx)
    y = round(room[1] + 8 + float(rng.uniform()) * max(0.0, room[3] - fh - 16) - fy)
    left, top, right, bottom = max(0, x), max(0, y), min(image.shape[1], x + w), min(image.shape[0], y + h)
    left, right = max(left, round(room[0])), min(right, round(room[0] + room[2]))
    top, bottom = max(top, round(room[1])), min(bottom, round(room[1] + room[3]))
    there = image[top:bottom, left:right]
    part = alpha[top - y : bottom - y, left - x : right - x]
    there[:] = there * (1 - part) + bgr[top - y : bottom - y, left - x : right - x] * part
    return Spot(kind, x + fx, y + fy, fw, fh)


def _seen(rng: Rng, image: NDArray[np.float32], light: str, soft: bool) -> NDArray[np.uint8]:
    """What a camera makes of it: gain, colour cast, lens, noise."""
    cast = float(rng.choice((-1, 1)) * rng.uniform(0.1, 0.14))  # no white balance is perfect, and no grey neutral
    gains = np.array([1 + cast, 1, 1 - cast], np.float32) * float(rng.uniform(*GAIN[light]))
    image = np.clip(image, 0, 255) * gains
    blur = float(rng.uniform(0, BLUR[light]))
    if soft and blur > 0.2:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), blur), np.float32)
    grain = rng.normal(0, 1, (image.shape[0] // 2 + 1, image.shape[1] // 2 + 1, 1)).astype(np.float32)
    coarse = cv2.resize(grain, (image.shape[1], image.shape[0]), interpolation=cv2.INTER_LINEAR)[..., None]
    noise = float(rng.uniform(*NOISE[light]))
    return np.clip(np.rint(image + coarse * noise), 0, 255).astype(np.uint8)
