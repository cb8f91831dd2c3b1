"""How much drawn text a detector hides: `python -m edged.privacy.text.measure`. Typeface and seed are not training's.

A piece of a line counts as a plate does in plates/measure.py. Drawn text says little about a certain device's: measure
pictures of that, too.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edged.privacy.plates import photographs
from edged.privacy.plates.measure import THRESHOLDS, Boxes, judge, summary
from edged.privacy.plates.scenes import Grey
from edged.privacy.text import scenes
from edged.privacy.text.detector import TextDetector

SIDE = 640  # pixels of a drawn picture


def look_alikes(seed: int, count: int, photos: Sequence[Grey]) -> Iterator[tuple[NDArray[np.uint8], Boxes]]:
    """Drawn pictures [SIDE,SIDE,3] and the boxes of their text, letters of at least 8 pixels."""
    for i in range(count):
        scene = scenes.drawn(np.random.default_rng((seed, i)), photos, held_out=True, side=SIDE)
        boxes = [tuple(float(v) for v in b[:4]) for b in scene.boxes if b[4] > 0 and b[3] >= 8]
        yield np.asarray(cv2.cvtColor(scene.luma, cv2.COLOR_GRAY2BGR), np.uint8), boxes  # type: ignore[misc]


def main() -> None:
    p = argparse.ArgumentParser(prog="python -m edged.privacy.text.measure", description=__doc__)
    p.add_argument("--count", type=int, default=100)
    p.add_argument("--backgrounds", type=Path, nargs="*", default=[])
    p.add_argument("--weights", type=Path, help="folder of another text.onnx and text.json")
    options = p.parse_args()
    cv2.setNumThreads(1)
    detector = TextDetector(weights=options.weights)
    start, detector.keep = detector.start, min(THRESHOLDS)
    drawn = look_alikes(7, options.count, photographs.backgrounds(options.backgrounds))
    judged = [judge(detector, image, "drawn", boxes, THRESHOLDS) for image, boxes in drawn]
    print(json.dumps(summary(judged, THRESHOLDS, start), indent=1))


if __name__ == "__main__":
    main()
