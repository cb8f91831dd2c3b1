"""How many boxed plates a detector hides and how much it hides beside them: `python -m edged.privacy.plates.measure`.

A plate is hidden when at least 90 % of its box is covered after each found box was grown by MARGIN of its width and
height on each side and snapped outward to blocks of BLOCK pixels, as the scrubber fills them. False area is the share
of the picture that is covered outside every annotated box, these grown and snapped likewise. Plates that nobody boxed
count as false area, so that figure is an upper bound where the table is incomplete.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from edged.privacy.detect import Detector, View
from edged.privacy.picture import BLOCK, hide_box
from edged.privacy.plates import photographs, scenes
from edged.privacy.plates.detector import PlateDetector

MARGIN = 0.25
COVERED = 0.9
WIDTHS = (0, 30, 60, 100, 200, 400, 10_000)  # classes of plate widths, pixels
THRESHOLDS = (0.05, 0.08, 0.1, 0.12, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6, 0.7)

Boxes = Sequence[tuple[float, float, float, float]]


class Judged(NamedTuple):
    """One picture: for each threshold which plates are hidden [t,plates] and the false area [t]."""

    film: str
    widths: tuple[float, ...]
    hidden: NDArray[np.bool_]
    false_area: NDArray[np.float64]


def judge(detector: Detector, image: NDArray[np.uint8], film: str, boxes: Boxes, thresholds: Sequence[float]) -> Judged:
    """Runs the detector on one BGR picture [h,w,3] and compares with its boxes (x, y, w, h)."""
    found = detector.find(View(image))
    height, width = image.shape[:2]
    allowed = _blocks(height, width)
    for box in boxes:
        hide_box(allowed, box, MARGIN)
    hidden = np.zeros((len(thresholds), len(boxes)), bool)
    false_area = np.zeros(len(thresholds))
    for t, least in enumerate(thresholds):
        covered = _blocks(height, width)
        for one in found:
            if one.score >= least:
                hide_box(covered, (one.x, one.y, one.w, one.h), MARGIN)
        pixels = covered.repeat(BLOCK, 0).repeat(BLOCK, 1)[:height, :width]
        wrong = (covered & ~allowed).repeat(BLOCK, 0).repeat(BLOCK, 1)[:height, :width]
        false_area[t] = wrong.mean()
        for k, (x, y, w, h) in enumerate(boxes):
            part = pixels[max(0, round(y)) : round(y + h), max(0, round(x)) : round(x + w)]
            hidden[t, k] = part.size > 0 and part.mean() >= COVERED
    return Judged(film, tuple(box[2] for box in boxes), hidden, false_area)


def summary(judged: Sequence[Judged], thresholds: Sequence[float], at: float) -> dict[str, object]:
    """Hidden share by film and by width class at the threshold nearest to `at`, false area, and the whole curve."""
    t = int(np.argmin(np.abs(np.asarray(thresholds) - at)))
    films = sorted({j.film for j in judged})
    hits = np.concatenate([j.hidden for j in judged], 1)
    widths = np.asarray([w for j in judged for w in j.widths])
    by_width = {}
    for low, high in pairwise(WIDTHS):
        of = (widths >= low) & (widths < high)
        if of.any():
            by_width[f"{low}-{high}"] = [round(float(hits[t, of].mean()), 4), int(of.sum())]
    return {
        "threshold": thresholds[t],
        "pictures": len(judged),
        "plates": len(widths),
        "hidden": round(float(hits[t].mean()), 4) if len(widths) else None,
        "false_area": round(float(np.mean([j.false_area[t] for j in judged])), 5),
        "by_film": {film: _of([j for j in judged if j.film == film], t) for film in films},
        "by_width": by_width,
        "curve": [
            [least, round(float(hits[i].mean()), 4), round(float(np.mean([j.false_area[i] for j in judged])), 5)]
            for i, least in enumerate(thresholds)
        ],
    }


def _of(judged: Sequence[Judged], t: int) -> list[float]:
    hits = np.concatenate([j.hidden for j in judged], 1)
    return [
        round(float(hits[t].mean()), 4), hits.shape[1], round(float(np.mean([j.false_area[t] for j in judged])), 5)
    ]  # fmt: skip


def look_alikes(seed: int, count: int, photos: Sequence[scenes.Grey]) -> Iterator[tuple[NDArray[np.uint8], Boxes]]:
    """Drawn pictures of layouts and typefaces that training never sees, 640x640, to compare two sets of weights by."""
    for i in range(count):
        scene = scenes.drawn(np.random.default_rng((seed, i)), photos, held_out=True, side=640, small=1.6)
        boxes = [tuple(float(v) for v in b[:4]) for b in scene.boxes if b[4] > 0 and b[2] >= 24]
        yield np.asarray(cv2.cvtColor(scene.luma, cv2.COLOR_GRAY2BGR), np.uint8), boxes  # type: ignore[misc]


def _blocks(height: int, width: int) -> NDArray[np.bool_]:
    return np.zeros((-(-height // BLOCK), -(-width // BLOCK)), dtype=bool)


def _judge_frames(
    detector: Detector, frames: Path, table: Path, films: Iterable[str] | None, since: str
) -> list[Judged]:
    wanted = None if films is None else set(films)
    listed = photographs.frames(frames, table, lambda name, film: name >= since and (wanted is None or film in wanted))
    out = []
    for frame in listed:
        image = np.asarray(cv2.imread(str(frames / frame.name), cv2.IMREAD_COLOR), np.uint8)
        out.append(judge(detector, image, frame.film, frame.boxes, THRESHOLDS))
    return out


def main() -> None:
    p = argparse.ArgumentParser(prog="python -m edged.privacy.plates.measure", description=__doc__)
    p.add_argument("--frames", type=Path, help="folder of boxed frames")
    p.add_argument("--boxes", type=Path, help="their table: image, film, xmin, ymin, xmax, ymax")
    p.add_argument("--films", nargs="*", default=None)
    p.add_argument("--since", default="", help="only frames whose name does not sort before this one")
    p.add_argument("--look-alikes", type=int, default=0, help="so many drawn pictures of unseen layouts instead")
    p.add_argument("--backgrounds", type=Path, nargs="*", default=[], help="photographs to draw those on")
    p.add_argument("--runtime", default="auto")
    p.add_argument("--weights", type=Path, help="folder of another plates.onnx and plates.json")
    options = p.parse_args()
    cv2.setNumThreads(1)
    detector = PlateDetector(options.runtime, weights=options.weights)
    start, detector.keep = detector.start, min(THRESHOLDS)
    if options.look_alikes:
        photos = photographs.backgrounds(options.backgrounds)
        drawn = look_alikes(7, options.look_alikes, photos)
        judged = [judge(detector, image, "look-alikes", boxes, THRESHOLDS) for image, boxes in drawn]
    else:
        judged = _judge_frames(detector, options.frames, options.boxes, options.films, options.since)
    print(json.dumps(summary(judged, THRESHOLDS, start), indent=1))


if __name__ == "__main__":
    main()
