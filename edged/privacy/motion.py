"""What changed from one frame of a film to the next: where the scene went, whether all stands still, whether it is new.

Guarantees: a shift is reported only where moving the frame before by it explains the new one clearly better than leaving
it in place; all is still only when no part of the picture changed by more than noise since the frame that was looked at.
Does not guarantee: that turning or zooming is followed; only whole shifts are. About a millisecond per 720p frame.

Phase correlation: Kuglin and Hines 1975, as in cv2.phaseCorrelate, on a picture 160 pixels wide.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from edged.privacy.track import Shift

WIDE = 320  # of the picture that stillness is judged on; half of it for the shift
PART = 8  # stillness is judged on parts of 8x8 of its pixels: 32x32 of a 720p frame
NOISE = 3.0  # mean difference in grey levels of a part that the camera's noise and the codec make
EXPLAINED = 0.7  # a shift must leave less than this share of the difference
ALIKE = 0.3  # correlation of two frames; below it, and with a large difference, they show different scenes
CUT = 18.0  # mean difference in grey levels below which nothing is called a new scene
STIR = 6.0  # mean difference left unexplained from which a frame is looked at at once


class Change(NamedTuple):
    """What a frame has to do with the one before it."""

    small: NDArray[np.uint8]  # the frame, grey
    shift: Shift = (0.0, 0.0)  # of the whole scene, pixels right and down
    calm: bool = False  # nothing moved
    stir: bool = False  # much moved, and not as a whole
    cut: bool = False  # another scene


class Motion:
    """Give it every frame in order, and say which ones were looked at."""

    def __init__(self) -> None:
        self._before: NDArray[np.uint8] | None = None
        self._looked: NDArray[np.uint8] | None = None

    def step(self, image: NDArray[np.uint8]) -> Change:
        """The next frame, BGR [h,w,3]."""
        height, width = image.shape[:2]
        high = max(2 * PART, round(WIDE * height / width))
        grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
        small = np.asarray(cv2.resize(grey, (WIDE, high), interpolation=cv2.INTER_AREA), np.uint8)
        before, self._before = self._before, small
        if before is None:
            return Change(small, cut=True)
        if stands_still(before, small):
            return Change(small, calm=True)
        (dx, dy), stir, cut = compare(_half(before), _half(small))
        scale = width / (WIDE // 2)
        return Change(small, (dx * scale, dy * scale), False, stir, cut)

    def looked(self, change: Change) -> None:
        """The frame of this change was looked at."""
        self._looked = change.small

    def still(self, change: Change) -> bool:
        """Whether nothing moved between the last look and the frame of this change."""
        return change.calm and self._looked is not None and stands_still(self._looked, change.small)


def stands_still(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> bool:
    """Whether no part differs by more than noise; both grey, of one size."""
    apart = cv2.absdiff(one, other)
    high, wide = apart.shape
    parts = cv2.resize(apart, (max(1, wide // PART), max(1, high // PART)), interpolation=cv2.INTER_AREA)
    return bool(parts.max() <= NOISE)


def compare(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> tuple[Shift, bool, bool]:
    """(shift in pixels of these grey pictures, stir, cut)."""
    one, other = before.astype(np.float32), after.astype(np.float32)
    high, wide = one.shape
    window = cv2.createHanningWindow((wide, high), cv2.CV_32F)
    (dx, dy), _ = cv2.phaseCorrelate(one * window, other * window)  # given the window, OpenCV 5.0 writes to its inputs
    plain = float(np.abs(other - one).mean())
    if abs(dx) < wide * 0.4 and abs(dy) < high * 0.4:
        moved = cv2.warpAffine(one, np.array([[1, 0, dx], [0, 1, dy]], np.float64), (wide, high))
        left, right = max(0, int(np.ceil(dx))), wide + min(0, int(np.floor(dx)))
        top, bottom = max(0, int(np.ceil(dy))), high + min(0, int(np.floor(dy)))
        rest = float(np.abs(other - moved)[top:bottom, left:right].mean())
        if rest < EXPLAINED * plain:
            return (dx, dy), rest > STIR, False
    alike = float(np.corrcoef(one.ravel(), other.ravel())[0, 1]) if one.std() > 1 and other.std() > 1 else 0.0
    return (0.0, 0.0), plain > STIR, plain > CUT and alike < ALIKE


def _half(small: NDArray[np.uint8]) -> NDArray[np.uint8]:
    size = (small.shape[1] // 2, small.shape[0] // 2)
    return np.asarray(cv2.resize(small, size, interpolation=cv2.INTER_AREA), np.uint8)
