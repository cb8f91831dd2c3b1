"""From a picture to labelled regions, in the textbook's stages, each timed.

    acquire    the picture in memory: source and JPEG decoding (processor time), cutting the regions (224x224, four)
    to_float   uint8 BGR -> float32 RGB at the model's side (stays uint8 where the model prepares it itself)
    marshal    one contiguous tensor: NCHW, or NHWC of uint8
    infer      the network
    decode     logits -> class, score, margin
    overlay    boxes and words drawn on a copy, only when asked

Guarantees: the result is always sendable: at most four regions inside the picture, scores in 0..1, no NaN (a region
whose logits are not finite gets no label and is counted in `bad`). Without a model every region has the label "".
Does not guarantee: that a label is right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from edged.clock import stopwatch
from edged.engine import Engine, preprocess
from edged.errors import Refused
from edged.wire.messages import MAX_REGIONS, Region

STAGES = ("acquire", "to_float", "marshal", "infer", "decode", "overlay")
JPEG_QUALITY = 85

Box = tuple[int, int, int, int]  # x, y, w, h in pixels of the frame


@dataclass(frozen=True)
class Result:
    """What the camera makes of one picture. `ms` has every stage of STAGES in milliseconds, 0 where it was not run."""

    regions: tuple[Region, ...]
    ms: Mapping[str, float]
    bad: int = 0  # regions for which the model gave no finite numbers
    overlay: NDArray[np.uint8] | None = None


@dataclass(frozen=True)
class Pipeline:
    """One model (or none) with what must be known to use it. `px` is the side of its input in pixels."""

    model: Engine | None
    classes: tuple[str, ...]
    px: int

    def run(
        self, image: NDArray[np.uint8], boxes: Sequence[Box], *, acquire_ms: float = 0.0, overlay: bool = False
    ) -> Result:
        """`image` is uint8 [h, w, 3] BGR. Raises Refused when the model does not answer one row of logits a region."""
        ms = dict.fromkeys(STAGES, 0.0)
        ms["acquire"] = acquire_ms
        boxes = inside(boxes, image.shape[1], image.shape[0])
        bad = 0
        if self.model is None or not boxes:
            regions = tuple(Region(*box) for box in boxes)
        else:
            t = [stopwatch()]
            crops = [preprocess.cut(image, *box) for box in boxes]
            t.append(stopwatch())
            tensors = preprocess.prepare(crops, self.px, self.model.takes)
            t.append(stopwatch())
            batch = preprocess.stack(tensors, self.model.takes)
            t.append(stopwatch())
            outputs = self.model.run(batch)
            t.append(stopwatch())
            regions, bad = self._decode(outputs, boxes)
            t.append(stopwatch())
            for stage, begin, end in zip(STAGES, t, t[1:], strict=False):
                ms[stage] += 1000 * (end - begin)
        drawn = None
        if overlay:
            begin = stopwatch()
            drawn = draw(image, regions)
            ms["overlay"] = 1000 * (stopwatch() - begin)
        return Result(regions, MappingProxyType(ms), bad, drawn)

    def _decode(self, outputs: tuple[NDArray[np.float32], ...], boxes: Sequence[Box]) -> tuple[tuple[Region, ...], int]:
        logits = outputs[0] if outputs else np.empty((0, 0), np.float32)
        if logits.shape != (len(boxes), len(self.classes)):
            raise Refused(
                f"the model answered {logits.shape} for {len(boxes)} regions and {len(self.classes)} classes",
                code="bad_model",
            )
        finite = np.asarray(np.isfinite(logits).all(axis=1))
        index, score, margin = preprocess.decode(np.where(finite[:, None], logits, 0.0).astype(np.float32))
        regions = []
        for i, box in enumerate(boxes):
            if finite[i]:
                label = self.classes[int(index[i])]
                regions.append(Region(*box, label, _unit(float(score[i])), _unit(float(margin[i]))))
            else:
                regions.append(Region(*box))
        return tuple(regions), int(len(boxes) - finite.sum())


def inside(boxes: Sequence[Box], width: int, height: int) -> tuple[Box, ...]:
    """The first four boxes clipped to the picture; what lies outside altogether is left out."""
    found = []
    for x, y, w, h in boxes[:MAX_REGIONS]:
        left, top, right, bottom = max(0, x), max(0, y), min(width, x + w), min(height, y + h)
        if right > left and bottom > top:
            found.append((left, top, right - left, bottom - top))
    return tuple(found)


def draw(image: NDArray[np.uint8], regions: Sequence[Region]) -> NDArray[np.uint8]:
    """A copy of the picture with boxes and words, for the local preview only: it is not scrubbed."""
    import cv2

    drawn = image.copy()
    for r in regions:
        cv2.rectangle(drawn, (r.x, r.y), (r.x + r.w - 1, r.y + r.h - 1), (0, 255, 0), 2)
        words = f"{r.label} {r.score:.2f}" if r.label else "?"
        cv2.putText(drawn, words, (r.x, max(12, r.y - 4)), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 255, 0), 1, cv2.LINE_AA)
    return drawn


def encode(image: NDArray[np.uint8], quality: int = JPEG_QUALITY) -> bytes:
    """A JPEG of a uint8 BGR picture."""
    import cv2

    ok, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not ok:
        raise Refused("the picture cannot be written as JPEG", code="bad_picture")
    return data.tobytes()


def _unit(value: float) -> float:
    return min(1.0, max(0.0, value))
