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
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edged import engine
from edged.errors import Misconfigured, Refused
from edged.privacy.detect import Found, View
from edged.privacy.scrub import Withheld

LONG_SIDES = (1280, 640)  # of the network's input: the first finds small faces, the second large ones
STRIDES = (8, 16, 32)
STEP = 32
START = 0.3
KEEP = 0.15
OVERLAP = 0.3
EXPECTED = "cls_8/16/32 and obj_8/16/32 [1,n,1], bbox_8/16/32 [1,n,4], in this order, n = H/s * W/s"


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
        self._runtime, self._threads, self._path = runtime, threads, path
        self._engines: dict[tuple[int, int], engine.Engine] = {}
        try:
            small = self.prepare(64, 32)
            check(small.run(np.zeros((1, 3, 32, 64), np.float32)), 64, 32)
        except Refused as e:
            raise Misconfigured(f"{path} is no YuNet: {e}", hint=f"expected outputs: {EXPECTED}") from e
        self._engines.clear()
        self.runtime = small.runtime

    def prepare(self, width: int, height: int) -> engine.Engine:
        """The network for one input size."""
        loaded = self._engines.pop((width, height), None)
        if loaded is None:
            shape = (1, 3, height, width)
            loaded = engine.load(self._data, runtime=self._runtime, threads=self._threads, input_shape=shape)
        self._engines[width, height] = loaded
        while len(self._engines) > 2 * len(LONG_SIDES):
            del self._engines[next(iter(self._engines))]
        return loaded

    def find(self, view: View) -> list[Found]:
        """Boxes of faces that score at least `keep`, of both scales; raises Withheld (code detector)."""
        found: list[Found] = []
        for size in dict.fromkeys(input_size(view.width, view.height, side) for side in LONG_SIDES):
            across, down = view.width / size[0], view.height / size[1]
            for x, y, w, h, score in self._once(view, *size):
                found.append(Found(self.kind, x * across, y * down, w * across, h * down, score))
        if not found:
            return []
        kept = cv2.dnn.NMSBoxes([f[1:5] for f in found], [f.score for f in found], 0.0, OVERLAP)
        return [found[i] for i in np.asarray(kept, dtype=int).ravel()]

    def _once(self, view: View, width: int, height: int) -> list[tuple[float, float, float, float, float]]:
        batch = np.ascontiguousarray(view.bgr(width, height).transpose(2, 0, 1)[None], dtype=np.float32)
        try:
            outputs = self.prepare(width, height).run(batch)
            check(outputs, width, height)
        except Refused as e:
            raise Withheld(f"the face network failed: {e}", code="detector") from e
        return decode(outputs, width, self.keep)


def check(outputs: Sequence[NDArray[np.float32]], width: int, height: int) -> None:
    """Raises Refused (code bad_model) unless the outputs have YuNet's shapes for an input of this size."""
    cells = [(width // s) * (height // s) for s in STRIDES]
    wanted = [(1, n, last) for last in (1, 1, 4) for n in cells]
    got = [tuple(out.shape) for out in outputs[:9]]
    if got != wanted:
        raise Refused(f"for a {width}x{height} input it answers {got}, not {wanted}", code="bad_model")


def decode(
    outputs: Sequence[NDArray[np.float32]], width: int, least: float
) -> list[tuple[float, float, float, float, float]]:
    """(x, y, w, h, score >= least) in pixels of the network's input, one per cell; raises Withheld (code detector)."""
    if not all(np.isfinite(out).all() for out in outputs[:9]):
        raise Withheld("the face network answered with numbers that are none", code="detector")
    found = []
    for stride, kind, any_, box in zip(STRIDES, outputs[0:3], outputs[3:6], outputs[6:9], strict=True):
        scores = np.sqrt(np.clip(kind[0, :, 0], 0, 1) * np.clip(any_[0, :, 0], 0, 1))
        for cell in np.nonzero(scores >= least)[0]:
            row, column = divmod(int(cell), width // stride)
            across, down, log_w, log_h = (float(v) for v in box[0, cell])
            w, h = float(np.exp(min(log_w, 10))) * stride, float(np.exp(min(log_h, 10))) * stride
            x, y = (column + across) * stride - w / 2, (row + down) * stride - h / 2
            found.append((x, y, w, h, float(scores[cell])))
    return found
