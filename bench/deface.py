"""deface, the tool that is measured against: the real program in a process of its own, or its settings re-created.

The program gets the same pixels as we do, as BMP files, and is asked to cover with solid black (`--replacewith solid`):
a pixel counts as hidden when it comes back black (black ones are lifted by one grey level before). That is the kindest
reading: solid covering takes whole rectangles, the blur that deface does by default only the ellipse within, and what
is blurred is not called visible. Everything else is its default: threshold 0.2, mask scale 1.3, full size. Of its two
runtimes the one that is faster here is used for times; both find the same.

The re-creation is for machines without the program: CenterFace from the same file, run by our engine at full size with
threshold 0.2, rectangles of scale 1.3. It finds what deface finds, but its time is our engine's, not deface's.
"""

from __future__ import annotations

import resource
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from bench.annotated import Image
from edged.clock import cpu_seconds, stopwatch
from edged.errors import Unavailable
from edged.privacy.faces import STEP, FaceDetector, decode

THRESHOLD = 0.2
MASK_SCALE = 1.3
RUNTIMES = ("opencv", "onnxrt")
FILM_LIMIT_S = 3600

Mask = NDArray[np.bool_]  # [h,w]


class Spent(NamedTuple):
    """CPU of a process and its own children, and wall time, both in seconds."""

    cpu: float
    wall: float


class Deface(Protocol):
    """`name` says which it is."""

    name: str
    real: bool

    def covered(self, images: Sequence[Image]) -> list[Mask]:
        """What it hides in each."""
        ...

    def cost(self, images: Sequence[Image]) -> dict[str, float]:
        """CPU milliseconds of its detector per picture, by runtime."""
        ...


class Program:
    """The program `deface`. Raises Unavailable when it cannot be run."""

    real = True

    def __init__(self, path: Path) -> None:
        self._path = path.absolute() if path.exists() else path  # a bare name is looked for on the PATH
        said = self._run(["--version"]).strip().splitlines()
        self.name = f"deface {said[-1] if said else '?'}"
        self.fastest = RUNTIMES[0]

    def covered(self, images: Sequence[Image]) -> list[Mask]:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            self._lay_out(folder, images)
            self._run([*self._inputs(folder, len(images)), "--replacewith", "solid", *self._backend()])
            return [_black(folder / f"{i}_anonymized.bmp", image.shape) for i, image in enumerate(images)]

    def cost(self, images: Sequence[Image]) -> dict[str, float]:
        """By difference: the same command with the network's input shrunk to 32x32 pays for all but the detector."""
        costs = {}
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            self._lay_out(folder, images)
            for runtime in RUNTIMES:
                command = [*self._inputs(folder, len(images)), "--replacewith", "none", "--backend", runtime]
                try:
                    whole = spend([str(self._path), *command])
                    bare = spend([str(self._path), *command, "--scale", "32x32"])
                except Unavailable:
                    continue  # a runtime that is not installed
                costs[runtime] = max(0.0, whole.cpu - bare.cpu) / len(images) * 1e3
        if costs:
            self.fastest = min(costs, key=lambda name: costs[name])
        return costs

    def film(self, clip: Path, out: Path) -> Spent:
        """The whole tool on a clip, by its faster runtime."""
        return spend([str(self._path), str(clip), "-o", str(out), *self._backend()])

    def _backend(self) -> list[str]:
        return ["--backend", self.fastest] if self.fastest else []

    def _run(self, arguments: Sequence[str]) -> str:
        return _call([str(self._path), *arguments])

    @staticmethod
    def _lay_out(folder: Path, images: Sequence[Image]) -> None:
        for i, image in enumerate(images):
            lifted = image.copy()
            lifted[(image == 0).all(axis=2)] = 1
            cv2.imwrite(str(folder / f"{i}.bmp"), lifted)

    @staticmethod
    def _inputs(folder: Path, n: int) -> list[str]:
        return [str(folder / f"{i}.bmp") for i in range(n)]


class Recreated:
    """Its settings, run here."""

    real = False
    name = "deface's settings re-created (not the program)"

    def __init__(self) -> None:
        self._network = FaceDetector()

    def covered(self, images: Sequence[Image]) -> list[Mask]:
        return [self._one(image) for image in images]

    def cost(self, images: Sequence[Image]) -> dict[str, float]:
        self._one(images[0])
        began = cpu_seconds()
        for image in images:
            self._one(image)
        return {"our engine": (cpu_seconds() - began) / len(images) * 1e3}

    def _one(self, image: Image) -> Mask:
        height, width = image.shape[:2]
        size = (-(-width // STEP) * STEP, -(-height // STEP) * STEP)
        sized = np.asarray(cv2.resize(image, size), np.uint8)
        batch = np.ascontiguousarray(sized[:, :, ::-1].transpose(2, 0, 1)[None], np.float32)
        heat, scale, offset = self._network.engines.at(*size).run(batch)[:3]
        mask = np.zeros((height, width), bool)
        for x, y, w, h, _ in decode(heat, scale, offset, THRESHOLD):
            across, down, more = width / size[0], height / size[1], MASK_SCALE - 1
            left, top = (x - w * more) * across, (y - h * more) * down
            right, bottom = (x + w * (1 + more)) * across, (y + h * (1 + more)) * down
            mask[max(0, round(top)) : max(0, round(bottom)) + 1, max(0, round(left)) : max(0, round(right)) + 1] = True
        return mask


def _black(path: Path, shape: tuple[int, ...]) -> Mask:
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None or image.shape != shape:
        raise Unavailable(f"deface left no picture at {path.name}")
    return np.asarray((image == 0).all(axis=2))


def _call(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=FILM_LIMIT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as e:
        raise Unavailable(f"{command[0]} does not run: {e}") from e
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["nothing said"])[-1]
        raise Unavailable(f"{command[0]} ended with {done.returncode}: {last[:200]}")
    return done.stdout


def spend(command: Sequence[str]) -> Spent:
    """Run a command to its end; raises Unavailable when it fails."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), stopwatch()
    _call(command)
    wall, after = stopwatch() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return Spent(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall)
