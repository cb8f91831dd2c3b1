"""SIGKILL at every system call that touches the disk, and at random moments under load.

Each point: a copy of a prepared folder, an act (tests/torture/acts.py) killed before its K-th call of one kind, then a start
as after any crash. Checked: what was promised, `check.run`, one row and one set of objects for each frame, no plaintext in
any file; then the act is played to its end and everything is checked again. Points are drawn over acts and kinds alike.

Does not show durability: the page cache outlives a killed process. A build that gives receipts after the write and before
the flush passes here; the simulated power cuts (tests/torture/power.py) are for that.

    python -m tests.torture.kill --points 1000 --seed 1
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.torture import inject
from tests.torture.act import Act
from tests.torture.acts import ACTS, SMALL

READY_S = 30.0  # a start that takes longer hangs; the promise is 10 s, and what was measured is printed


@dataclass(frozen=True)
class Point:
    """Before the `k`-th `kind` of an act, counted in each thread."""

    act: str
    kind: str
    k: int


@dataclass
class Told:
    """What came of many points."""

    points: Counter[str] = field(default_factory=Counter)  # by act
    killed: int = 0
    promises: int = 0
    ready_s: float = 0.0  # the slowest start
    faults: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        acts = ", ".join(f"{act} {n}" for act, n in sorted(self.points.items()))
        return (
            f"{self.points.total()} points ({acts}); {self.killed} killed; {self.promises} promises kept; "
            f"slowest start {self.ready_s:.2f} s; {len(self.faults)} faults"
        )


class Stage:
    """Plays acts in children of a fork server, on copies of prepared folders."""

    def __init__(self, scratch: Path, broken: str = "") -> None:
        self.scratch, self.broken = scratch, broken
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.torture.acts"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )

    def close(self) -> None:
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait(30)
        assert self._server.stdout is not None
        self._server.stdout.close()

    def prepared(self, act: str) -> Path:
        template = self.scratch / f"template-{act}"
        if not template.exists():
            ACTS[act].prepare(template)
        return template

    def plan(self, act: str) -> list[Point]:
        """Every point of an act that touches its folder or tells a promise."""
        with self.folder(act) as folder:
            log = self.scratch / "plan.log"
            said, _ = self.play(act, folder, inject.KINDS, "", log)
            if wrong := [s for s in said if s.startswith("raised")]:
                raise RuntimeError(f"{act}: {wrong}")
            return [Point(act, kind, k) for kind, k in sorted(inject.points(log, self.scratch))]

    def play(
        self, act: str, folder: Path, trace: Sequence[str], injection: str, log: Path = Path(os.devnull),
    ) -> tuple[list[str], bool]:  # fmt: skip
        """Play an act in a process of its own, traced; what it promised, and whether it was killed."""
        said = self.scratch / "said"
        said.unlink(missing_ok=True)
        self._tell({"act": act, "folder": str(folder), "said": str(said), "broken": self.broken})
        pid = int(self._hear())
        with inject.attached(pid, log, trace=trace, inject=injection):
            self._tell("go")
            status = int(self._hear())
        return said.read_text().splitlines(), os.WIFSIGNALED(status)

    def kill(self, point: Point, told: Told) -> None:
        act = ACTS[point.act]
        with self.folder(point.act) as folder:
            said, killed = self.play(point.act, folder, [point.kind], f"{point.kind}:signal=KILL:when={point.k}")
            told.points[point.act] += 1
            told.killed += killed
            told.promises += len(said)
            self.judge(act, folder, said, told, str(point))
            try:
                act.play(folder, said.append, "")
                told.faults += [f"{point}: in the end: {f}" for f in act.check(folder, said, True)]
            except Exception as e:  # noqa: BLE001 whatever a second try raises is a finding
                told.faults.append(f"{point}: played again: {type(e).__name__}: {e}")

    def judge(self, act: Act, folder: Path, said: Sequence[str], told: Told, where: str) -> None:
        """Start as after any crash and look."""
        faults = [s for s in said if s.startswith("raised")]
        began = time.monotonic()
        try:
            faults += act.check(folder, said, False)
        except Exception as e:  # noqa: BLE001 whatever a start raises is a finding
            faults.append(f"{type(e).__name__}: {e}")
        told.ready_s = max(told.ready_s, time.monotonic() - began)
        told.faults += [f"{where}: {f}" for f in faults]

    def kill_in(self, act: str, folder: Path, wait_s: float) -> list[str]:
        """Kill an act `wait_s` seconds after its first promise; what it had promised."""
        pid = self.begin(act, folder)
        time.sleep(wait_s)
        os.kill(pid, signal.SIGKILL)
        self.ended()
        return (self.scratch / "said").read_text().splitlines()

    def begin(self, act: str, folder: Path) -> int:
        """Let an act run by itself; its pid, once it made its first promise."""
        said = self.scratch / "said"
        said.unlink(missing_ok=True)
        self._tell({"act": act, "folder": str(folder), "said": str(said), "broken": self.broken})
        pid = int(self._hear())
        self._tell("go")
        while not (said.exists() and said.stat().st_size):
            time.sleep(0.001)
        return pid

    def ended(self) -> int:
        """Wait for the end of the act that runs; its status, as os.waitpid gives it."""
        return int(self._hear())

    @contextmanager
    def folder(self, act: str) -> Iterator[Path]:
        folder = self.scratch / "site"
        shutil.copytree(self.prepared(act), folder)
        try:
            yield folder
        finally:
            shutil.rmtree(folder)

    def _tell(self, what: object) -> None:
        assert self._server.stdin is not None
        self._server.stdin.write((what if isinstance(what, str) else json.dumps(what)).encode() + b"\n")

    def _hear(self) -> str:
        assert self._server.stdout is not None
        line = self._server.stdout.readline()
        if not line:
            raise RuntimeError("the fork server is gone")
        return line.decode()


@contextmanager
def stage(broken: str = "") -> Iterator[Stage]:
    """A stage in memory where there is room for it: kills need no disk."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() and os.access(memory, os.W_OK) else None) as scratch:
        made = Stage(Path(scratch), broken)
        try:
            yield made
        finally:
            made.close()


