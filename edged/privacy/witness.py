"""The child's second look: what was encoded is decoded again, and must be grey wherever something was to be hidden, and
the picture that was to be encoded everywhere else.

Guarantees: the word of an answer (`talk.word`) is given only after the very bytes that leave were looked at, by code
that shares nothing with the filling; so a filling that was skipped, a region cut from the raw picture, a raw picture
in the place of the scrubbed one or an earlier frame's picture in the place of this one's ends in Withheld, and what
changes on the way to the parent no longer fits its word. Another picture is one of which some block of 8x8 differs by
more than JPEG can change it. Does not guarantee: anything against a child that runs an attacker's code (it can give its
word for anything: confine.py takes away what it could gain), nor that what nobody found is covered, nor that the decoder
gave this frame's pixels. Of a region only whole 8x8 blocks well inside a covered box are looked at for grey: a sliver at
its edge is vouched for by the whole picture alone.

Luma is enough: the filling is grey, a baseline JPEG decodes its luma block by block, and a luma block of 128 decodes to
exactly 128 whatever stands beside it. About 3 ms for 1280x720 and 0.2 ms a region (on one core).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from edged.privacy.scrub import Withheld
from edged.privacy.talk import Box, Request, Spot, word
from edged.wire.messages import REGION_PX

GREY = 128
LUMA_BLOCK = 8
# The luminance table of ITU T.81 (K.1), in any order.
STEPS = (
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51,
    87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92, 49, 64, 78, 87, 103, 121, 120, 101,
    72, 92, 95, 98, 112, 100, 103, 99,
)  # fmt: skip
ROUNDED = 1.5  # grey levels by which a pixel's luma may be off for its rounding, here and in the codec

Edges = tuple[int, int, int, int]  # left, top, right, bottom in pixels, right and bottom excluded


class Encoded(NamedTuple):
    """What was to be encoded (BGR), at which of libjpeg's qualities, and what came of it."""

    pixels: NDArray[np.uint8]
    quality: int
    jpeg: bytes


def attest(
    request: Request, spots: Sequence[Spot], margin: float, whole: Encoded, crops: Sequence[Encoded],
    *, blank: bool = False,
) -> bytes:  # fmt: skip
    """The word for a scrubbed picture and its regions; raises Withheld (code uncovered, other_picture)."""
    luma = _luma(whole.jpeg)
    height, width = luma.shape
    boxes = ((0, 0, width, height),) if blank else tuple(_grown(spots, margin, width, height))
    if not all((luma[top:bottom, left:right] == GREY).all() for left, top, right, bottom in boxes):
        raise _uncovered("picture")
    for polygon in request.masks:
        painted = np.zeros((height, width), np.uint8)
        corners = np.rint(np.array(polygon, dtype=np.float64) * (width, height)).astype(np.int32)
        cv2.fillPoly(painted, [corners], 1)
        if (luma[painted > 0] != GREY).any():
            raise _uncovered("picture")
    regions: Sequence[Box] = ((0, 0, width, height),) if request.kind == "roi" else request.regions
    looked = [(luma, whole)]
    for crop, region in zip(crops, regions, strict=True):
        inside = [inner for box in boxes if (inner := _in_region(box, region, width, height)) is not None]
        pixels = _luma(crop.jpeg)
        if not all((pixels[top:bottom, left:right] == GREY).all() for left, top, right, bottom in inside):
            raise _uncovered("region")
        looked.append((pixels, crop))
    if not all(same(pixels, encoded.pixels, encoded.quality) for pixels, encoded in looked):
        raise Withheld("what was encoded is another picture", code="other_picture")
    return word(request, whole.jpeg, *(crop.jpeg for crop in crops))


