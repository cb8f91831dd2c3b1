"""What edged hides in a picture, and what that costs: the detectors and the tracking of edged.privacy, as masks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from bench.annotated import Image
from bench.deface import Mask
from edged.clock import cpu_seconds, stopwatch
from edged.errors import Unavailable
from edged.privacy import detectors
from edged.privacy.film import Film
from edged.privacy.picture import BLOCK, GREY, Scrubber, hide_box
from edged.privacy.scrub import ScrubOptions, Withheld
from edged.privacy.talk import Spot

# What makes the libraries here compute as on a processor without AVX; OpenVINO's own nodes are not reached by any.
SSE = {
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "OPENCV_CPU_DISABLE": "AVX512-SKX,AVX2,FP16,AVX",
    "NPY_DISABLE_CPU_FEATURES": "X86_V3 X86_V4 AVX512_ICL AVX512_SPR",
    "OPENBLAS_CORETYPE": "Nehalem",
    "MKL_CBWR": "COMPATIBLE",
}
COST_LIMIT_S = 600
FPS = 25.0


class Covered(NamedTuple):
    """Masks by kind; `unjudged` is why the picture would be blanked or withheld, "" = it would not."""

    masks: dict[str, Mask]
    unjudged: str


class Edged:
    """The scrubber with these options, in this process, on one thread."""

    def __init__(self, name: str, options: ScrubOptions) -> None:
        cv2.setNumThreads(1)
        self.name, self.options = name, options
        made = detectors.make(options)
        self._scrubber = Scrubber(made, margin=options.margin, unjudged="blank")
        self._strict = Scrubber(made, margin=options.margin)

    def covered(self, image: Image) -> Covered:
        """What is hidden in a picture by itself."""
        try:
            spots, unjudged, _ = self._scrubber.see(image)
        except Withheld as e:
            return Covered({}, e.code)
        return Covered(self._masks(image, (s for s in spots if s.sure)), unjudged)

    def film(self, frames: Iterable[Image]) -> tuple[list[Mask], int]:
        """What is hidden in each of the frames that follow one another, by any kind; how many of them were looked at."""
        film = Film(self._strict, FPS, margin=self.options.margin)
        covered = [one for frame in frames for one in film.push(_lifted(frame))]
        covered += film.end()
        return [(one.image == GREY).all(axis=2) for one in covered], film.tally.looks

    def _masks(self, image: Image, spots: Iterable[Spot]) -> dict[str, Mask]:
        height, width = image.shape[:2]
        blocks: dict[str, Mask] = {}
        for spot in spots:
            empty = np.zeros((-(-height // BLOCK), -(-width // BLOCK)), bool)
            hide_box(blocks.setdefault(spot.kind, empty), (spot.x, spot.y, spot.w, spot.h), self.options.margin)
        return {
            kind: np.repeat(np.repeat(hidden, BLOCK, 0), BLOCK, 1)[:height, :width] for kind, hidden in blocks.items()
        }


def cost(options: ScrubOptions, frames: Sequence[Image], *, film: bool = False, sse: bool = False) -> dict[str, float]:
    """Milliseconds of CPU and of wall time per frame, and of wall time per detector, in a process of its own.

    `film`: the frames follow one another at 25 a second and are looked at as often as a film is, followed and covered;
    otherwise each is looked at by itself. Raises Unavailable when that process fails (with the SSE caps, some versions
    of the runtimes do).
    """
    one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    environment = {**os.environ, **one, **(SSE if sse else {})}
    asked = {name: getattr(options, name) for name in ("faces", "plates", "strict", "face_model", "runtime")}
    with tempfile.TemporaryDirectory() as folder:
        for i, frame in enumerate(frames):
            cv2.imwrite(f"{folder}/{i:04}.bmp", frame)
        command = [sys.executable, "-m", "bench.scrubber", folder, json.dumps(asked), "film" if film else "pictures"]
        root = str(Path(__file__).resolve().parents[1])
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=COST_LIMIT_S, check=False, cwd=root, env=environment
            )
        except subprocess.TimeoutExpired as e:
            raise Unavailable("measuring the CPU took too long") from e
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"signal {-done.returncode}"])[-1]
        raise Unavailable(f"measuring the CPU failed: {last[:200]}")
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def _lifted(frame: Image) -> Image:
    """A copy in which nothing is grey by itself."""
    lifted = frame.copy()
    lifted[(frame == GREY).all(axis=2)] = GREY + 1
    return lifted


def _measure(folder: Path, options: ScrubOptions, film: bool) -> dict[str, float]:
    cv2.setNumThreads(1)
    scrubber = Scrubber(detectors.make(options), margin=options.margin, unjudged="blank")
    frames = [np.asarray(cv2.imread(str(p), cv2.IMREAD_COLOR), np.uint8) for p in sorted(folder.glob("*.bmp"))]
    scrubber.see(frames[0])
    stages: Counter[Any] = Counter()  # a Counter adds fractions too
    rolling = Film(scrubber, FPS, margin=options.margin)
    cpu, wall = cpu_seconds(), stopwatch()
    for frame in frames:
        if film:
            rolling.push(frame)
        else:
            stages.update(scrubber.see(frame)[2])
    if film:
        rolling.end()
        stages = Counter(rolling.tally.ms)
    each = 1e3 / len(frames)
    figures = {"cpu_ms": (cpu_seconds() - cpu) * each, "wall_ms": (stopwatch() - wall) * each}
    if film:
        figures["looks_per_frame"] = rolling.tally.looks / len(frames)
    return figures | {f"{stage}_wall_ms": ms / len(frames) for stage, ms in stages.items()}


if __name__ == "__main__":
    print(json.dumps(_measure(Path(sys.argv[1]), ScrubOptions(**json.loads(sys.argv[2])), sys.argv[3] == "film")))
