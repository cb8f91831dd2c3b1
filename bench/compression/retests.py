"""Candidates re-tested per minute, on two cores against one.

    python -m bench.compression.retests [--data DIR] [--candidates 6] [--pictures 1536] [--rounds 3] [--results DIR]

Untrained MobileNets 0.25 of different seeds at 64 px (the work is the same as for trained ones) are re-tested on `pictures` of
DIR (folders of classes, or IDX files) or, without --data, on drawn ones; one process and two in turn, `rounds` times. The
wall's ratio holds whatever else the machine does meanwhile. So there is a second figure, by CPU time: all that one process
took over what the busier of two took, which is the speed-up on a machine that does nothing else. The answers must be equal.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from bench.compression.record import Record
from edged.clock import SystemClock
from edged.retrain import export, folder, jobs, retest, zoo

PX = 64


def models(into: Path, classes: int, n: int) -> list[str]:
    """n files of a network with different weights; their sha256."""
    import torch

    out = folder.Folder(into, into, ())
    found = []
    for seed in range(n):
        torch.manual_seed(seed)
        found.append(out.put(export.to_onnx(zoo.build("mobilenet-0.25", classes, PX), PX)))
    return found


def pictures(into: Path, data: Path | None, n: int) -> tuple[str, ...]:
    """`n` pictures as files under into/<class>; the classes."""
    if data is None:
        import cv2
        import numpy as np

        dice = np.random.default_rng(1)
        for i in range(n):
            image = cv2.resize(dice.integers(0, 255, (28, 28, 3), np.uint8), (224, 224), interpolation=cv2.INTER_CUBIC)
            jpeg = cv2.imencode(".jpg", image)[1].tobytes()
            _put(into / ("a", "b")[i % 2] / f"{i:05d}.jpg", jpeg)
        return ("a", "b")
    found = folder.Folder(data, into, ()).crops("holdout")
    classes = tuple(sorted({c.label for c in found}))
    for i, crop in enumerate(found[:: max(1, len(found) // n)][:n]):
        _put(into / crop.label / f"{i:05d}.jpg", crop.jpeg())
    return classes


def _put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def once(job: dict[str, Any], workers: int) -> tuple[float, retest.Retested]:
    """Wall seconds, and what came of it."""
    checked = jobs.check("retest", job | {"workers": workers})
    assert isinstance(checked, jobs.RetestJob)
    clock = SystemClock()
    with tempfile.TemporaryDirectory(prefix="retests-") as place:
        begin = clock.monotonic()
        found = retest.run(checked, Path(place), clock=clock, progress=lambda _: None)
        return clock.monotonic() - begin, found


def counted(found: retest.Retested) -> dict[str, Any]:
    """What must not depend on the number of processes."""
    return {s: (r.accuracy.right, r.n, r.confusion) for s, r in found.reports.items()}


def rows(measured: dict[str, Any]) -> list[dict[str, Any]]:
    """For bench/compress.py's table."""
    return [
        {
            "figure": "candidates re-tested per minute, 2 cores against 1", "anchor": "linear", "goal": 1.8,
            "value": measured["speedup_cpu"], "unit": "x", "met": measured["speedup_cpu"] >= 1.8,
            "note": f"by CPU time; by the wall, beside other work, {measured['speedup_wall']}x",
        }
    ]  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    ask = argparse.ArgumentParser(prog="python -m bench.compression.retests", description=__doc__.split("\n")[0])
    ask.add_argument("--data", type=Path)
    ask.add_argument("--candidates", type=int, default=6)
    ask.add_argument("--pictures", type=int, default=1536)
    ask.add_argument("--rounds", type=int, default=3)
    ask.add_argument("--seconds", type=float, default=2.0, help="for measuring a candidate's speed")
    ask.add_argument("--results", type=Path, default=Record("").results)
    args = ask.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="retests-data-") as place:
        shown, out = Path(place) / "pictures", Path(place) / "out"
        classes = pictures(shown, args.data, args.pictures)
        (out / "models").mkdir(parents=True)
        job = {
            "data_dir": str(out), "folder": str(shown), "classes": list(classes), "seconds": args.seconds,
            "candidates": models(out, len(classes), args.candidates), "device": "atom-x5-e3940",
        }  # fmt: skip
        walls: dict[int, list[float]] = {1: [], 2: []}
        lanes: dict[int, list[list[float]]] = {1: [], 2: []}
        told = set()
        for _ in range(args.rounds):
            for workers in (1, 2):
                wall, found = once(job, workers)
                walls[workers].append(round(wall, 2))
                lanes[workers].append(list(found.cpu_seconds))
                told.add(msgspec.json.encode(counted(found)))
                print(f"{workers}: {wall:.1f} s, CPU {found.cpu_seconds}", flush=True)
    if len(told) != 1:
        print("the answers differ between runs", file=sys.stderr)
        return 1
    tested = len(found.reports)
    alone = statistics.median(sum(lane) for lane in lanes[1])
    busier = statistics.median(max(lane) for lane in lanes[2])
    measured = {
        "candidates": tested, "refused": sorted(found.refused.values()),
        "pictures": args.pictures, "rounds": args.rounds, "seconds_of_speed": args.seconds,
        "data": "drawn" if args.data is None else "DATA", "wall_s": walls, "cpu_s_by_process": lanes, "answers_equal": True,
        "per_minute_1": round(60 * tested / statistics.median(walls[1]), 2),
        "per_minute_2": round(60 * tested / statistics.median(walls[2]), 2),
        "speedup_wall": round(statistics.median(walls[1]) / statistics.median(walls[2]), 2),
        "speedup_cpu": round(alone / busier, 2),
    }  # fmt: skip
    header = ["processes", "wall, s", "CPU of the busier, s", "candidates a minute"]
    lines = [
        [str(w), f"{statistics.median(walls[w]):.1f}", f"{statistics.median(max(x) for x in lanes[w]):.1f}",
         f"{measured[f'per_minute_{w}']}"] for w in (1, 2)
    ]  # fmt: skip
    record = Record("retests", args.results)
    title = (
        f"2 against 1: {measured['speedup_wall']}x by the wall, {measured['speedup_cpu']}x by CPU time; answers equal"
    )
    record.table(title, header, lines)
    record.write(measured, {title: (header, lines)}, [0])
    return 0


if __name__ == "__main__":
    sys.exit(main())
