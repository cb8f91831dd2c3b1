"""`python -m edged.privacy.planted.expect [PICTURES]`: what a healthy scrubber hides of the planted pictures, as JSON.

Runs the default detectors over the first PICTURES (all by default) and prints, for each kind and size, how many there
were, which share was hidden and which pictures were missed: EXPECTED of sizes.py, by which the alarm is set.
"""

from __future__ import annotations

import json
import sys

import cv2

from edged.privacy import detectors, planted
from edged.privacy.picture import Scrubber
from edged.privacy.sizes import HIDDEN, PICTURES, size_of
from edged.privacy.talk import Inspect, Plant, Request, ScrubOptions

WIDTH, HEIGHT = 1280, 720


def main() -> None:
    cv2.setNumThreads(1)
    scrubber = Scrubber(detectors.make(ScrubOptions()))
    of: dict[str, list[bool]] = {}
    missed: dict[str, list[int]] = {}
    for seed in range(int(sys.argv[1]) if len(sys.argv) > 1 else PICTURES):
        made = planted.plant(Plant(0, seed, WIDTH, HEIGHT))
        done = scrubber.scrub(Request(0, "planted", "frame", WIDTH, HEIGHT, (), made.jpeg))
        shares = planted.inspect(Inspect(0, done.jpeg, made.spots))
        for spot, share, easy in zip(made.spots, shares, made.easy, strict=True):
            names = [f"{spot.kind} {size_of(spot.kind, spot.w)}"] + [f"{spot.kind} easy"] * easy
            for name in names:
                of.setdefault(name, []).append(share >= HIDDEN)
                if share < HIDDEN:
                    missed.setdefault(name, []).append(seed)
        print(f"\r{seed + 1}", end="", file=sys.stderr)
    told = {
        name: {"n": len(hid), "hidden": round(sum(hid) / len(hid), 4), "missed": missed.get(name, [])}
        for name, hid in sorted(of.items())
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
