"""One picture from JPEG to JPEG inside the child: check, decode, burn masks, find, fill, encode, cut.

Guarantees: what is found or masked is filled with one colour before anything is encoded, in whole blocks of 16x16
pixels (the largest unit in which JPEG mixes neighbours), so that no covered block depends on what was beneath; regions
are cut from the filled picture; the output carries no metadata. Does not guarantee: that all private content is found.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from edged.clock import stopwatch
from edged.engine import preprocess
from edged.errors import Refused
from edged.privacy import faces, jpeg, plates
from edged.privacy.scrub import Polygon, Withheld
from edged.privacy.talk import Box, Done, Request

BLOCK = 16
GREY = 128  # decodes to exactly itself: all of its JPEG coefficients are zero
FRAME_QUALITY = 85
CROP_QUALITY = 90


class Scrubber:
    """The detectors and what to do with what they find. `face_detector` None = faces are left as they are."""

    def __init__(
        self,
        face_detector: faces.FaceDetector | None,
        *,
        find_plates: bool = True,
        margin: float = 0.25,
        masks: Mapping[str, Sequence[Polygon]] | None = None,
    ) -> None:
        self._faces, self._plates, self._margin = face_detector, find_plates, margin
        self._masks = masks or {}

    def scrub(self, request: Request) -> Done:
        """Raises Refused for a picture that breaks the rules, Withheld when a detector fails."""
        times = {"start": stopwatch()}
        image = decode(request)
        height, width = image.shape[:2]
        hidden = np.zeros((-(-height // BLOCK), -(-width // BLOCK)), dtype=bool)
        for polygon in self._masks.get(request.camera, ()):
            hidden |= blocks_of_polygon(polygon, width, height)
        fill(image, hidden)
        times["decode"] = stopwatch()
        found_faces = self._faces.find(image) if self._faces is not None else []
        times["faces"] = stopwatch()
        found_plates = plates.find(image) if self._plates else []
        times["plates"] = stopwatch()
        for box in found_faces:
            hide_box(hidden, box, self._margin)
        of_plates = np.zeros_like(hidden)
        for box in found_plates:
            hide_box(of_plates, box, self._margin)
        fill(image, hidden | of_plates)
        times["fill"] = stopwatch()
        whole: Iterable[Box] = ((0, 0, width, height),)
        regions = whole if request.kind == "roi" else request.regions
        crops = tuple(encode(preprocess.cut(image, *box), CROP_QUALITY) for box in regions)
        out = encode(image, FRAME_QUALITY)
        times["encode"] = stopwatch()
        marks = list(times.items())
        ms = {name: (at - before) * 1e3 for (_, before), (name, at) in pairwise(marks)}
        ms["total"] = (marks[-1][1] - marks[0][1]) * 1e3
        return Done(request.seq, width, height, out, crops, len(found_faces), areas(of_plates), ms)


def decode(request: Request) -> NDArray[np.uint8]:
    """The pixels, BGR [h,w,3]; orientation tags are ignored, since regions are in the sensor's pixels."""
    header = jpeg.check(request.jpeg)
    if request.kind != "roi" and (header.width, header.height) != (request.width, request.height):
        raise Refused(
            f"the header says {request.width}x{request.height}, the JPEG {header.width}x{header.height}",
            code="size_mismatch",
        )
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(np.frombuffer(request.jpeg, np.uint8), flags)
    except cv2.error as e:
        if e.code == cv2.Error.StsNoMem:
            raise Withheld("the frame needed more memory than the scrub child may have", code="memory") from e
        raise Refused(f"the JPEG does not decode: {e.err}"[:300], code="bad_jpeg") from e
    if image is None or image.shape != (header.height, header.width, 3):
        raise Refused("the JPEG does not decode to what its header says", code="bad_jpeg")
    return np.asarray(image, dtype=np.uint8)


def hide_box(hidden: NDArray[np.bool_], box: Box, margin: float) -> None:
    """Mark every block that the box touches, after it was grown by `margin` of its width and height on each side."""
    x, y, w, h = box
    if w <= 0 or h <= 0:
        return
    left, top = int(np.floor(x - w * margin)), int(np.floor(y - h * margin))
    right, bottom = int(np.ceil(x + w + w * margin)), int(np.ceil(y + h + h * margin))
    if right <= 0 or bottom <= 0:
        return
    hidden[max(0, top) // BLOCK : -(-bottom // BLOCK), max(0, left) // BLOCK : -(-right // BLOCK)] = True


def blocks_of_polygon(polygon: Polygon, width: int, height: int) -> NDArray[np.bool_]:
    """Every block that a polygon (corners as shares of width and height) touches."""
    down, across = -(-height // BLOCK), -(-width // BLOCK)
    drawn = np.zeros((down * BLOCK, across * BLOCK), np.uint8)
    corners = np.rint(np.array(polygon, dtype=np.float64) * (width, height)).astype(np.int32)
    cv2.fillPoly(drawn, [corners], 255)  # draws its outline too
    return np.asarray(drawn.reshape(down, BLOCK, across, BLOCK).any(axis=(1, 3)))


def areas(hidden: NDArray[np.bool_]) -> int:
    """How many areas the marked blocks make up."""
    return int(cv2.connectedComponents(hidden.astype(np.uint8), connectivity=8)[0]) - 1


def fill(image: NDArray[np.uint8], hidden: NDArray[np.bool_]) -> None:
    """Paint the marked blocks, in place."""
    for row, column in np.argwhere(hidden):
        image[row * BLOCK : (row + 1) * BLOCK, column * BLOCK : (column + 1) * BLOCK] = GREY


def encode(image: NDArray[np.uint8], quality: int) -> bytes:
    """A baseline JPEG with a JFIF header and nothing else."""
    ok, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not ok:
        raise Withheld("the scrubbed picture could not be encoded", code="child_error")
    return data.tobytes()
