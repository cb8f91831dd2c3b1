"""Wrong clocks: 1970, a day back, ten years on; at a start, and stepping while everything runs.

    camera    a real agent in this process against a scripted box; the clock of one of them, or of both, leaps. Nothing
              older than what runs is ever accepted, the camera goes on labelling, and once the time is right a new
              release arrives within RIGHT_S of simulated time.
    site      real processes under libfaketime: the store loses nothing, the daemon stays up, and frames come again
              within RIGHT_S after the time is right.

What a wrong clock does to retention is simulated over months in tests/storage/test_retention.py.

    python -m tests.torture.clocks --points 27
"""

from __future__ import annotations

import argparse
import itertools
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edged import site as sites
from edged.config import load
from edged.wire import topics
from tests.agent.conftest import SITE, FakeClock, Site, classifier
from tests.torture.live import AGENT, FREE, LiveSite

DAY = 86400.0
START = 1_800_000_000.0
LEAPS = {"1970": -START + 100.0, "a day back": -DAY, "300 days on": 300 * DAY, "ten years on": 3650 * DAY}
SIDES = ("camera", "box", "both")
RIGHT_S = 60.0


class Off:
    """A clock that shows another time than the right one."""

    def __init__(self, right: FakeClock) -> None:
        self.right, self.offset = right, 0.0

    def now(self) -> float:
        return self.right.now() + self.offset

    def monotonic(self) -> float:
        return self.right.monotonic()

    def sleep(self, seconds: float) -> None:
        self.right.sleep(seconds)


@dataclass(frozen=True)
class Case:
    """`restart`: the camera is started while the clock is wrong; else it steps while the camera runs."""

    leap: str
    side: str
    restart: bool

    def __str__(self) -> str:
        return f"{self.leap}, {self.side}, {'from the start' if self.restart else 'while it runs'}"


def cases() -> list[Case]:
    return [Case(*c) for c in itertools.product(LEAPS, SIDES, (False, True))]


def camera(case: Case, broken: str = "") -> list[str]:
    """What is wrong with a camera that goes through a leap. `broken` "forgets": it keeps no trusted metadata."""
    found: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        site = Site(Path(folder))
        right = site.clock
        off = {"camera": Off(right), "box": Off(right)}
        site.box.clock = site.box.repository._clock = off["box"]
        site.clock = off["camera"]  # type: ignore[assignment]
        site.start()
        first = site.box.release(1, classifier(seed=1))
        old = site.box.repository.files()
        _offer(site, first, 1)
        site.install(2)
        for side in off if case.side == "both" else (case.side,):
            off[side].offset = LEAPS[case.leap]
        if case.restart:
            site.kill()
            if broken == "forgets":
                shutil.rmtree(Path(folder) / "state" / "tuf")
                (Path(folder) / "state" / "slots" / "a" / "slot.json").unlink()
                (Path(folder) / "state" / "slots" / "b" / "slot.json").unlink()
            site.start()
        for name, data in old.items():
            site.box.link.publish(topics.model(SITE, f"meta/{name}"), data, retain=True)
        site.box.desire(first)
        site.see(3)
        site.run(100)
        found += _labels(site, 2, "after old metadata")
        third = site.box.release(3, classifier(seed=3))
        site.box.offer(third)
        site.see(6)
        site.run(300)
        assert site.agent is not None
        running = site.agent.active.slot.release if site.agent.active.slot else 0
        if running not in (2, 3):
            found.append(f"release {running} runs while the clock is wrong")
        for clock in off.values():
            clock.offset = 0.0
        site.box.repository.refresh_timestamp()
        then = right.now()
        fourth = site.box.release(4, classifier(seed=4))
        site.box.offer(fourth)
        site.see(6)
        try:
            site.until(lambda: site.box.over("job-4"), steps=int(RIGHT_S * 10))
        except AssertionError as e:
            found.append(f"no word of release 4 within {RIGHT_S:g} s: {e}")
        if site.box.last.status != "SUCCEEDED":
            found.append(f"release 4 {site.box.last.status}: {site.box.last.detail}")
        elif right.now() - then <= RIGHT_S:
            found += _labels(site, 4, "with the time right")
    return [f"{case}: {f}" for f in found]


def _offer(site: Site, desired: object, number: int) -> None:
    site.box.offer(desired)  # type: ignore[arg-type]
    site.see(6)
    site.until(lambda: site.box.over(f"job-{number}"))


def _labels(site: Site, release: int, when: str) -> list[str]:
    site.see()
    site.run(3)
    assert site.agent is not None
    slot = site.agent.active.slot
    found = []
    if slot is None or slot.release != release:
        found.append(f"release {slot.release if slot else 0} runs {when}, not {release}")
    if not site.box.frames[-1].header.regions[0].label:
        found.append(f"the camera does not label {when}")
    return found


# real processes

FAKED = {"1970": "-20000d", "a day back": "-1d", "300 days on": "+300d", "ten years on": "+3650d", "right": "+0"}
WRONG_S = 6.0  # how long a clock stays wrong
LIBRARIES = ("/usr/lib/*/faketime/libfaketimeMT.so.1", "/usr/local/lib/faketime/libfaketimeMT.so.1")


