"""Power cuts, simulated: a workload's calls are replayed without what was not synced, and the store must keep its word.

    python -m tests.torture.power --cuts 4000 --seed 0 [--part NAME]...

`record` runs `workload.py` under strace; `cut` replays the calls onto a model disk (`disk.py`, `medium.py`), stops at
points of the trace, writes the tree that a cut at that point may leave, opens it as a start of the daemon does and compares
it with what the workload had been told by then (`told.py`). From some of those trees the workload then goes on, is killed,
goes on, and is cut again: so recoveries are cut, too. A trace gives the same result again; traces of one seed differ, since
threads take turns as they please. Builds that are broken on purpose (`broken.py`) come last. Exit 1 when a promise was
broken, or by none of the cuts of such a build.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edged.clock import stopwatch
from tests.torture import broken, disk, inject, medium, told, trace, workload

HERE = Path(__file__).parents[2]
SITE = "site"
SOON = 600  # points: a recovery, and the first promises after it
Tree = Mapping[str, bytes | None]


@dataclass(frozen=True)
class Run:
    """The calls of one process, and the files as it left them."""

    calls: Path
    left: Tree


@dataclass(frozen=True)
class Recording:
    """Processes that followed each other on one disk; all but the last were killed. `tree`: what they began with, `told`
    what had been told before.
    """

    root: str
    runs: tuple[Run, ...]
    tree: Tree
    told: tuple[str, ...]


@dataclass
class Result:
    """Counts of cuts by kind, and of promises that were compared; what was broken: (where, sentences)."""

    cuts: Counter[str] = field(default_factory=Counter)
    points: int = 0
    promises: int = 0
    broken: list[tuple[str, list[str]]] = field(default_factory=list)

    def add(self, other: Result) -> None:
        self.cuts += other.cuts
        self.points += other.points
        self.promises += other.promises
        self.broken += other.broken


Start = tuple[Tree, tuple[str, ...]]  # a tree, and what had been told


def record(
    folder: Path,
    part: str,
    seed: int,
    *,
    frames: int,
    broken: str = "",
    start: Start = ({}, ()),
    kills: Sequence[str] = (),
) -> Recording:
    """Run one part of the workload under strace in `folder`, killed and run again for each of `kills`."""
    root = folder / "disk"
    write(root, start[0])
    command = [sys.executable, "-m", "tests.torture.workload", str(root / SITE), "--seed", str(seed), "--part", part]
    command += ["--frames", str(frames), "--tell", "9", *(["--broken", broken] if broken else [])]
    runs = []
    for n, kill in enumerate((*kills, "")):
        calls = folder / f"calls-{n}"
        dying = ["--die", kill] if kill else []
        trace.record([*command, *dying], calls, tell=folder / "told", cwd=HERE)
        runs.append(Run(calls, read(root)))
    return Recording(str(root), tuple(runs), *start)


def points(recording: Recording) -> Iterator[tuple[str, str, disk.Disk]]:
    """The model disk at every moment at which a cut differs from one a moment before: (where, when, disk). `when` is "afloat"
    while records are written and not synced, "soon" after a start, else "later".

    Of a process that was killed, none: only what it left, in the moments of the next.
    """
    model = disk.Disk(recording.root, tree=recording.tree)
    model.told += recording.told
    for run in recording.runs:
        n = 0
        for call in trace.read(run.calls):
            try:
                differs = model.take(call)
            except trace.Unmodelled as e:
                raise trace.Unmodelled(f"{run.calls.name}: {call.line}: {call.name}{call.words[:1]}: {e}") from e
            if differs and run is recording.runs[-1]:
                n += 1
                when = "afloat" if model.afloat(".seg") else "soon" if n <= SOON else "later"
                yield f"{run.calls.name}:{call.line} after {call.name}", when, model
        model.died(run.left)


def cut(
    recording: Recording,
    scratch: Path,
    *,
    seed: int,
    cuts: int,
    recovers: bool = True,
    shows: str = "",
    enough: int = 20,
    again: list[Start] | None = None,
) -> Result:
    """About `cuts` cuts, spread by `seed` over kinds and points, and as many of them over each `when`; stops after `enough`
    that broke a promise (one whose sentence has the words `shows`).

    `again` gets some of the trees, each with what had been told.
    """
    rng = random.Random(seed)
    count = Counter(when for _, when, _ in points(recording))
    result = Result(points=count.total())
    chance = {when: cuts / (n * len(count) * len(medium.CUTS)) for when, n in count.items()}
    for where, when, model in points(recording):
        for kind in medium.CUTS:
            if rng.random() >= chance[when]:
                continue
            tree, said = model.tree(kind, rng), tuple(model.told)
            write(scratch, tree)
            result.cuts[kind.name] += 1
            result.promises += len(said)
            sentences = [s for s in told.verify(scratch / SITE, said, recovers=recovers) if shows in s]
            if sentences:
                result.broken.append((f"{where}, {kind.name}", sentences))
            if again is not None and rng.random() < 5 / cuts:
                again.append((tree, said))
        if len(result.broken) >= enough:
            break
    return result


def read(folder: Path) -> Tree:
    """What is under `folder`, but for SQLite's shared memory."""
    return {
        str(path.relative_to(folder)): None if path.is_dir() else path.read_bytes()
        for path in folder.rglob("*")
        if not path.name.endswith("-shm")
    }


