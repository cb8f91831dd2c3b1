"""The long form: `python -m tests.fuzz [--inputs 1000000] [--pictures 100000] [--seed 1]`; prints what it counted.

Inputs go through every target of targets.py in this process; pictures through a real scrub child, each behind a picture of
one colour, and what decodes also behind one of another: the same must come of it. Exit 1 when anything but taking or
refusing happened.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import sys
from pathlib import Path

from edged.clock import SystemClock, iso, stopwatch
from edged.errors import Refused
from edged.privacy import jpeg
from edged.privacy.pool import ScrubChild
from edged.privacy.scrub import ScrubOptions, Withheld
from tests.fuzz.bombs import BOMBS
from tests.fuzz.mutate import mutant, pictures, seeds_of
from tests.fuzz.targets import TARGETS, survives
from tests.fuzz.test_fuzz import GREEN, MAGENTA, behind


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--pictures", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    print(f"{iso(SystemClock().now())}  {platform.machine()}, Python {platform.python_version()}, seed {options.seed}")
    ok = _bombs()
    ok &= _inputs(options.inputs, options.seed)
    ok &= _pictures(options.pictures, options.seed)
    return 0 if ok else 1


def _bombs() -> bool:
    slowest, refused = 0.0, 0
    for data in BOMBS.values():
        began = stopwatch()
        try:
            jpeg.check(data)
        except Refused:
            refused += 1
        slowest = max(slowest, stopwatch() - began)
    print(f"bombs: {refused} of {len(BOMBS)} refused before any decoder, the slowest in {slowest * 1e3:.2f} ms")
    return refused == len(BOMBS)


def _inputs(n: int, seed: int) -> bool:
    before = _peak(os.getpid())  # ru_maxrss can be that of a larger process which started this one
    escaped = 0
    for name, target in TARGETS.items():
        rng, seeds, taken, began = random.Random(f"{name} {seed}"), seeds_of(name), 0, stopwatch()
        for _ in range(n // len(TARGETS)):
            data = mutant(rng, seeds)
            try:
                taken += survives(target, data)
            except Exception as e:  # noqa: BLE001
                escaped += 1
                print(f"{name}: {type(e).__name__}: {e}: {data[:200]!r}")
        print(f"{name}: {n // len(TARGETS)} mutants, {taken} taken, {escaped} escaped, {stopwatch() - began:.0f} s")
    grown = _peak(os.getpid()) / before - 1
    print(f"largest size of this process grew by {grown:.1%}")
    return escaped == 0


def _pictures(n: int, seed: int) -> bool:
    rng, seeds = random.Random(f"pictures {seed}"), pictures()
    came = stale = restarts = 0
    slowest = 0.0
    with ScrubChild(ScrubOptions(faces=False, plates=False, unjudged="keep"), deadline_s=10) as child:
        child.ready()
        pid, began = child.pid, stopwatch()
        for i in range(n):
            data, start = mutant(rng, seeds), stopwatch()
            try:
                first = behind(child, MAGENTA, data, 2 * i)
                came += 1
                stale += behind(child, GREEN, data, 2 * i + 1) != first
            except (Refused, Withheld):
                pass
            slowest = max(slowest, stopwatch() - start)
            if child.pid != pid:
                restarts, pid = restarts + 1, child.pid
                child.ready()
        peak = _peak(child.pid)
        print(
            f"pictures: {n} mutants through a child, {came} decoded, {stale} not the same behind another, {restarts} children"
            f" replaced, the slowest {slowest:.2f} s, largest size of the child {peak / 1e6:.0f} MB, {stopwatch() - began:.0f} s"
        )
    return stale == 0


def _peak(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    sys.exit(main())
