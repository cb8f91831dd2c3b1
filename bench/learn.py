"""Whether it learns, shown: `python -m bench.learn --data DIR [--only PART] [--seeds 3] [--small]`.

    loop        the whole loop on real processes: CNRPark camera A, then B, then PKLot as a new camera
    labels      accuracy against the number of labels: the queue, chance, the first of the day
    recover     accuracy against CPU seconds of each way to recover (bench/learning/recover.py)
    forget      five drifts in a row: what is left of every earlier world
    alarms      drift alarms: delay and false alarms (bench/drift.py)
    denverton   a short form of the loop's stages with every process under an emulated Atom (.ci/denverton)

DIR holds any of cnrpark/, pklot-720p/ and general sets, SET/DOMAIN/CLASS/*.jpg|png: each general set is put to `loop`, `labels`,
`recover` and `forget` in the same way, its domains in sorted order or in that of --order. Nothing is fitted to any of them.
--small plays every part on shapes that are drawn here, to try the harness itself; DIR is not needed then.

Every part prints its tables, writes bench/results/<date>-learn-<part>.json and plots to docs/learning/.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.learning import forget, labels, loop, recovery, worlds
from bench.learning.record import ROOT, Record
from bench.learning.worlds import World
from edged.errors import EdgedError

PARTS = ("loop", "labels", "recover", "forget", "alarms", "denverton")
FIRST_SHARE, NEXT_SHARE = 1 / 3, 0.1  # of a world's pictures that get labels: the first world's, every later one's


@dataclass(frozen=True)
class Asked:
    """The command line."""

    data: Path | None
    order: tuple[str, ...]
    seeds: tuple[int, ...]
    small: bool
    record: Record
    sets: tuple[str, ...]
    every: int
    architecture: str


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.learn", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, metavar="DIR")
    parser.add_argument("--only", action="append", choices=PARTS, help="this part; again for another one")
    parser.add_argument("--set", action="append", default=[], metavar="NAME", help="only this set of DIR")
    parser.add_argument(
        "--order", default="", metavar="a,b,c", help="domains of general sets, the first is learned first"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--every", type=int, default=1, metavar="N", help="loop: only every n-th picture comes in; all are tested on"
    )
    parser.add_argument(
        "--architecture", default=loop.ARCHITECTURE, metavar="NAME", help="loop: the network that learns"
    )
    parser.add_argument("--small", action="store_true", help="try the harness on drawn shapes")
    parser.add_argument("--results", type=Path, default=Record.results)
    parser.add_argument("--plots", type=Path, default=Record.plots)
    args = parser.parse_args(argv)
    if not args.small and args.data is None and set(args.only or PARTS) - {"denverton"}:
        parser.error("--data DIR is needed, or --small")
    if args.data is not None and not args.data.is_dir():
        parser.error(f"{args.data} is no folder")
    asked = Asked(
        args.data.resolve() if args.data else None, tuple(w for w in args.order.split(",") if w),
        tuple(range(1, args.seeds + 1)), args.small, Record(args.results, args.plots), tuple(args.set),
        max(1, args.every), args.architecture,
    )  # fmt: skip
    failed = 0
    for part in args.only or PARTS:
        print(f"\n== {part}", flush=True)
        try:
            RUN[part](asked)
        except (EdgedError, subprocess.CalledProcessError) as e:
            print(f"{part} did not end: {e}", file=sys.stderr, flush=True)
            failed = 1
    return failed


def _wanted(asked: Asked, name: str) -> bool:
    return not asked.sets or name in asked.sets


def _car_parks(asked: Asked) -> tuple[Path | None, Path | None]:
    """The folders of CNRPark and PKLot, None where there is none."""
    assert asked.data is not None
    cnrpark, lots = asked.data / "cnrpark", asked.data / "pklot-720p"
    there = (cnrpark / "index.csv").is_file() and _wanted(asked, "cnrpark")
    return cnrpark if there else None, lots if lots.is_dir() and _wanted(asked, "pklot-720p") else None


def _general(asked: Asked) -> list[tuple[str, list[World]]]:
    assert asked.data is not None
    return [
        (folder.name, worlds.domains(folder, asked.order))
        for folder in worlds.general(asked.data) if _wanted(asked, folder.name)
    ]  # fmt: skip


def _pairs(asked: Asked) -> list[tuple[str, World, World]]:
    """Old world, new world of each set; the name goes into the file's."""
    if asked.small:
        return [("", worlds.shapes("light", 150, seed=1), worlds.shapes("dark", 150, seed=2, light=False))]
    found = []
    cnrpark, _ = _car_parks(asked)
    if cnrpark:
        found.append(("", worlds.cnrpark(cnrpark, "A"), worlds.cnrpark(cnrpark, "B")))
    return found + [(f"-{name}", them[0], them[1]) for name, them in _general(asked)]