def library() -> str:
    """Path of libfaketime for programs with threads, "" if there is none."""
    return next((str(p) for pattern in LIBRARIES for p in Path("/").glob(pattern[1:])), "")


def unable() -> str:
    """Why processes cannot be given another time here, "" if they can."""
    if not library():
        return "libfaketime is not installed"
    with tempfile.TemporaryDirectory() as folder:
        env = _faked(Path(folder), "1970")
        done = subprocess.run(["date", "+%Y"], env=env, capture_output=True, text=True, check=False)
    return "" if done.stdout.startswith("19") else f"libfaketime does nothing: {done.stdout}{done.stderr}"


def _faked(folder: Path, what: str) -> dict[str, str]:
    stamp = folder / "time"
    stamp.write_text(FAKED[what] + "\n")
    monotonic = {"FAKETIME_DONT_FAKE_MONOTONIC": "1", "DONT_FAKE_MONOTONIC": "1"}
    return {"LD_PRELOAD": library(), "FAKETIME_TIMESTAMP_FILE": str(stamp), "FAKETIME_NO_CACHE": "1"} | monotonic


@dataclass
class Told:
    cameras: int = 0
    steps: int = 0
    starts: int = 0
    receipted: int = 0
    right_s: float = 0.0  # the slowest to bring frames once the time was right
    alarms: set[str] = field(default_factory=set)
    faults: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.cameras} stories of a camera; {self.starts} starts and {self.steps} steps of real processes, "
            f"{self.receipted} receipted frames looked for, frames again at most {self.right_s:.1f} s after the time was "
            f"right, alarms {', '.join(sorted(self.alarms)) or 'none'}; {len(self.faults)} faults"
        )


def processes(leaps: Sequence[str], told: Told) -> None:
    """Broker, daemon and camera: started at each wrong time and set right; then stepped there and back."""
    with tempfile.TemporaryDirectory() as folder:
        aside = Path(folder)
        env = _faked(aside, "right")
        with LiveSite(aside / "site", aside, env=env, extra=FREE) as live:
            live.start_agent()
            if not live.play(60, until=lambda: live.stored_since(0) and _of_agent(live) > 3):
                told.faults.append(f"no frames at the start:\n{live.said()}")
            for leap in leaps:
                live.stop()
                _faked(aside, leap)
                live.start_daemon()
                told.starts += 1
                live.play(WRONG_S)
                _right(live, aside, f"started at {leap}", told)
            for leap in leaps:
                _faked(aside, leap)
                told.steps += 1
                live.play(WRONG_S)
                _right(live, aside, f"stepped to {leap}", told)
            if live.up():
                live.stop()
        told.receipted += len(list(live.receipted()))
        told.faults += live.faults()
        told.faults += _emptied(live)


def _right(live: LiveSite, aside: Path, where: str, told: Told) -> None:
    """The time is right again: everybody brings frames."""
    if not live.up():
        told.faults.append(f"{where}: the daemon ended:\n{live.said()}")
        live.start_daemon()
    with sites.open_store(load(live.config)) as store:
        told.alarms |= {r[0] for r in store.rows("select code from alarm where code glob 'clock*' or code glob 'ret*'")}
    _faked(aside, "right")
    then, seen = time.monotonic(), _of_agent(live)
    if live.play(RIGHT_S, until=lambda: live.stored_since(then) and _of_agent(live) > seen):
        told.right_s = max(told.right_s, time.monotonic() - then)
    else:
        told.faults.append(f"{where}: no frames {RIGHT_S:g} s after the time was right:\n{live.said(12)}")


def _of_agent(live: LiveSite) -> int:
    with sites.open_store(load(live.config), readonly=True) as store:
        return int(store.value("select count(*) from frame where camera = ? and status = 'stored'", (AGENT,)))


def _emptied(live: LiveSite) -> list[str]:
    """Frames that lost their picture: none is old, whatever a clock said."""
    with sites.open_store(load(live.config), readonly=True) as store:
        total = int(store.value("select count(*) from frame where status = 'stored'"))
        gone = int(store.value("select count(*) from frame where status = 'stored' and object is null"))
    return [f"{gone} of {total} pictures were deleted"] if gone else []


def run(wanted: int, seed: int, leaps: Sequence[str] = tuple(LEAPS)) -> Told:
    """`wanted` stories of a camera, and real processes through `leaps`."""
    told = Told()
    drawn = cases()
    random.Random(seed).shuffle(drawn)
    for case in drawn[:wanted]:
        told.cameras += 1
        told.faults += camera(case)
    if not unable():
        processes(leaps, told)
    return told


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="clocks", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--points", type=int, default=len(cases()))
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args(argv)
    told = run(args.points, args.seed)
    print(f"clocks: seed {args.seed}: {told}{f'; no real processes: {unable()}' if unable() else ''}")
    for fault in told.faults[:30]:
        print(f"  {fault}")
    return 1 if told.faults else 0


if __name__ == "__main__":
    sys.exit(main())