def draw(points: Sequence[Point], wanted: int, seed: int) -> list[Point]:
    """`wanted` points, in turn from each pair of act and kind, by chance within it; all if `wanted` is not less."""
    rng = random.Random(seed)
    of: dict[tuple[str, str], list[Point]] = {}
    for point in points:
        of.setdefault((point.act, point.kind), []).append(point)
    for group in of.values():
        rng.shuffle(group)
    drawn: list[Point] = []
    while len(drawn) < wanted and any(of.values()):
        drawn += [group.pop() for group in of.values() if group]
    return drawn[:wanted]


def run(points: int, seed: int, *, acts: Sequence[str] = tuple(SMALL), broken: str = "", stop_s: float = 1e9) -> Told:
    """Kill at `points` points, or at all there are; stops early after `stop_s` seconds."""
    told, began = Told(), time.monotonic()
    with stage(broken) as on:
        every = [p for act in acts for p in on.plan(act)]
        for point in draw(every, points, seed):
            if time.monotonic() - began > stop_s:
                break
            on.kill(point, told)
    return told


FRESH = 8  # rounds after which the load starts with an empty store


def under_load(rounds: int, seed: int, *, broken: str = "", stop_s: float = 1e9) -> Told:
    """Kill a box under load `rounds` times at random moments; what was ever promised must hold after each."""
    rng, told, began = random.Random(seed), Told(), time.monotonic()
    act = ACTS["load"]
    with stage(broken) as on:
        for first in range(0, rounds, FRESH):
            said: list[str] = []
            with on.folder("load") as folder:
                for n in range(first, min(rounds, first + FRESH)):
                    if time.monotonic() - began > stop_s:
                        return told
                    before = len(said)
                    said += on.kill_in("load", folder, rng.expovariate(1 / 0.1))
                    on.judge(act, folder, said, told, f"round {n}")
                    told.points["load"] += 1
                    told.killed += 1
                    told.promises += len(said) - before
    return told


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="kill", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--points", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--acts", nargs="*", default=list(SMALL))
    parser.add_argument("--broken", default="")
    parser.add_argument("--rounds", type=int, default=None, help="kills under load; half of --points unless given")
    args = parser.parse_args(argv)
    if reason := inject.unable():
        print(f"kill: not run: {reason}")
        return 0
    told = run(args.points, args.seed, acts=args.acts, broken=args.broken)
    print(f"kill: seed {args.seed}: {told}", flush=True)
    for fault in told.faults[:50]:
        print(f"  {fault}", flush=True)
    load = under_load(args.points // 2 if args.rounds is None else args.rounds, args.seed, broken=args.broken)
    print(f"kill under load: seed {args.seed}: {load}")
    for fault in load.faults[:50]:
        print(f"  {fault}")
    return 1 if told.faults or load.faults else 0


if __name__ == "__main__":
    sys.exit(main())
