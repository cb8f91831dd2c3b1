"""An installer's own detector, from an ONNX file or from code: whole persons, burned-in text, screens, or a word of their own.

Input: one float32 [1,3,H,W], BGR 0..255, H and W multiples of 32, the longer one `long_side`. Layouts of the answer:

    boxes   outputs [n,4] (left, top, right, bottom in pixels of the input) and [n] or [n,classes] (scores 0..1), each
            with or without a batch axis of 1, in this order: the form of a network exported with its own suppression
    yolo    one output [1,n,5+classes] (centre x, y, width, height in pixels of the input, objectness, class scores, all
            0..1): YOLOX with its decoding in the graph (Ge et al. 2021, arXiv 2107.08430)

    code    no file but "module:attribute" of an installed package, called as `attribute(plugin, runtime, threads)`,
            which gives an object with the Protocol of detect.py

Guarantees: another layout is Misconfigured at start; numbers that are none end in Withheld; code is loaded only where it
was named, and only in the scrub child, which is shut in by then (confine.py). Does not guarantee: that the detector is
a good one (`edged privacy audit` measures it) or that its licence fits (the installer's matter).
"""

from __future__ import annotations

import hashlib
import importlib
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edged.errors import Misconfigured, Refused
from edged.privacy.compiled import Compiled
from edged.privacy.detect import Detector, Found, View, plausible
from edged.privacy.scrub import Withheld
from edged.privacy.talk import Plugin

STEP = 32
OVERLAP = 0.5
KEPT_SIZES = 3
KEEP_SHARE = 0.5  # of the threshold, from which a box prolongs a track

Float = NDArray[np.float32]


def make(plugin: Plugin, *, runtime: str = "auto", threads: int = 1) -> Detector:
    """The detector that a plug-in names; raises Misconfigured."""
    if plugin.layout == "code":
        return _from_code(plugin, runtime, threads)
    return OnnxDetector(plugin, Path(plugin.file), runtime=runtime, threads=threads)


def _from_code(plugin: Plugin, runtime: str, threads: int) -> Detector:
    name, _, attribute = plugin.file.partition(":")
    try:
        detector: Detector = getattr(importlib.import_module(name), attribute)(plugin, runtime, threads)
        sound = detector.kind == plugin.kind and 0 < detector.keep <= detector.start <= 1
        sound = sound and all(isinstance(f, Found) for f in detector.find(View(np.zeros((64, 64, 3), np.uint8))))
    except Exception as e:
        raise Misconfigured(
            f"the detector {plugin.file!r} does not start: {type(e).__name__}: {e}"[:300],
            hint='file = "module:attribute" of a package that is installed beside edged',
        ) from e
    if not sound:
        raise Misconfigured(
            f"{plugin.file!r} is no detector of every {plugin.kind}",
            hint="it needs this kind, 0 < keep <= start <= 1 and a find(view) that gives a list of Found",
        )
    return detector