def write(folder: Path, tree: Tree) -> None:
    """Make `folder` hold exactly the tree."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700, parents=True)
    for path, content in sorted(tree.items()):
        if content is None:
            (folder / path).mkdir(mode=0o700)
        else:
            (folder / path).write_bytes(content)
            (folder / path).chmod(0o600)


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder in memory where there is one: what is written there need not survive."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="edged-cut-", dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder)


def campaign(part: str, *, seed: int, cuts: int, frames: int = 12, rounds: int = 1, enough: int = 20) -> Result:
    """Cut one part of the workload `cuts` times or so.

    In later rounds it goes on from trees that cuts of the round before left, and its process is killed once or twice before
    the power is cut: what a killed process wrote is seen by the next, and yet not durable.
    """
    result = Result()
    rng = random.Random(seed)
    with scratch() as folder:
        starts: list[Start] = [({}, ())]
        for round_ in range(rounds):
            left: list[Start] = []
            for start in starts:
                if len(result.broken) >= enough:
                    return result
                kills = [f"{rng.choice(KILLS)}:{rng.randint(1, 12)}" for _ in range(min(2, round_))]
                recording = record(folder, part, seed + round_, frames=frames, start=start, kills=kills)
                share = max(1, cuts // rounds // len(starts))
                result.add(
                    cut(recording, folder / "cut", seed=seed + round_, cuts=share, enough=enough, again=left)
                )  # fmt: skip
            starts = rng.sample(left, min(3, len(left))) or starts
    return result


def control(name: str, *, seed: int, cuts: int = 400, enough: int = 20) -> Result:
    """Cut a build that is broken on purpose until `enough` cuts broke a promise."""
    build = broken.BUILDS[name]
    with scratch() as folder:
        kills = [build.kill] if build.kill else []
        recording = record(folder, build.part, seed, frames=8, broken=name, kills=kills)
        return cut(
            recording, folder / "cut", seed=seed, cuts=cuts, enough=enough, recovers=build.recovers, shows=build.shows
        )


KILLS = ("fdatasync", "fdatasync", "fsync", "pwritev", "link", "rename", "unlink")  # functions of `os`


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="power", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cuts", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--frames", type=int, default=12, help="of each ingest of the workload")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--part", action="append", choices=workload.PARTS)
    args = parser.parse_args(argv)
    if reason := inject.unable():
        print(f"power: not run: {reason}")
        return 0
    logging.getLogger("edged").addHandler(logging.NullHandler())  # a store that mends itself says so
    bad = False
    parts = args.part or list(workload.PARTS)
    for part in parts:
        cuts = args.cuts // len(parts)
        start = stopwatch()
        found = campaign(part, seed=args.seed, cuts=cuts, frames=args.frames, rounds=args.rounds)
        _say(f"{part}: seed {args.seed}", found, stopwatch() - start, most=20)
        bad |= bool(found.broken)
    for name in broken.BUILDS:
        start = stopwatch()
        found = control(name, seed=args.seed)
        _say(f"control {name}: seed {args.seed}", found, stopwatch() - start, most=1)
        bad |= not found.broken
    return int(bad)


def _say(title: str, found: Result, seconds: float, *, most: int) -> None:
    kinds = ", ".join(f"{kind} {n}" for kind, n in sorted(found.cuts.items()))
    print(
        f"{title}, {found.cuts.total()} cuts ({kinds}) at {found.points} points, {found.promises} promises looked at:"
        f" {len(found.broken)} cuts broke one; {seconds:.0f} s",
        flush=True,
    )
    for where, sentences in found.broken[:most]:
        print(f"  {where}: {'; '.join(sentences[:3])}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
