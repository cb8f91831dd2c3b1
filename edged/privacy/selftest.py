"""What a scrub child must manage before it may say hello: pictures made by code, with something planted to find."""

from __future__ import annotations

import numpy as np

from edged.engine import patterns
from edged.privacy.faces import FaceDetector


def run(detector: FaceDetector | None, *, plates: bool) -> None:
    """Raises Withheld (code detector)."""
    if detector is not None:
        image = np.ascontiguousarray(patterns.picture(3, 720)[:405])
        detector.find(image)
