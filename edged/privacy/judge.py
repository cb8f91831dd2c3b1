"""Whether a picture is too dark or too blurred for any detector to be trusted with it.

Guarantees: three numbers from the grey picture, in about two milliseconds, and a verdict by limits. The limits stand
where CenterFace, with night.py's lift and at its score to start, falls under three quarters of the faces of 16 pixels
and more (docs/privacy.md, "Too dark or too blurred", has the curve). Does not guarantee: that a picture without a
verdict is easy; that blur is seen in the dark, in tiles, behind a sharp caption on an otherwise empty picture, or of
things that move in a picture that stands still.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from edged.privacy.detect import View

TOO_DARK, TOO_BLURRED = "too_dark", "too_blurred"
WIDE = 640  # of the grey picture, at most; half of small ones, which may have been enlarged
NARROW = 160  # narrower than this, one smooth thing fills the picture: its slopes are no blur
SPAN = 6  # of its pixels: an edge that takes longer than this is none
RISE = 24  # grey levels of an edge that counts
EDGES, COARSE_EDGES = 0.002, 0.01  # of all places, to judge by: at the full and at coarser scales
SCALES = (1, 2, 4)

_ROUGHNESS = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)  # Immerkaer 1996, as in night.py


class Judgement(NamedTuple):
    """`light` is the grey level (0..255) that a quarter of the picture exceeds, so that a lamp in a black picture is no
    light. `sharpness` (0..1) is the steepest step of its edges over their rise; 1 = there is no edge to judge by.
    `grain` is its noise in grey levels: a camera turns darkness into grain by its own gain."""

    light: float
    sharpness: float
    grain: float


class Limits(NamedTuple):
    """A picture under `light` or `sharpness`, or over `grain`, is not trusted."""

    light: float = 10.0
    sharpness: float = 0.245
    grain: float = 17.0


def judge(view: View) -> Judgement:
    """Light, sharpness and grain of a picture."""
    width = max(1, min(WIDE, view.width // 2))
    grey = view.luma(width, max(1, round(view.height * width / view.width)))
    rough = np.abs(cv2.filter2D(grey, cv2.CV_16S, _ROUGHNESS)[::3, ::3])
    grain = float(np.median(rough)) / (6 * 0.6745)
    sharp = sharpness(grey) if width >= NARROW else 1.0
    return Judgement(float(np.percentile(grey[::3, ::3], 75)), sharp, grain)


def verdict(judgement: Judgement, limits: Limits) -> str:
    """ "", "too_dark" or "too_blurred"."""
    if judgement.light < limits.light or judgement.grain > limits.grain:
        return TOO_DARK
    return TOO_BLURRED if judgement.sharpness < limits.sharpness else ""


def sharpness(grey: NDArray[np.uint8]) -> float:
    """How steep the edges of a grey picture [h,w] are, 0..1: the smaller of its two directions, since motion blurs one.

    A step of one pixel gives 1, a slope over n pixels 1/n. The idea is that of Marziliano et al. 2002 (doi
    10.1109/ICIP.2002.1038902): blur is the width of edges. A plain wall has none, which says nothing: 1. Where a
    picture has edges at half or a quarter of its size only, they are that much wider.
    """
    worst = 1.0
    for axis in (grey, np.ascontiguousarray(grey.T)):
        for scale in SCALES:
            size = axis.shape[1] // scale, axis.shape[0] // scale
            if min(size) <= 2 * SPAN:
                break
            sized = axis if scale == 1 else np.asarray(cv2.resize(axis, size, interpolation=cv2.INTER_AREA), np.uint8)
            steep, share = _edges(sized)
            if share >= (EDGES if scale == 1 else COARSE_EDGES):
                worst = min(worst, steep / scale)
                break
    return worst


def _edges(grey: NDArray[np.uint8]) -> tuple[float, float]:
    """Steepness of the middle one of the edges along x, and the share of places that lie on one."""
    even = np.ascontiguousarray(cv2.blur(grey, (1, 3))[::6])  # along the edge, so that noise makes no steps
    step = cv2.absdiff(even[:, 1:], even[:, :-1])
    steepest = cv2.dilate(step, np.ones((1, SPAN), np.uint8), anchor=(0, 0))
    rise = cv2.absdiff(even[:, SPAN:], even[:, :-SPAN])
    edge = rise >= RISE
    share = float(edge.mean())
    if share == 0:
        return 1.0, 0.0
    return min(1.0, float(np.median(steepest[:, : rise.shape[1]][edge] / rise[edge]))), share
