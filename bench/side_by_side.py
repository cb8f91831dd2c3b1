"""The pictures of docs/privacy.md: what a camera saw, what deface left, what edged leaves, side by side.

    python -m bench.side_by_side [--deface PROGRAM] [OUT]

The faces are one photograph of a person who is shown with the right to (edged/privacy/planted/README.md) and drawings of
nobody; the plates are drawn, with random numbers. Both programs run as they are, with their defaults.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from bench.annotated import Image
from edged.errors import Unavailable
from edged.privacy.planted import scene
from edged.privacy.plates import scenes

WIDE = 560  # of one panel
STRIP = 26
DAY, NIGHT = 2, 6  # seeds of planted pictures, the sixth a night
PLATES = (14, 10, 23)  # drawn vehicles in layouts that the detector was not trained on; chosen for being readable
QUALITY = 82


def main(arguments: Sequence[str] | None = None) -> None:
    p = argparse.ArgumentParser(prog="bench.side_by_side")
    p.add_argument("--deface", type=Path, metavar="PROGRAM")
    p.add_argument("out", type=Path, nargs="?", default=Path(__file__).resolve().parents[1] / "docs" / "privacy")
    asked = p.parse_args(arguments)
    asked.out.mkdir(parents=True, exist_ok=True)
    for name, image in (("day", planted(DAY)), ("night", planted(NIGHT)), ("plates", vehicles())):
        panels = [("the camera's picture", image)]
        if asked.deface:
            panels.append(("deface", by_program(image, [str(asked.deface)])))
        panels.append(("edged", by_program(image, [sys.executable, "-m", "edged", "privacy", "scrub"])))
        joined = np.hstack([panel(*one) for one in panels])
        cv2.imwrite(str(asked.out / f"{name}.jpg"), joined, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])


def planted(seed: int) -> Image:
    """A 720p frame with three faces and three plates."""
    return scene.draw(seed, 1280, 720).image


def vehicles() -> Image:
    """Drawn vehicles, 1440x480, grey."""
    drawn = [scenes.drawn(np.random.default_rng(seed), [], held_out=True, side=480).luma for seed in PLATES]
    return np.asarray(cv2.cvtColor(np.hstack(drawn).astype(np.uint8), cv2.COLOR_GRAY2BGR), np.uint8)


def by_program(image: Image, command: Sequence[str]) -> Image:
    """What a program that takes IN -o OUT makes of a picture; all grey where it withholds it."""
    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder) / "in.png", Path(folder) / "out.png"
        cv2.imwrite(str(before), image)
        done = subprocess.run([*command, str(before), "-o", str(after)], capture_output=True, text=True, check=False)
        if not after.exists():
            if done.returncode == 3:
                return np.full_like(image, 128)
            raise Unavailable(f"{command[0]}: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
        return np.asarray(cv2.imread(str(after), cv2.IMREAD_COLOR), np.uint8)


def panel(title: str, image: Image) -> Image:
    """A picture under its title."""
    small = cv2.resize(image, (WIDE, round(WIDE * image.shape[0] / image.shape[1])), interpolation=cv2.INTER_AREA)
    out = cv2.copyMakeBorder(small, STRIP, 4, 2, 2, cv2.BORDER_CONSTANT, value=(255, 255, 255))
    cv2.putText(out, title, (6, STRIP - 8), cv2.FONT_HERSHEY_SIMPLEX, 0.55, (40, 40, 40), 1, cv2.LINE_AA)
    return np.asarray(out, np.uint8)


if __name__ == "__main__":
    main()
