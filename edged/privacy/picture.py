"""One picture from JPEG to JPEG inside the child: check, decode, burn masks, find, fill, encode, cut.

Guarantees: what is found or masked is filled with one colour before anything is encoded, in whole blocks of 16x16
pixels (the largest unit in which JPEG mixes neighbours), so that no covered block depends on what was beneath; regions
are cut from the filled picture; what was encoded is looked at again (witness.py); the output carries no metadata; a
picture that is too dark or too blurred to judge is withheld or wholly covered, never taken for an empty one. Does not
guarantee: that all private content is found.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from edged.clock import stopwatch
from edged.engine import preprocess
from edged.errors import Refused
from edged.privacy import decoder, jpeg, judge, witness
from edged.privacy.detect import Detector, View
from edged.privacy.scrub import Polygon, Withheld
from edged.privacy.talk import MAX_SPOTS, Box, Done, Look, Request, Seen, Spot, word_of_look

BLOCK = 16
GREY = 128  # decodes to exactly itself: all of its JPEG coefficients are zero
FRAME_QUALITY = 85
CROP_QUALITY = 90

Hidden = NDArray[np.bool_]  # [blocks down, blocks across]


class Scrubber:
    """The detectors and what to do with what they find; no detectors = only masks are burned in."""

    def __init__(
        self,
        detectors: Sequence[Detector] = (),
        *,
        margin: float = 0.25,
        limits: judge.Limits | None = None,
        unjudged: Literal["withhold", "blank", "keep"] = "withhold",
    ) -> None:
        self._detectors, self._margin = tuple(detectors), margin
        self._limits = (limits or judge.Limits()) if detectors else None  # nothing to find needs no light
        self._unjudged = unjudged

    def look(self, question: Look) -> Seen:
        """Raises Refused for a picture that breaks the rules, Withheld when a detector fails or nothing can be seen."""
        spots, unjudged, ms = self.see(decode(question), question.masks)
        return Seen(question.seq, spots, unjudged, ms, word_of_look(question, spots, unjudged))

    def scrub(self, request: Request) -> Done:
        """Raises Refused for a picture that breaks the rules, Withheld when a detector fails or nothing can be seen."""
        marks = [("start", stopwatch())]
        image = decode(request)
        marks.append(("decode", stopwatch()))
        ms = {name: (at - before) * 1e3 for (_, before), (name, at) in pairwise(marks)}
        blank, spots = request.blank, request.spots
        if spots is not None:
            burn(image, request.masks)
        else:
            spots, unjudged, looked = self.see(image, request.masks)
            spots = tuple(spot for spot in spots if spot.sure)
            blank = blank or bool(unjudged)
            ms |= looked
        marks = [("", stopwatch())]
        hidden = cover(image, spots, self._margin, blank=blank)
        marks.append(("fill", stopwatch()))
        height, width = image.shape[:2]
        whole: Iterable[Box] = ((0, 0, width, height),)
        regions = whole if request.kind == "roi" else request.regions
        crops = [encoded(preprocess.cut(image, *box), CROP_QUALITY) for box in regions]
        out = encoded(image, FRAME_QUALITY)
        marks.append(("encode", stopwatch()))
        word = witness.attest(request, spots, self._margin, out, crops, blank=blank)
        marks.append(("check", stopwatch()))
        ms |= {name: (at - before) * 1e3 for (_, before), (name, at) in pairwise(marks)}
        ms["total"] = sum(ms.values())
        return Done(request.seq, width, height, out.jpeg, tuple(crop.jpeg for crop in crops), hidden, ms, word)

    def see(
        self, image: NDArray[np.uint8], masks: Sequence[Polygon] = ()
    ) -> tuple[tuple[Spot, ...], str, dict[str, float]]:
        """What every detector finds in a BGR picture [h,w,3], why it cannot be judged ("" = it can), and milliseconds.

        Masks are burned in, in place, after the picture was judged (a mask's grey is no light) and before it is looked at.
        Raises Withheld: detector, too_dark, too_blurred (the latter two only when such pictures are to be withheld).
        """
        marks = [("start", stopwatch())]
        spots: list[Spot] = []
        unjudged = ""
        if self._limits is not None and self._unjudged != "keep":
            judged = judge.judge(View(image))
            if not np.isfinite(judged).all():  # no limit holds against a number that is none
                raise Withheld("the picture's light cannot be measured", code="detector")
            unjudged = judge.verdict(judged, self._limits)
            marks.append(("judge", stopwatch()))
            if unjudged and self._unjudged == "withhold":
                raise Withheld(f"the picture is {unjudged.replace('_', ' ')} to be judged", code=unjudged)
        burn(image, masks)
        view = View(image)
        for detector in self._detectors:
            for found in detector.find(view):
                x, y, w, h, score = (float(number) for number in found[1:])
                if not (np.isfinite((x, y, w, h, score)).all() and w > 0 and h > 0):
                    raise Withheld(f"the {detector.kind} detector found a box that is none", code="detector")
                spots.append(Spot(found.kind, x, y, w, h, score >= detector.start))
            marks.append((detector.kind, stopwatch()))
        if len(spots) > MAX_SPOTS:
            raise Withheld(f"{len(spots)} places in one picture are too many to be true", code="detector")
        ms: dict[str, float] = {}
        for (_, before), (name, at) in pairwise(marks):
            ms[name] = ms.get(name, 0.0) + (at - before) * 1e3
        return tuple(spots), unjudged, ms


def decode(question: Look | Request) -> NDArray[np.uint8]:
    """The pixels, BGR [h,w,3]; orientation tags are ignored, since regions are in the sensor's pixels."""
    header = jpeg.check(question.jpeg)
    if question.kind != "roi" and (header.width, header.height) != (question.width, question.height):
        raise Refused(
            f"the header says {question.width}x{question.height}, the JPEG {header.width}x{header.height}",
            code="size_mismatch",
        )
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    image = decoder.decode(question.jpeg, flags, "bad_jpeg")
    if image is None or image.shape != (header.height, header.width, 3):
        raise Refused("the JPEG does not decode to what its header says", code="bad_jpeg")
    return image


def burn(image: NDArray[np.uint8], masks: Sequence[Polygon]) -> None:
    """Fill painted masks, in place."""
    if masks:
        hidden = blocks(image)
        for polygon in masks:
            hidden |= blocks_of_polygon(polygon, image.shape[1], image.shape[0])
        fill(image, hidden)


def cover(image: NDArray[np.uint8], spots: Iterable[Spot], margin: float, *, blank: bool = False) -> dict[str, int]:
    """Fill spots, each grown by `margin`, in place; the number of areas covered by kind."""
    if blank:
        image[:] = GREY
        return {}
    by_kind: dict[str, Hidden] = {}
    for spot in spots:
        hide_box(by_kind.setdefault(spot.kind, blocks(image)), (spot.x, spot.y, spot.w, spot.h), margin)
    for hidden in by_kind.values():
        fill(image, hidden)
    return {kind: areas(hidden) for kind, hidden in by_kind.items()}


def blocks(image: NDArray[np.uint8]) -> Hidden:
    """Nothing hidden yet."""
    return np.zeros((-(-image.shape[0] // BLOCK), -(-image.shape[1] // BLOCK)), dtype=bool)


def hide_box(hidden: Hidden, box: tuple[float, float, float, float], margin: float) -> None:
    """Mark every block that the box touches, after it was grown by `margin` of its width and height on each side."""
    x, y, w, h = box
    if w <= 0 or h <= 0:
        return
    left, top = int(np.floor(x - w * margin)), int(np.floor(y - h * margin))
    right, bottom = int(np.ceil(x + w + w * margin)), int(np.ceil(y + h + h * margin))
    if right <= 0 or bottom <= 0:
        return
    hidden[max(0, top) // BLOCK : -(-bottom // BLOCK), max(0, left) // BLOCK : -(-right // BLOCK)] = True


def blocks_of_polygon(polygon: Polygon, width: int, height: int) -> Hidden:
    """Every block that a polygon (corners as shares of width and height) touches."""
    down, across = -(-height // BLOCK), -(-width // BLOCK)
    drawn = np.zeros((down * BLOCK, across * BLOCK), np.uint8)
    corners = np.rint(np.array(polygon, dtype=np.float64) * (width, height)).astype(np.int32)
    cv2.fillPoly(drawn, [corners], 255)  # draws its outline too
    return np.asarray(drawn.reshape(down, BLOCK, across, BLOCK).any(axis=(1, 3)))


def areas(hidden: Hidden) -> int:
    """How many areas the marked blocks make up."""
    return int(cv2.connectedComponents(hidden.astype(np.uint8), connectivity=8)[0]) - 1


def fill(image: NDArray[np.uint8], hidden: Hidden) -> None:
    """Paint the marked blocks, in place."""
    for row, column in np.argwhere(hidden):
        image[row * BLOCK : (row + 1) * BLOCK, column * BLOCK : (column + 1) * BLOCK] = GREY


def encoded(image: NDArray[np.uint8], quality: int) -> witness.Encoded:
    """With what it was made from, for the second look."""
    return witness.Encoded(image, quality, encode(image, quality))


def encode(image: NDArray[np.uint8], quality: int) -> bytes:
    """A baseline JPEG with a JFIF header and nothing else."""
    ok, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not ok:
        raise Withheld("the scrubbed picture could not be encoded", code="child_error")
    return data.tobytes()
