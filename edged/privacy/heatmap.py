"""Networks that answer with a heat map of centres and boxes: loading, running at several sizes, decoding, merging.

Guarantees: numbers that are none end in Withheld, never in "nothing there"; weights that are not the file the card names
do not load. Importing or running this needs no torch.

The network sees a picture in luma. Input [1,1,H,W] 0..255, H and W multiples of 32; outputs at an eighth of that size:
heat [1,1,h,w] (probability of a centre) and box [1,4,h,w] (dx, dy from the cell's middle in cells, log w, log h in
cells). Decoding after CenterNet (Zhou, Wang, Kraehenbuehl 2019, arXiv 1904.07850).
"""

from __future__ import annotations

import hashlib
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import NamedTuple

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from edged.errors import Misconfigured, Refused
from edged.privacy.compiled import Compiled
from edged.privacy.detect import View, plausible
from edged.privacy.scrub import Withheld

Float = NDArray[np.float32]
Size = tuple[int, int]

FINE, COARSE = 960, 320  # long sides of the network's inputs
GROW_AT_MOST = 1.5  # of small pictures, to reach FINE
STRIDE = 8
STEP = 32
OVERLAP = 0.4  # share of the union from which two boxes are one thing
WITHIN = 0.75  # share of the smaller one from which it is a part of the other
KEPT_SIZES = 6  # compiled networks kept, one per input size


class Card(msgspec.Struct, frozen=True):
    """What NAME.json says of NAME.onnx; it holds more for people to read."""

    sha256: str
    start: float
    keep: float


class Guess(NamedTuple):
    """Corners in pixels."""

    x0: float
    y0: float
    x1: float
    y1: float
    score: float


def input_size(width: int, height: int, long_side: int) -> Size:
    """The network's (width, height) for a picture: multiples of STEP, the long side about `long_side`."""
    scale = min(GROW_AT_MOST * long_side / FINE, long_side / max(width, height))
    return max(STEP, round(width * scale / STEP) * STEP), max(STEP, round(height * scale / STEP) * STEP)


class Finder:
    """One network at its sizes. Not thread-safe. Compiled once per input size, the last few are kept.

    Raises Misconfigured when the weights or their card are missing, unreadable or do not belong together.
    """

    def __init__(self, home: Path | Traversable, name: str, runtime: str, threads: int) -> None:
        try:
            self._data = home.joinpath(f"{name}.onnx").read_bytes()
            self.card = msgspec.json.decode(home.joinpath(f"{name}.json").read_bytes(), type=Card)
        except (OSError, msgspec.DecodeError) as e:
            raise Misconfigured(f"the network of {name} cannot be read: {e}", hint="install edged anew") from e
        self.sha256 = hashlib.sha256(self._data).hexdigest()
        if self.sha256 != self.card.sha256:
            ours, wanted = self.sha256[:16], self.card.sha256[:16]
            raise Misconfigured(
                f"{name}.onnx is not the file that was measured (SHA-256 {ours}..., not {wanted}...)",
                hint="install edged anew",
            )
        self._name = name
        self.engines = Compiled(self._data, runtime, threads, most=KEPT_SIZES, channels=1)
        try:
            self.runtime = self.engines.at(*input_size(1280, 720, FINE)).runtime
            self.engines.at(*input_size(1280, 720, COARSE))
        except Refused as e:
            raise Misconfigured(f"the network of {name} does not load: {e}") from e

    def guesses(self, view: View, least: float) -> list[Guess]:
        """Boxes of both sizes that score at least `least`, merged, in pixels of the picture; Withheld (code detector)."""
        found: list[Guess] = []
        for long_side in (FINE, COARSE):
            size = input_size(view.width, view.height, long_side)
            batch = view.luma(*size)[None, None].astype(np.float32)
            try:
                heat, box = self.engines.at(*size).run(batch)
            except (Refused, ValueError) as e:
                raise Withheld(f"the network of {self._name} failed: {e}", code="detector") from e
            plausible(heat, self._name)
            across, down = view.width / size[0], view.height / size[1]
            for g in decode(heat, box, least):
                found.append(Guess(g.x0 * across, g.y0 * down, g.x1 * across, g.y1 * down, g.score))
        return merge(found)


def decode(heat: Float, box: Float, least: float) -> list[Guess]:
    """Boxes at the peaks of the heat, score >= least, in pixels of the network's input; Withheld for NaN, infinity."""
    if not (np.isfinite(heat).all() and np.isfinite(box).all()):
        raise Withheld("a network answered with numbers that are none", code="detector")
    plane = np.ascontiguousarray(heat[0, 0])
    highest = cv2.dilate(plane, np.ones((3, 3), np.uint8))
    rows, columns = np.nonzero((plane >= least) & (plane >= highest))
    dx, dy, log_w, log_h = box[0, :, rows, columns].T
    middle_x, middle_y = (columns + 0.5 + dx) * STRIDE, (rows + 0.5 + dy) * STRIDE
    half_w, half_h = (np.exp(np.clip(log, -2, 5)) * (STRIDE / 2) for log in (log_w, log_h))
    corners = np.stack([middle_x - half_w, middle_y - half_h, middle_x + half_w, middle_y + half_h], 1)
    scores = np.minimum(plane[rows, columns], 1.0)
    return [
        Guess(float(c[0]), float(c[1]), float(c[2]), float(c[3]), float(s))
        for c, s in zip(corners, scores, strict=True)
    ]  # fmt: skip


def merge(guesses: list[Guess]) -> list[Guess]:
    """One box a thing: the best guess, averaged with those that mean the same place, weighted by their scores."""
    rest = sorted(guesses, key=lambda g: -g.score)
    kept: list[Guess] = []
    while rest:
        best, others, same = rest[0], [], [rest[0]]
        for guess in rest[1:]:
            shared = max(0.0, min(best.x1, guess.x1) - max(best.x0, guess.x0)) * max(
                0.0, min(best.y1, guess.y1) - max(best.y0, guess.y0)
            )
            of_best, of_guess = _area(best), _area(guess)
            if shared >= OVERLAP * (of_best + of_guess - shared):
                same.append(guess)
            elif shared < WITHIN * of_guess:  # a part goes with the whole
                others.append(guess)
        weights = np.asarray([g.score for g in same])
        corners = np.asarray([g[:4] for g in same])
        mean = (corners * weights[:, None]).sum(0) / weights.sum()
        kept.append(Guess(float(mean[0]), float(mean[1]), float(mean[2]), float(mean[3]), best.score))
        rest = others
    return kept


def _area(guess: Guess) -> float:
    return max(1e-6, guess.x1 - guess.x0) * max(1e-6, guess.y1 - guess.y0)
