"""A picture file of any common format to a JPEG or PNG that may be shown.

Guarantees: what comes out was covered in whole blocks of 16x16 pixels before it was encoded, upright as its EXIF says and
then without any metadata; a file that does not decode whole is Refused; a picture that cannot be judged is withheld (or
grey all over). Large pictures are looked at as a whole and in parts at full size, so that small faces in them count.
Of an animated file only the first picture comes out. Does not guarantee: that all private content is found.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from edged.errors import Refused
from edged.privacy import decoder, picture
from edged.privacy.detect import Detector
from edged.privacy.picture import Scrubber
from edged.privacy.scrub import Withheld
from edged.privacy.talk import Polygon, Spot

QUALITY = 92
MIN_SIDE = 8
PART_WIDE, PART_HIGH = 1280, 720  # what the detectors were measured on
OVERLAP = 160  # pixels that neighbouring parts share; larger faces are found in the whole picture

Unjudged = Literal["withhold", "blank", "keep"]
Format = Literal["jpeg", "png"]


class Covered(NamedTuple):
    """A picture as it may be shown. `boxes` are (kind, x, y, w, h) of what was found in it.

    `unjudged` is "" or why all of it is grey; `ms` is the time per stage.
    """

    image: NDArray[np.uint8]
    hidden: dict[str, int]
    boxes: tuple[tuple[str, int, int, int, int], ...]
    unjudged: str
    ms: dict[str, float]


class Photographs:
    """Scrubs single pictures with these detectors."""

    def __init__(self, detectors: Sequence[Detector], *, margin: float = 0.25, unjudged: Unjudged = "withhold") -> None:
        self._margin = margin
        self._whole = Scrubber(detectors, margin=margin, unjudged=unjudged)
        self._part = Scrubber(detectors, margin=margin, unjudged="keep")  # a wall in a bright picture may be dark

    def cover(self, image: NDArray[np.uint8], masks: Sequence[Polygon] = ()) -> Covered:
        """`image` BGR [h,w,3] is written to. Raises Withheld: detector, too_dark, too_blurred."""
        spots, unjudged, ms = self._whole.see(image, masks)
        found = list(spots)
        for x, y, w, h in parts(image.shape[1], image.shape[0]):
            more, _, took = self._part.see(np.ascontiguousarray(image[y : y + h, x : x + w]))
            found += [Spot(s.kind, s.x + x, s.y + y, s.w, s.h, s.sure) for s in more]
            for stage, at in took.items():
                ms[stage] = ms.get(stage, 0.0) + at
        sure = [spot for spot in found if spot.sure]
        hidden = picture.cover(image, sure, self._margin, blank=bool(unjudged))
        return Covered(image, hidden, named(sure), unjudged, ms)


def named(spots: Sequence[Spot]) -> tuple[tuple[str, int, int, int, int], ...]:
    """(kind, x, y, w, h) of each thing once, though the whole and several parts found it; largest first."""
    out: list[tuple[str, int, int, int, int]] = []
    for s in sorted(spots, key=lambda s: -s.w * s.h):
        x, y = s.x + s.w / 2, s.y + s.h / 2
        if not any(k == s.kind and bx <= x <= bx + bw and by <= y <= by + bh for k, bx, by, bw, bh in out):
            out.append((s.kind, round(s.x), round(s.y), round(s.w), round(s.h)))
    return tuple(out)


def parts(width: int, height: int) -> list[tuple[int, int, int, int]]:
    """(x, y, w, h) of overlapping parts of a large picture, of about 1280x720 each; none for one not much larger."""
    if width <= 1.25 * PART_WIDE and height <= 1.25 * PART_WIDE:
        return []
    wide, high = (PART_WIDE, PART_HIGH) if width >= height else (PART_HIGH, PART_WIDE)
    return [
        (x, y, min(wide, width), min(high, height))
        for y in _starts(height, min(high, height))
        for x in _starts(width, min(wide, width))
    ]


def _starts(length: int, part: int) -> list[int]:
    if length <= part:
        return [0]
    count = 1 + -(-(length - part) // (part - OVERLAP))
    return [round(i * (length - part) / (count - 1)) for i in range(count)]


def decode(data: bytes, *, upright: bool = True) -> NDArray[np.uint8]:
    """BGR [h,w,3]; raises Refused (bad_picture), Withheld (memory). `upright` applies an EXIF orientation."""
    flags = cv2.IMREAD_COLOR if upright else cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    image = decoder.decode(data, flags, "bad_picture")
    if image is None or image.ndim != 3:
        raise Refused("the picture is damaged, cut short, too large or of a kind that is not known", code="bad_picture")
    if min(image.shape[:2]) < MIN_SIDE:
        raise Refused(f"a picture of {image.shape[1]}x{image.shape[0]} is too small", code="too_small")
    return image


def encode(image: NDArray[np.uint8], to: Format) -> bytes:
    """Without metadata; raises Withheld (child_error)."""
    if to == "jpeg":
        return picture.encode(image, QUALITY)
    ok, data = cv2.imencode(".png", image)
    if not ok:
        raise Withheld("the scrubbed picture could not be encoded", code="child_error")
    return data.tobytes()
