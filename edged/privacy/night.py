"""Light for what a detector sees: dark parts are lifted, and what is noise after that is smoothed.

Guarantees: a picture in daylight comes back as it is, untouched; nothing here reaches a picture that is kept. Does not
guarantee: that anything can be seen; below some light there is nothing to lift (judge.py).

The lift is local, as in the centre/surround Retinex (Jobson et al. 1997, doi 10.1109/83.557356), with the surround
taken on cells of 16 pixels: a lamp in the picture does not keep the rest of it dark.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

CELL = 16
TARGET = 90  # grey level that the surroundings of a pixel are lifted to
MOST = 12  # times
DIM, DARK = 1.1, 2.0  # mean gain from which a picture is lifted at all, and is a poor one
GRAIN = 2.0  # grey levels of noise from which colours are smoothed,
ROUGH = 6.0  # light too,
COARSE = 17.0  # and more of it
STEPS = 16  # of the gain map, to one

# Immerkaer 1996 (doi 10.1006/cviu.1996.0060): blind to edges and to even slopes of light; its norm is 6.
_ROUGHNESS = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)


class Lifted(NamedTuple):
    """`picture` is BGR [h,w,3]; `gain` what it was multiplied by in the mean; `noise` the standard deviation of its
    noise in grey levels, with that gain and before it was smoothed."""

    picture: NDArray[np.uint8]
    gain: float
    noise: float

    @property
    def poor(self) -> bool:
        """Whether it is so dark or grainy that detectors see worse in it than by day."""
        return self.gain >= DARK or self.noise >= GRAIN


def lift(picture: NDArray[np.uint8]) -> Lifted:
    """The same picture with light in its dark parts; `picture` is BGR [h,w,3] and not written to."""
    height, width = picture.shape[:2]
    grey = cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY)
    cells = max(2, width // CELL), max(2, height // CELL)
    around = cv2.GaussianBlur(cv2.resize(grey, cells, interpolation=cv2.INTER_AREA).astype(np.float32), (0, 0), 2)
    gain = np.clip(TARGET / (around + 4), 1, MOST)
    out = picture
    times: NDArray[np.float64] = np.ones((1, 1))
    if gain.mean() >= DIM:
        steps = np.rint(gain * STEPS).astype(np.uint8)
        wide = cv2.resize(cv2.merge([steps] * 3), (width, height), interpolation=cv2.INTER_LINEAR)
        out = np.asarray(cv2.multiply(picture, wide, scale=1 / STEPS, dtype=cv2.CV_8U), np.uint8)
        times = wide[::4, ::4, 0].astype(np.float64) / STEPS
    rough = np.abs(cv2.filter2D(grey, cv2.CV_16S, _ROUGHNESS)[::4, ::4])
    noise = float(np.median(rough * times)) / (6 * 0.6745)
    return Lifted(smooth(out, noise), float(gain.mean()), noise)


def smooth(picture: NDArray[np.uint8], noise: float) -> NDArray[np.uint8]:
    """Colours are smoothed first: a face needs them less, and they carry most of a dark picture's noise."""
    if noise < GRAIN:
        return picture
    light = cv2.cvtColor(picture, cv2.COLOR_BGR2YCrCb)
    out = cv2.blur(light, (5, 5))
    grey = cv2.extractChannel(light, 0)
    if noise >= ROUGH:
        grey = cv2.GaussianBlur(grey, (0, 0), 0.9 if noise < COARSE else 1.3)
    return np.asarray(cv2.cvtColor(cv2.insertChannel(grey, out, 0), cv2.COLOR_YCrCb2BGR), np.uint8)