def same(luma: NDArray[np.uint8], pixels: NDArray[np.uint8], quality: int) -> bool:
    """Whether a JPEG of this quality that decodes to `luma` can be one of these pixels (BGR).

    Each of a block's coefficients moves by half a step at most, which bounds the squares of its differences (Parseval)
    and, from the first one, their mean; where the decoder clipped, the squares alone hold.
    """
    if luma.shape != pixels.shape[:2]:
        return False
    mean_square, mean = _bounds(quality)
    down, across = (side // LUMA_BLOCK for side in luma.shape)
    more = (-luma.shape[0] % LUMA_BLOCK, -luma.shape[1] % LUMA_BLOCK)
    apart = cv2.subtract(luma, cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY), dtype=cv2.CV_16S)
    square = cv2.multiply(apart, apart, dtype=cv2.CV_32F)
    if any(more):
        square = cv2.copyMakeBorder(square, 0, more[0], 0, more[1], cv2.BORDER_CONSTANT, value=0)
    size = square.shape[1] // LUMA_BLOCK, square.shape[0] // LUMA_BLOCK
    if cv2.resize(square, size, interpolation=cv2.INTER_AREA).max() > mean_square:
        return False
    if not down or not across:
        return True
    inner = np.s_[: down * LUMA_BLOCK, : across * LUMA_BLOCK]
    means = cv2.resize(apart[inner] * 16, (across, down), interpolation=cv2.INTER_AREA)
    unclipped = cv2.resize(cv2.inRange(luma[inner], 1, 254), (across, down), interpolation=cv2.INTER_AREA) == 255
    return bool((np.abs(means[unclipped]) <= mean * 16).all())


@cache
def _bounds(quality: int) -> tuple[float, float]:
    """Largest mean square, and mean, of a block's differences in luma."""
    scale = 200 - 2 * quality if quality >= 50 else 5000 // quality  # libjpeg's jpeg_quality_scaling
    steps = np.clip((np.array(STEPS) * scale + 50) // 100, 1, 255) / 2
    return float((np.sqrt((steps**2).mean()) + ROUNDED) ** 2), float(steps[0] / LUMA_BLOCK + ROUNDED)


def _luma(jpeg: bytes) -> NDArray[np.uint8]:
    luma = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION)
    if luma is None:
        raise Withheld("what was encoded does not decode", code="uncovered")
    return np.asarray(luma, np.uint8)


def _grown(spots: Sequence[Spot], margin: float, width: int, height: int) -> Iterator[Edges]:
    """What each box covers at least, as far as it lies in the picture."""
    for spot in spots:
        dx, dy = spot.w * margin, spot.h * margin
        left, right = max(0, int(spot.x - dx)), min(width, int(spot.x + spot.w + dx))
        top, bottom = max(0, int(spot.y - dy)), min(height, int(spot.y + spot.h + dy))
        if right > left and bottom > top:
            yield left, top, right, bottom


def _in_region(box: Edges, region: Box, width: int, height: int) -> Edges | None:
    """The 8x8 blocks of a cut region (preprocess.cut) that lie well inside a covered box of the picture."""
    x, y, w, h = region
    left, top, right, bottom = max(0, x), max(0, y), min(width, x + w), min(height, y + h)
    side = max(right - left, bottom - top)
    if right <= left or bottom <= top:
        return None
    scale = REGION_PX / side
    from_left, from_top = (side - (right - left)) // 2 - left, (side - (bottom - top)) // 2 - top
    edges = (
        max(box[0] + 1, left) + from_left, max(box[1] + 1, top) + from_top,
        min(box[2] - 1, right) + from_left, min(box[3] - 1, bottom) + from_top,
    )  # fmt: skip
    low = [int(np.ceil((edge * scale + 1) / LUMA_BLOCK)) * LUMA_BLOCK for edge in edges[:2]]
    high = [int((edge * scale - 1) // LUMA_BLOCK) * LUMA_BLOCK for edge in edges[2:]]
    return (low[0], low[1], high[0], high[1]) if high[0] > low[0] and high[1] > low[1] else None


def _uncovered(what: str) -> Withheld:
    return Withheld(f"the scrubbed {what} still shows something that was to be hidden", code="uncovered")
