"""Faces by YuNet (Wu, Peng, Yu 2023, doi 10.1007/s11633-023-1423-y) from a file that the owner supplies.

The file is face_detection_yunet_2023mar.onnx of the OpenCV zoo (MIT) or one with the same outputs; it is not shipped.
Guarantees: a file with other outputs is Misconfigured at start, numbers that are none end in Withheld. Does not
guarantee: that the weights are good ones; `edged privacy audit` measures them.

The network takes BGR 0..255 [1,3,H,W], H and W multiples of 32, and answers for each stride s of 8, 16, 32 and its
n = H/s * W/s cells, row by row: cls_s and obj_s [1,n,1] (probabilities; a face's score is the root of their product),
bbox_s [1,n,4] (x and y of the centre in cells from the cell's corner, log of width and height in cells) and kps_s,
landmarks, which are not read here. Decoded as in OpenCV's FaceDetectorYN (modules/objdetect/src/face_detect.cpp).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edged.engine import onnx_file
from edged.errors import Misconfigured, Refused
from edged.privacy import night
from edged.privacy.compiled import Compiled
from edged.privacy.detect import Found, View, plausible
from edged.privacy.scrub import Withheld

LONG_SIDES = (1280, 640)  # of the network's input: the first finds small faces, the second large ones
STRIDES = (8, 16, 32)
STEP = 32
KEPT_SIZES = 2 * len(LONG_SIDES)
START = 0.3
KEEP = 0.15
OVERLAP = 0.3
EXPECTED = "outputs cls_s and obj_s [1,n,1] and bbox_s [1,n,4] for s = 8, 16, 32 and n = H/s * W/s"

Outputs = Mapping[str, NDArray[np.float32]]  # by name


def input_size(width: int, height: int, long_side: int) -> tuple[int, int]:
    """The network's (width, height) for a picture: multiples of 32, the longer one `long_side`."""
    scale = long_side / max(width, height)
    return tuple(max(STEP, round(side * scale / STEP) * STEP) for side in (width, height))  # type: ignore[return-value]


class YuNet:
    """YuNet at two scales behind the Protocol of detect.py. `sha256` is that of the owner's file.

    Raises Misconfigured when the file is missing, is no ONNX model or answers otherwise than YuNet does.
    """

    kind = "face"
    start = START
    keep = KEEP

    def __init__(self, path: Path, runtime: str = "auto", threads: int = 1) -> None:
        try:
            self._data = path.read_bytes()
        except OSError as e:
            raise Misconfigured(f"the YuNet file {path} cannot be read: {e.strerror}") from e
        self.sha256 = hashlib.sha256(self._data).hexdigest()
        self.engines = Compiled(self._data, runtime, threads, most=KEPT_SIZES)
        try:
            self._names = onnx_file.check(self._data).outputs
            # Not square: a network that swaps width and height is found out.
            check(self._run(np.zeros((1, 3, 2 * STEP, 3 * STEP), np.float32)), 3 * STEP, 2 * STEP)
        except Refused as e:
            raise Misconfigured(f"{path} is no YuNet: {e}", hint=f"expected: {EXPECTED}") from e
        self.engines.clear()
        for long_side in LONG_SIDES:  # the first frame must not wait for them
            self.runtime = self.engines.at(*input_size(1280, 720, long_side)).runtime

    def find(self, view: View) -> list[Found]:
        """Boxes of faces that score at least `keep`, of both scales; raises Withheld (code detector)."""
        found: list[Found] = []
        for long_side in LONG_SIDES:
            width, height = input_size(view.width, view.height, long_side)
            across, down = view.width / width, view.height / height
            for x, y, w, h, score in self._look(view, width, height):
                found.append(Found(self.kind, x * across, y * down, w * across, h * down, score))
        if not found:
            return []
        kept = cv2.dnn.NMSBoxes([f[1:5] for f in found], [f.score for f in found], 0.0, OVERLAP)
        return [found[i] for i in np.asarray(kept, dtype=int).ravel()]

    def _look(self, view: View, width: int, height: int) -> list[tuple[float, float, float, float, float]]:
        picture = night.lift(view.bgr(width, height)).picture
        batch = np.empty((1, 3, height, width), np.float32)
        for i, plane in enumerate(cv2.split(picture)):
            batch[0, i] = plane
        try:
            outputs = self._run(batch)
            check(outputs, width, height)
        except Refused as e:
            raise Withheld(f"the face network failed: {e}", code="detector") from e
        plausible(np.concatenate([outputs[f"{n}_{s}"].ravel() for n in ("cls", "obj") for s in STRIDES]), self.kind)
        return decode(outputs, width, self.keep)

    def _run(self, batch: NDArray[np.float32]) -> Outputs:
        answer = self.engines.at(batch.shape[3], batch.shape[2]).run(batch)
        return dict(zip(self._names, answer, strict=True))


def check(outputs: Outputs, width: int, height: int) -> None:
    """Raises Refused (code bad_model) unless the outputs have YuNet's names and shapes for an input of this size."""
    for stride in STRIDES:
        cells = (width // stride) * (height // stride)
        for name, last in ((f"cls_{stride}", 1), (f"obj_{stride}", 1), (f"bbox_{stride}", 4)):
            if name not in outputs:
                raise Refused(f"it has no output {name}, but {', '.join(outputs)}"[:300], code="bad_model")
            if outputs[name].shape != (1, cells, last):
                got = list(outputs[name].shape)
                raise Refused(f"{name} is {got} for {width}x{height}, not {[1, cells, last]}", code="bad_model")


def decode(outputs: Outputs, width: int, least: float) -> list[tuple[float, float, float, float, float]]:
    """(x, y, w, h, score >= least) in pixels of the network's input, one per cell; raises Withheld (code detector)
    for NaN and infinity."""
    found = []
    for stride in STRIDES:
        kind, thing, box = (outputs[f"{name}_{stride}"][0] for name in ("cls", "obj", "bbox"))
        if not all(np.isfinite(out).all() for out in (kind, thing, box)):
            raise Withheld("the face network answered with numbers that are none", code="detector")
        scores = np.sqrt(np.clip(kind[:, 0], 0, 1) * np.clip(thing[:, 0], 0, 1))
        for cell in np.nonzero(scores >= least)[0]:
            row, column = divmod(int(cell), width // stride)
            across, down = float(box[cell, 0]), float(box[cell, 1])
            w, h = (float(np.exp(min(size, 10.0))) * stride for size in box[cell, 2:])
            x, y = (column + across) * stride - w / 2, (row + down) * stride - h / 2
            found.append((x, y, w, h, float(scores[cell])))
    return found
