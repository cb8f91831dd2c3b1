"""A disk that says ENOSPC, EIO or EROFS: at one call, and at every k-th, of each kind of write and sync.

One process brings frames all the time (endure_act.py); strace is attached, fails what the point says for a while, and lets go.
Checked at each point: the process lives, no frame met anything but "later", frames and audit rows come again within
RESUME_S, and no file whose sync failed was synced again before what it was to flush was written again. At the end of each
run: everything that was promised.

    python -m tests.torture.faults --points 200 --seed 1
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.torture import inject
from tests.torture.acts import ACTS
from tests.torture.endure_act import CAMERAS
from tests.torture.kill import Stage, stage
from tests.torture.live import FREE, LiveSite

ERRORS = ("ENOSPC", "EIO", "EROFS")
KINDS = ("write", "pwrite64", "pwritev2", "fsync", "fdatasync")
RESUME_S = 30.0
FAULT_S = 0.4  # how long a fault lasts
DAEMON_FAULT_S = 2.0
PER_RUN = 20  # points that one process has to live through


@dataclass(frozen=True)
class Fault:
    """The K-th call of a kind fails; `again` also the 2K-th, the 3K-th and so on."""

    kind: str
    error: str
    k: int
    again: bool

    def __str__(self) -> str:
        return f"{self.kind}:error={self.error}:when={self.k}{f'+{self.k}' if self.again else ''}"


@dataclass
class Told:
    points: int = 0
    injected: Counter[str] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)
    resumed_s: float = 0.0  # the slowest
    faults: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        injected = ", ".join(f"{k} {n}" for k, n in sorted(self.injected.items()))
        answers = ", ".join(f"{k} {n}" for k, n in sorted(self.answers.items()))
        return (
            f"{self.points} points; failed calls: {injected or 'none'}; said: {answers}; "
            f"slowest to resume {self.resumed_s:.2f} s; {len(self.faults)} faults"
        )


def points(kinds: Sequence[str] = KINDS) -> list[Fault]:
    """Every kind and error; k small, where the steps of one frame differ, and larger, in the middle of later ones."""
    ks = (1, 2, 3, 4, 5, 7, 10, 15)
    every = [Fault(kind, error, k, again) for kind in kinds for error in ERRORS for k in ks for again in (False, True)]
    return [f for f in every if not (f.kind == "write" and f.k > 5)]  # only the keyring is written so


def run(wanted: int, seed: int, *, broken: str = "", stop_s: float = 1e9, kinds: Sequence[str] = KINDS) -> Told:
    rng, told, began = random.Random(seed), Told(), time.monotonic()
    every = points(kinds)
    rng.shuffle(every)
    while len(every) < wanted:
        every += every
    drawn = every[:wanted]
    while drawn and time.monotonic() - began < stop_s:
        with stage(broken) as on:
            _run(on, drawn[:PER_RUN], told)
        drawn = drawn[PER_RUN:]
    return told


def _run(on: Stage, faults: Sequence[Fault], told: Told) -> None:
    """One process and the faults that it has to live through."""
    said = on.scratch / "said"
    with on.folder("endure") as folder:
        pid = on.begin("endure", folder)
        _until(lambda: _stored(said, 0), RESUME_S)
        for fault in faults:
            log = on.scratch / "trace"
            kinds = sorted({fault.kind, "close", *inject.SYNCS, *inject.AT})
            with inject.attached(pid, log, trace=kinds, inject=str(fault)):
                time.sleep(FAULT_S)
            traced = inject.calls(log)
            told.points += 1
            told.injected.update(f"{c.kind} {c.failed}" for c in traced if c.injected)
            told.faults += [
                f"{fault}: {Path(p).name} was synced again after a failed sync" for p in inject.synced_again(traced)
            ]
            at, then = said.stat().st_size, time.monotonic()
            if not _until(lambda at=at: _stored(said, at), RESUME_S):
                told.faults.append(f"{fault}: no frames {RESUME_S:g} s after it")
                break
            told.resumed_s = max(told.resumed_s, time.monotonic() - then)
            if not Path(f"/proc/{pid}/fd").exists():
                told.faults.append(f"{fault}: the process is gone")
                break
        (on.scratch / "stop").touch()
        on.ended()
        lines = said.read_text().splitlines()
        told.answers.update(
            " ".join(w for w in line.split()[:2] if not w.isdecimal() and w not in CAMERAS) for line in lines
        )
        told.faults += sorted({line for line in lines if line.startswith("raised")})
        told.faults += ACTS["endure"].check(folder, lines, False)
        (on.scratch / "stop").unlink()


def _stored(said: Path, after: int) -> bool:
    """Whether each camera got a frame stored and somebody an audit row written since."""
    if not said.exists():
        return False
    with said.open() as f:
        f.seek(after)
        new = f.read()
    return all(f"stored {camera}" in new for camera in CAMERAS) and "audit " in new.replace("unaudited", "")


def daemon(wanted: int, seed: int) -> Told:
    """The same with `edged run`: only calls about the store's files fail, not those of sockets and pipes."""
    rng, told = random.Random(seed), Told()
    drawn = rng.sample([f for f in points() if f.again and f.kind != "write"], wanted)
    with tempfile.TemporaryDirectory() as folder:
        aside = Path(folder)
        with LiveSite(aside / "site", aside, extra=FREE) as live:
            live.play(60, until=lambda: live.stored_since(0))
            for fault in drawn:
                if live.up():
                    _daemon_point(live, fault, aside / "trace", told)
            if not live.up():
                told.faults.append(f"the daemon ended:\n{live.said(80)}")
            else:
                live.stop()
            told.answers += live.answers()
            told.faults += live.faults()
    return told


def _daemon_point(live: LiveSite, fault: Fault, log: Path, told: Told) -> None:
    assert live.daemon is not None
    store = live.folder
    segments = [store / "segments" / f"{n:08d}.seg" for n in range(1, 40)]
    paths = [store / "edged.db", store / "edged.db-wal", store / "keyring", store, store / "segments", *segments]
    kinds = sorted({fault.kind, "close", *inject.SYNCS, *inject.AT})
    with inject.attached(live.daemon.pid, log, trace=kinds, inject=str(fault), paths=paths):
        live.play(DAEMON_FAULT_S)
    traced = inject.calls(log)
    told.points += 1
    told.injected.update(f"{c.kind} {c.failed}" for c in traced if c.injected)
    again = inject.synced_again(traced)
    told.faults += [f"daemon: {fault}: {Path(p).name} was synced again after a failed sync" for p in again]
    then = time.monotonic()
    if live.up() and live.play(RESUME_S, until=lambda: live.stored_since(then)):
        told.resumed_s = max(told.resumed_s, time.monotonic() - then)
    else:
        told.faults.append(f"daemon: {fault}: no frames {RESUME_S:g} s after it:\n{live.said(8)}")


def _until(done: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if done():
            return True
        time.sleep(0.01)
    return False


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="faults", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--points", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--broken", default="")
    args = parser.parse_args(argv)
    if reason := inject.unable():
        print(f"faults: not run: {reason}")
        return 0
    told = run(args.points, args.seed, broken=args.broken)
    print(f"faults: seed {args.seed}: {told}", flush=True)
    live = daemon(min(40, args.points // 10), args.seed)
    print(f"faults of the daemon: seed {args.seed}: {live}")
    for fault in (told.faults + live.faults)[:50]:
        print(f"  {fault}")
    return 1 if told.faults or live.faults else 0


if __name__ == "__main__":
    sys.exit(main())
