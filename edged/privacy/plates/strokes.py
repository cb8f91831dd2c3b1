"""First detector of licence plates: text-like strokes in a plate-shaped window, judged by a tiny fitted classifier.

At six sizes (plates of 60 to 320 pixels width) every window of 48x12 pixels that is crossed by upright edges along its
whole length is described by 15 numbers: edges within, above, below, left and right of it, how evenly they are spread,
brightness against the surroundings. A network of 15-12-1 units (plate_weights.py) scores them.

Guarantees: nothing but simplicity; it reads no characters. Does not guarantee recall: on a public dashcam set, held out
by film (weights fitted without the film that was asked about), it hid 84 of 100 plates and 3.4 % of the picture without
need, by night 6 %. Text on shop fronts and vehicles looks like a plate to it. A properly trained one replaces it later.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from edged.privacy.plates import stroke_weights as weights
from edged.privacy.scrub import Withheld
from edged.privacy.talk import Box

Float = NDArray[np.float32]

WINDOW = 48  # pixels of a plate's width at the size at which it is judged; its height is a quarter
WIDTHS = (60, 84, 118, 165, 230, 320)  # plate widths in pixels, one per size
STEP = 4  # pixels between windows
EVEN_AT_LEAST = 0.35  # edge strength of the weakest quarter of a window
THRESHOLD = 1.0  # log-odds
WIDEST = 1280  # larger pictures are shrunk to this width first
GROWN = (1.0, 1.15)  # width and height of a box in windows; the caller adds its margin


def find(image: NDArray[np.uint8]) -> list[Box]:
    """Boxes (x, y, w, h in pixels) that may be of plates in a BGR picture [h,w,3], many to one plate.

    Raises Withheld (code detector) when the numbers are none.
    """
    height, width = image.shape[:2]
    grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    shrink = min(1.0, WIDEST / width)
    found: list[Box] = []
    for plate in WIDTHS:
        scale = shrink * WINDOW / plate
        if min(width, height) * scale < WINDOW / 2:
            break
        sized = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        for x0, y0, x1, y1 in _windows(np.asarray(sized, dtype=np.float32)):
            left, top = max(0, int(x0 / scale)), max(0, int(y0 / scale))
            right, bottom = min(width, int(np.ceil(x1 / scale))), min(height, int(np.ceil(y1 / scale)))
            if right > left and bottom > top:
                found.append((left, top, right - left, bottom - top))
    return found


def _windows(grey: Float) -> list[tuple[float, float, float, float]]:
    """Corners of the windows that score as plates at one size."""
    rows, columns, numbers = _describe(grey)
    if len(rows) == 0:
        return []
    hidden = np.maximum(weights.W1.T @ numbers + weights.B1[:, None], 0)
    score = weights.W2 @ hidden + weights.B2
    if not np.isfinite(score).all():
        raise Withheld("the plate detector computed numbers that are none", code="detector")
    across, down = WINDOW / 2 * GROWN[0], WINDOW / 8 * GROWN[1]
    return [
        (x - across, y - down, x + across, y + down)
        for x, y in zip(columns[score > THRESHOLD].tolist(), rows[score > THRESHOLD].tolist(), strict=True)
    ]


def _describe(grey: Float) -> tuple[NDArray[np.intp], NDArray[np.intp], Float]:
    """Centres (row, column) of the windows worth a look and 15 numbers for each, [15,n]."""
    upright, level = (np.asarray(cv2.Sobel(grey, cv2.CV_32F, dx, 1 - dx, ksize=3), np.float32) for dx in (1, 0))
    mean = _mean(grey, 72, 36)
    spread = np.maximum(_mean(grey * grey, 72, 36) - mean * mean, 0)
    contrast = np.float32(1) / (np.sqrt(spread) + np.float32(6))  # by night the same strokes are fainter
    signed = upright * contrast
    edges = np.minimum(np.abs(signed), 6)
    rows, columns, even = _even_windows(edges)
    if len(rows) == 0:
        return rows, columns, np.zeros((15, 0), np.float32)

    def at(values: Float, dx: int, dy: int) -> Float:
        height, width = values.shape
        return values[np.clip(rows + dy, 0, height - 1), np.clip(columns + dx, 0, width - 1)]

    text, band, side = _mean(edges, 48, 9), _mean(edges, 48, 4), _mean(edges, 9, 9)
    rising = _mean(np.clip(signed, 0, 6), 48, 9)
    lying = _mean(np.minimum(np.abs(level) * contrast, 6), 48, 12)
    light, light_band, light_side = _mean(grey, 42, 8), _mean(grey, 48, 4), _mean(grey, 9, 9)
    e, p, local, bright = at(text, 0, 0), at(rising, 0, 0), at(contrast, 0, 0), at(light, 0, 0)
    numbers = [
        e, at(band, 0, -10), at(band, 0, 10), at(side, -32, 0), at(side, 32, 0), even, at(lying, 0, 0),
        np.minimum(p, e - p),
        (bright - np.maximum(at(light_band, 0, -10), at(light_band, 0, 10))) * local,
        (bright - np.maximum(at(light_side, -33, 0), at(light_side, 33, 0))) * local,
        1 / local / 50,
        np.log(e + 0.05), np.log(even + 0.05),
        at(band, 0, -6) - at(band, 0, -2), at(band, 0, 6) - at(band, 0, 2),
    ]  # fmt: skip
    return rows, columns, np.stack(numbers).astype(np.float32)


def _even_windows(edges: Float) -> tuple[NDArray[np.intp], NDArray[np.intp], Float]:
    """Centres of windows each quarter of which has edges, and the edge strength of their weakest quarter."""
    far, near = 18, 6  # of the quarters' middles from the window's
    quarter = _mean(edges, 12, 9)[::STEP]
    columns = np.arange(0, edges.shape[1], STEP)
    padded = np.pad(quarter, ((0, 0), (far, far)), mode="edge")
    offsets = (0, far - near, far + near, 2 * far)
    weakest = np.min([padded[:, columns + offset] for offset in offsets], axis=0)
    at_row, at_column = np.nonzero(weakest > EVEN_AT_LEAST)
    return at_row * STEP, at_column * STEP, weakest[at_row, at_column]


def _mean(values: Float, width: int, height: int) -> Float:
    return np.asarray(cv2.boxFilter(values, -1, (width, height), borderType=cv2.BORDER_REPLICATE), dtype=np.float32)
