"""What every detector of private content has in common, and the picture as they see it.

Guarantees: nothing but shapes. A detector reports places and scores, never what it read or whom it saw: `Found` has no
field for a text or an embedding. An installer's own detector is any object with this Protocol (plugin.py has one for
ONNX files).
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from edged.privacy.scrub import Withheld

SLACK = 1e-3  # of a score that rounding pushed out of 0..1


class Found(NamedTuple):
    """A box in pixels of the whole picture; it may reach beyond the picture's edges. `score` is 0..1."""

    kind: str
    x: float
    y: float
    w: float
    h: float
    score: float


class View:
    """One decoded picture and the sizes and forms that detectors ask for; each is made once. Not to be written to."""

    def __init__(self, bgr: NDArray[np.uint8]) -> None:
        self.image = bgr  # [h,w,3]
        self.height, self.width = bgr.shape[:2]
        self._made: dict[tuple[str, int, int], NDArray[np.uint8]] = {}

    def bgr(self, width: int, height: int) -> NDArray[np.uint8]:
        """[height,width,3], resized by area when it shrinks to less than half, else bilinear (a sixth of the time)."""
        return self._form("bgr", width, height, self.image)

    def luma(self, width: int, height: int) -> NDArray[np.uint8]:
        """[height,width], of the picture made grey at its full size once (ITU-R BT.601)."""
        if (grey := self._made.get(("luma", self.width, self.height))) is None:
            grey = np.asarray(cv2.cvtColor(self.image, cv2.COLOR_BGR2GRAY), np.uint8)
            self._made["luma", self.width, self.height] = grey
        return self._form("luma", width, height, grey)

    def _form(self, form: str, width: int, height: int, source: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if (width, height) == (self.width, self.height):
            return source
        if (made := self._made.get((form, width, height))) is None:
            area_from = 1 if form == "luma" else 2  # plate weights were trained on luma by area
            how = cv2.INTER_AREA if width * area_from < self.width else cv2.INTER_LINEAR
            made = np.asarray(cv2.resize(source, (width, height), interpolation=how), np.uint8)
            self._made[form, width, height] = made
        return made


def plausible(scores: NDArray[np.float32], kind: str, *, of_all_places: bool = True) -> None:
    """Raises Withheld (code detector) for what no working network says of any picture: NaN, numbers beyond 0..1, or the
    same extreme for all places (a black picture, too, has different scores at its edges)."""
    low, high = (float(scores.min()), float(scores.max())) if scores.size else (0.0, 0.5)
    if not (low >= -SLACK and high <= 1 + SLACK):
        raise Withheld(f"the {kind} network answered with scores beyond 0..1", code="detector")
    if of_all_places and scores.size > 1 and low == high and low in (0.0, 1.0):
        raise Withheld(f"the {kind} network answers the same for every place", code="detector")


class Detector(Protocol):
    """Finds one kind of private content. Not thread-safe.

    `start` is the score from which a box is hidden by itself; `keep` (lower) the score from which it only prolongs a
    track that was there already (track.py). `find` returns every box from `keep` upwards.
    """

    kind: str  # "face", "plate", "person", "text", "screen" or the installer's own word
    start: float
    keep: float

    def find(self, view: View) -> list[Found]:
        """Raises Withheld (code detector) when it fails or computes numbers that are none; never returns in doubt."""
        ...