def _loop(asked: Asked) -> None:
    if asked.small:
        light, dark = worlds.shapes("light", 300, seed=1), worlds.shapes("dark", 300, seed=2, light=False)
        loop.run(
            [loop.Chapter(light, 0.9, watch=60), loop.Chapter(dark, 0.6, watch=60)], asked.record, px=32, epochs=10,
            block_s=1, rounds=2, small=True,
        )  # fmt: skip
        return
    cnrpark, lots = _car_parks(asked)
    if cnrpark:
        chapters = [
            loop.Chapter(worlds.cnrpark(cnrpark, "A"), FIRST_SHARE, watch=400, every=asked.every),
            loop.Chapter(worlds.cnrpark(cnrpark, "B"), NEXT_SHARE, watch=800, every=asked.every),
        ]
        if lots:
            chapters.append(loop.Chapter(worlds.pklot(lots, "1"), 1.0, watched=worlds.pklot(lots, "0,2")))
        loop.run(chapters, asked.record, name=_named("loop", asked), goals=True, architecture=asked.architecture)
    for name, them in _general(asked):
        fps = 20.0
        chapters = [
            loop.Chapter(w, FIRST_SHARE if i == 0 else NEXT_SHARE, every=asked.every) for i, w in enumerate(them)
        ]
        # A general set has no times: it is shown as it comes, and forty blocks of that make its day.
        loop.run(
            chapters,
            asked.record,
            name=_named(f"loop-{name}", asked),
            architecture=asked.architecture,
            block_s=max(2.0, len(them[0].items) / asked.every / fps / 40),
            fps=fps,
        )


def _named(part: str, asked: Asked) -> str:
    return part if asked.architecture == loop.ARCHITECTURE else f"{part}-{asked.architecture}"


def _labels(asked: Asked) -> None:
    for name, old, new in _pairs(asked):
        small = {
            "px": 32,
            "architecture": "lenet-5",
            "epochs": 6,
            "shares": (0.2, 0.4),
            "old_share": 0.9,
            "block_s": 300,
        }
        labels.run(
            old, new, asked.record, seeds=asked.seeds, name=f"labels{name}", small=asked.small, **(small if asked.small else {})
        )  # type: ignore[arg-type]  # fmt: skip


def _recover(asked: Asked) -> None:
    if asked.small:
        light, dark = worlds.shapes("light", 240, seed=1), worlds.shapes("dark", 240, seed=2, light=False)
        recovery.run(
            [light], dark, asked.record, seeds=(1,), name="recover", px=32, every=3, old_share=0.8, small=True,
            strategies=("full", "ladder", "shuffled"),
        )  # fmt: skip
        return
    for name, drift in recovery.car_parks(*_car_parks(asked)):
        recovery.run(record=asked.record, seeds=asked.seeds, name=name, **drift)
    for name, them in _general(asked):
        recovery.run(them[:1], them[1], asked.record, seeds=asked.seeds, name=f"recover-{name}")


def _forget(asked: Asked) -> None:
    if asked.small:
        light = worlds.shapes("light", 200, seed=1)
        them = [light, worlds.shapes("dark", 200, seed=2, light=False), light.changed("dusk", worlds.dusk)]
        forget.run(
            them,
            asked.record,
            first_share=0.8,
            next_share=0.5,
            px=32,
            epochs=8,
            block_s=300,
            limits={"min_holdout": 10, "max_loss": 0.2},
            small=True,
        )
        return
    cnrpark, lots = _car_parks(asked)
    if cnrpark:
        forget.run(forget.car_parks(cnrpark, lots), asked.record)
    for name, them in _general(asked):
        forget.run(them, asked.record, name=f"forget-{name}", block_s=len(them[0].items) * worlds.STEP_S / 40)


def _alarms(asked: Asked) -> None:
    if asked.data is None:
        print("alarms are tried on real streams only: --data DIR", flush=True)
        return
    command = [sys.executable, "-m", "bench.drift", "--data", str(asked.data), "--seeds", str(len(asked.seeds))]
    subprocess.run([*command, "--out", str(asked.record.results)], cwd=ROOT, check=True)


def _denverton(asked: Asked) -> None:
    subprocess.run([str(ROOT / ".ci" / "denverton"), sys.executable, "loop"], cwd=ROOT, check=True)


RUN: dict[str, Callable[[Asked], None]] = {
    "loop": _loop, "labels": _labels, "recover": _recover, "forget": _forget, "alarms": _alarms, "denverton": _denverton,
}  # fmt: skip

if __name__ == "__main__":
    sys.exit(main())
