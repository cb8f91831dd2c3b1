"""Pictures whose private places are known, sent through the real path to measure what still leaks.

Guarantees: the same seed gives the same picture; nobody is shown who did not agree to it. Does not guarantee that the
share hidden here is the share hidden in life: a few planted things stand for many, and a change is what they show best.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from edged.privacy import jpeg
from edged.privacy.picture import GREY, encode
from edged.privacy.planted import scene
from edged.privacy.scrub import Withheld
from edged.privacy.talk import Inspect, Plant, Planted, Spot

NEAR = 6  # grey levels that a covered pixel may be off after JPEG
QUALITY = 90


def plant(question: Plant) -> Planted:
    """A picture for this seed; at least 640x360."""
    drawn = scene.draw(question.seed, question.width, question.height)
    data = encode(drawn.image, QUALITY)
    return Planted(question.seq, question.width, question.height, data, drawn.spots, drawn.easy)


def inspect(question: Inspect) -> tuple[float, ...]:
    """Covered share of each box, 0..1; raises Refused or Withheld for a picture that is none."""
    jpeg.check(question.jpeg)
    image = cv2.imdecode(np.frombuffer(question.jpeg, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise Withheld("a scrubbed picture does not decode", code="bad_answer")
    return tuple(covered(np.asarray(image, np.uint8), spot) for spot in question.spots)


def covered(image: NDArray[np.uint8], spot: Spot) -> float:
    """Share of a box, as far as it lies in the picture, that is filled; 0 for one that lies outside."""
    left, top = max(0, round(spot.x)), max(0, round(spot.y))
    inside = image[top : max(0, round(spot.y + spot.h)), left : max(0, round(spot.x + spot.w))]
    if inside.size == 0:
        return 0.0
    return float((np.abs(inside.astype(np.int16) - GREY) <= NEAR).all(axis=2).mean())