class OnnxDetector:
    """See detect.Detector. Raises Misconfigured for a file that is missing, no model, or of another layout."""

    def __init__(self, plugin: Plugin, path: Path, *, runtime: str = "auto", threads: int = 1) -> None:
        self.kind, self.start, self.keep = plugin.kind, plugin.threshold, plugin.threshold * KEEP_SHARE
        self._plugin = plugin
        try:
            self._data = path.read_bytes()
        except OSError as e:
            raise Misconfigured(f"the detector of every {plugin.kind}, {path}, cannot be read: {e.strerror}") from e
        self.sha256 = hashlib.sha256(self._data).hexdigest()
        if plugin.sha256 not in ("", self.sha256):
            raise Misconfigured(
                f"{path} is not the file that was configured (SHA-256 {self.sha256[:16]}..., not {plugin.sha256[:16]}...)",
                hint="restore it, or measure the new one and write its sha256 into the configuration",
            )
        self._engines = Compiled(self._data, runtime, threads, most=KEPT_SIZES)
        try:
            self.runtime = self._engines.at(plugin.long_side, plugin.long_side).runtime
            self.find(View(np.zeros((plugin.long_side, plugin.long_side, 3), np.uint8)))
        except (Refused, Withheld) as e:
            raise Misconfigured(
                f"{path} does not work as a detector of layout {plugin.layout!r}: {e}",
                hint="the layouts are described in docs/privacy.md",
            ) from e

    def find(self, view: View) -> list[Found]:
        """Boxes that score at least `keep`; raises Withheld (code detector)."""
        scale = self._plugin.long_side / max(view.width, view.height)
        width, height = (max(STEP, round(side * scale / STEP) * STEP) for side in (view.width, view.height))
        batch = np.ascontiguousarray(view.bgr(width, height).transpose(2, 0, 1)[None], dtype=np.float32)
        try:
            outputs = self._engines.at(width, height).run(batch)
        except Refused as e:
            raise Withheld(f"the {self.kind} network failed: {e}", code="detector") from e
        corners, scores = (_boxes if self._plugin.layout == "boxes" else _yolo)(outputs, self._plugin.labels)
        if not (np.isfinite(corners).all() and np.isfinite(scores).all()):
            raise Withheld(f"the {self.kind} network answered with numbers that are none", code="detector")
        plausible(scores, self.kind, of_all_places=self._plugin.layout == "yolo")
        kept = np.flatnonzero(scores >= self.keep)
        boxes = np.concatenate([corners[kept, :2], corners[kept, 2:] - corners[kept, :2]], axis=1).astype(np.float64)
        if not len(kept):
            return []
        best = cv2.dnn.NMSBoxes(boxes.tolist(), scores[kept].tolist(), self.keep, OVERLAP)
        across, down = view.width / width, view.height / height
        found = []
        for i in np.asarray(best, dtype=int).ravel():
            x, y, w, h = boxes[i].tolist()
            found.append(Found(self.kind, x * across, y * down, w * across, h * down, float(scores[kept[i]])))
        return found


def _boxes(outputs: tuple[Float, ...], labels: tuple[int, ...]) -> tuple[Float, Float]:
    if len(outputs) < 2:
        raise Withheld("it has one output, boxes and scores are two", code="detector")
    corners, scores = (np.asarray(output, np.float32) for output in outputs[:2])
    if corners.ndim == 3 and len(corners) == 1:
        corners = corners[0]
    n = len(corners) if corners.ndim == 2 and corners.shape[1] == 4 else -1
    # [1,n] and [1,n,classes] have a batch axis; [1,classes] of one box has none.
    if scores.shape[:2] == (1, n) and (n != 1 or scores.ndim == 3):
        scores = scores[0]
    if scores.ndim not in (1, 2) or len(scores) != n:
        raise Withheld(f"outputs {outputs[0].shape} and {outputs[1].shape} are no boxes and scores", code="detector")
    return corners, scores if scores.ndim == 1 else _best(scores, labels)


def _yolo(outputs: tuple[Float, ...], labels: tuple[int, ...]) -> tuple[Float, Float]:
    out = outputs[0]
    if out.ndim != 3 or out.shape[0] != 1 or out.shape[2] < 6:
        raise Withheld(f"an output of {out.shape} is not [1,n,5+classes]", code="detector")
    middle, size = out[0, :, :2], out[0, :, 2:4]
    return np.concatenate([middle - size / 2, middle + size / 2], axis=1), out[0, :, 4] * _best(out[0, :, 5:], labels)


def _best(scores: Float, labels: tuple[int, ...]) -> Float:
    """The best of each row's classes that count, [n]."""
    if labels and max(labels) >= scores.shape[1]:
        raise Withheld(f"there is no class {max(labels)} among {scores.shape[1]}", code="detector")
    chosen = scores[:, list(labels)] if labels else scores
    return np.asarray(chosen.max(axis=1, initial=0), np.float32)
