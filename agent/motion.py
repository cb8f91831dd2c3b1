"""Where something moves: at most four regions of a picture, by background subtraction at reduced size.

Guarantees: regions lie inside the picture, are at least MIN_SIDE pixels on each side, largest first, at most four; a
change of the whole picture (lights switched, camera moved) gives none while the background is learnt anew. Does not
guarantee: that everything of interest moves, or that two things that touch come as two regions.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from edged.wire.messages import MAX_REGIONS

Box = tuple[int, int, int, int]  # x, y, w, h in pixels of the full picture

WORK_WIDTH = 320  # the subtractor sees the picture at this width: 1-2 ms a picture, and sensor noise is averaged away
MIN_SIDE = 48  # pixels of the full picture; smaller things cannot be told apart at 224x224
PAD = 0.08  # added on each side, so that a cut shows the whole thing
SLIM = 0.6  # a region is at least this wide for its height and the other way round
FLOOD = 0.55  # share of the picture: above it the light changed, nothing moved
RELEARN = 6  # pictures


class Motion:
    """Keeps a model of the still background; feed it each picture of one camera, in order."""

    def __init__(self, *, history: int = 240, threshold: float = 16.0) -> None:
        self._model = cv2.createBackgroundSubtractorMOG2(history, threshold, detectShadows=False)
        self._size: tuple[int, int] | None = None
        self._learn = RELEARN // 2

    def regions(self, image: NDArray[np.uint8]) -> tuple[Box, ...]:
        """`image` HxWx3 BGR uint8. The first pictures, and those after a change of light or size, give ()."""
        height, width = image.shape[:2]
        if self._size != (height, width):
            self._size, self._learn = (height, width), RELEARN // 2
        scale = max(1.0, width / WORK_WIDTH)
        small = cv2.resize(image, (round(width / scale), round(height / scale)), interpolation=cv2.INTER_AREA)
        small = cv2.GaussianBlur(small, (3, 3), 0)
        learning = self._learn > 0
        mask = self._model.apply(small, learningRate=0.4 if learning else -1)
        if learning:
            self._learn -= 1
            return ()
        if cv2.countNonZero(mask) > FLOOD * mask.size:
            self._learn = RELEARN
            return ()
        mask = cv2.morphologyEx(mask, cv2.MORPH_OPEN, np.ones((2, 2), np.uint8))
        mask = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, np.ones((9, 5), np.uint8))
        contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        found = [cv2.boundingRect(c) for c in contours if cv2.contourArea(c) >= 12]
        full = [_scaled(b, scale) for b in merged([(int(x), int(y), int(w), int(h)) for x, y, w, h in found])]
        large = [b for b in full if max(b[2], b[3]) >= MIN_SIDE and min(b[2], b[3]) >= MIN_SIDE / 3]
        large.sort(key=lambda b: (-b[2] * b[3], b))
        return tuple(padded(b, width, height) for b in large[:MAX_REGIONS])


def merged(boxes: list[Box], gap: int = 2) -> list[Box]:
    """Joins boxes that overlap or lie within `gap` of each other, until none do; the order is by position."""
    rest, done = sorted(boxes), []
    while rest:
        x, y, w, h = rest.pop(0)
        near = [b for b in rest if _near((x, y, w, h), b, gap)]
        if not near:
            done.append((x, y, w, h))
            continue
        rest = [b for b in rest if b not in near]
        group = [(x, y, w, h), *near]
        x0, y0 = min(b[0] for b in group), min(b[1] for b in group)
        x1, y1 = max(b[0] + b[2] for b in group), max(b[1] + b[3] for b in group)
        # what is done may touch the grown box: look at all of them again
        rest, done = sorted([*rest, *done, (x0, y0, x1 - x0, y1 - y0)]), []
    return done


def padded(box: Box, width: int, height: int) -> Box:
    """`box` with a margin and not too slim, moved and cut so that it lies inside a width x height picture."""
    x, y, w, h = box
    w2, h2 = w * (1 + 2 * PAD), h * (1 + 2 * PAD)
    w2, h2 = max(w2, SLIM * h2, MIN_SIDE), max(h2, SLIM * w2, MIN_SIDE)
    iw, ih = min(width, round(w2)), min(height, round(h2))
    x2 = min(max(0, round(x + w / 2 - iw / 2)), width - iw)
    y2 = min(max(0, round(y + h / 2 - ih / 2)), height - ih)
    return x2, y2, iw, ih


def _near(a: Box, b: Box, gap: int) -> bool:
    return (
        a[0] - gap < b[0] + b[2] and b[0] - gap < a[0] + a[2] and a[1] - gap < b[1] + b[3] and b[1] - gap < a[1] + a[3]
    )


def _scaled(box: Box, scale: float) -> Box:
    x, y, w, h = (round(v * scale) for v in box)
    return x, y, w, h
