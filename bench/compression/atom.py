"""The row "x5-E3940: 4 regions x 30 fps at <= 70 % of the CPU by a candidate with <= 2 points loss".

    python -m bench.compression.atom --data DIR [--data DIR] [--candidates "mobilenet-0.5@96 none;..."] [--epochs 14]

The first candidate is the float baseline. A candidate is NETWORK@PX and a chain (docs/compression.md). Speed: CPU time of
one 720p frame with four regions on one core here in a child under the profile's limits, preprocessing included, with and
without decoding the frame's JPEG, the tenth percentile (caches that other processes empty only ever add: the profile's
factor is of a quiet machine; the median is in the document too), then the profile's estimate; the share of the four
cores is 30 / (frames/s at the estimate's lower bound). All of it is estimated until a board's own calibration says
otherwise.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.compression.record import RESULTS, Record, Table

DEVICE, FPS, MOST, LOSS = "atom-x5-e3940", 30.0, 0.7, 0.02
CANDIDATES = (
    "mobilenet-0.5@96 none; mobilenet-0.5@96 int8; mobilenet-0.5@96 channels=0.5 qat; mobilenet-0.25@64 none; "
    "mobilenet-0.25@64 qat"
)


def rows(
    data: Sequence[Path], candidates: Sequence[tuple[str, int, str]], seed: int, epochs: int, effort: float,
    keep: Path | None = None,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """One row for each candidate (network, px, chain); the first is what the others' loss is counted against."""
    from bench.compression import parts as sets
    from bench.compression.teaching import recipe, teach
    from edged.clock import cpu_seconds
    from edged.interval import wilson
    from edged.retrain import measure

    base: Any = None
    loaded: dict[int, sets.Parts] = {}
    for name, px, steps in candidates:
        parts = loaded.setdefault(px, loaded.get(px) or sets.load(data, px))
        taught = teach(parts, name, px, seed=seed, keep=keep, **recipe(name, px, epochs))
        began = cpu_seconds()
        made, facts = chained(taught.weights, parts, steps, seed, effort)
        seconds = round(cpu_seconds() - began, 1)
        right = measure.answers(made, parts.held) == parts.held.labels
        base = right if base is None else base
        low, high = wilson(int(right.sum()), len(right))
        row = {
            "net": name, "px": px, "chain": steps, "bytes": len(made), "held": len(right), "right": int(right.sum()),
            "accuracy": round(float(right.mean()), 5), "wilson": [round(low, 5), round(high, 5)],
            "lost": int((base & ~right).sum()), "won": int((right & ~base).sum()),
            "loss": round(float(base.mean() - right.mean()), 5), "retrain_seconds": seconds,
            "steps": [{"step": f.step, "multiply_adds": f.multiply_adds, "note": f.note} for f in facts],
        } | speed(made, px)  # fmt: skip
        yield row | {"passed": row["share_with_decode"] <= MOST and row["loss"] <= LOSS}


def chained(weights: bytes, parts: Any, steps: str, seed: int, effort: float) -> tuple[bytes, list[Any]]:
    """The delivered bytes of a chain of steps, and what each did."""
    from edged import chain
    from edged.clock import SystemClock
    from edged.retrain import compress, methods

    net, _ = compress.network(weights)
    px = parts.train.pixels.shape[1]
    model, facts = methods.Model(px, parts.classes, net), []
    lesson = methods.Lesson(parts.train, parts.tune, SystemClock(), seed=seed, effort=effort)
    for step in chain.parse(steps):
        if step.name in chain.OF_FILES:
            model = compress.delivered(model)
        model, fact = methods.apply(model, step, lesson)
        facts.append(fact)
    return compress.delivered(model).onnx, facts


def speed(model: bytes, px: int) -> dict[str, Any]:
    """What the profile's estimate says of a file, measured in a child with the profile's environment."""
    from edged.retrain import device

    profile = device.find(DEVICE)
    with tempfile.TemporaryDirectory(prefix="edged-atom-") as folder:
        path = Path(folder, "model.onnx")
        path.write_bytes(model)
        environment = {k: v for k, v in os.environ.items() if k not in device.CAPS} | profile.environment()
        words = [sys.executable, "-m", "bench.compression.atom", "--speed", str(path), str(px)]
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    here = json.loads(done.stdout.splitlines()[-1])
    bare = profile.estimate(1000 / here["cpu_ms"], here["runtime"])
    whole = profile.estimate(1000 / (here["cpu_ms"] + here["decode_ms"]), here["runtime"])
    return here | {
        "fps": round(bare.likely, 1), "fps_lower": round(bare.lower, 1), "share": round(FPS / bare.lower, 3),
        "share_with_decode": round(FPS / whole.lower, 3), "how": bare.how, "basis": bare.basis,
    }  # fmt: skip


def child(path: Path, px: int) -> None:
    """In the child: CPU milliseconds of a frame with four regions, and of decoding one of 1280x720."""
    import cv2

    from edged import engine
    from edged.clock import SystemClock, cpu_seconds
    from edged.engine import patterns
    from edged.retrain import measure

    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    cv2.setNumThreads(1)
    loaded = engine.load(path, threads=1)
    times = measure.frame_times(loaded, px, seconds=2, clock=SystemClock(), least=5, warm=1)
    frame = np.ascontiguousarray(np.tile(patterns.picture(7, 720), (1, 2, 1))[:, :1280])
    jpeg = cv2.imencode(".jpg", cv2.GaussianBlur(frame, (9, 9), 0), [cv2.IMWRITE_JPEG_QUALITY, 90])[1]
    decodes = []
    for _ in range(30):
        before = cpu_seconds()
        cv2.imdecode(jpeg, cv2.IMREAD_COLOR)
        decodes.append(1000 * (cpu_seconds() - before))
    found = {"cpu_ms": round(float(np.percentile(times.cpu, 10)), 3), "cpu_ms_median": round(float(np.median(times.cpu)), 3),
             "decode_ms": round(float(np.percentile(decodes, 10)), 3)}  # fmt: skip
    print(json.dumps(found | {"runtime": loaded.runtime, "frames": len(times.cpu), "jpeg_bytes": len(jpeg)}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, action="append")
    parser.add_argument("--candidates", default=CANDIDATES, help='"NETWORK@PX CHAIN; ...", the first is the baseline')
    parser.add_argument("--epochs", type=int, default=0, help="of the float training, 0 = as `edged train`")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the documents")
    parser.add_argument("--effort", type=float, default=1.0, help="length of retraining, 1 = usual")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--keep", type=Path, help="a folder for trained weights, which are taken from there another time"
    )
    parser.add_argument("--speed", nargs=2, metavar=("FILE", "PX"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.speed:
        return child(Path(args.speed[0]), int(args.speed[1]))
    if not args.data:
        parser.error("--data is needed")
    record, found = Record("atom", args.results), list[dict[str, Any]]()
    for row in rows(args.data, parsed(args.candidates), args.seed, args.epochs, args.effort, args.keep):
        found.append(row)
        record.table("Candidates", *table(found))
        measured = {
            "device": DEVICE, "sets": [p.name for p in args.data], "goal": {"share": MOST, "loss": LOSS, "fps": FPS},
            "met": any(row["passed"] for row in found[1:]), "candidates": found,
        }  # fmt: skip
        record.write(measured, {"Candidates on the hold-out (speed estimated)": table(found)}, [args.seed])
    return None


def parsed(text: str) -> list[tuple[str, int, str]]:
    found = []
    for word in text.split(";"):
        net, _, steps = word.strip().partition(" ")
        name, _, side = net.partition("@")
        found.append((name, int(side), steps.strip() or "none"))
    return found


def table(found: Sequence[dict[str, Any]]) -> Table:
    header = [
        "network", "chain", "bytes", "accuracy (Wilson 95 %)", "lost / won", "loss, points", "frames/s (at least)",
        "of four cores", "with JPEG", "passes",
    ]  # fmt: skip
    return header, [
        [f"{r['net']} {r['px']} px", r["chain"], str(r["bytes"]),
         f"{r['accuracy']:.2%} ({r['wilson'][0]:.2%} to {r['wilson'][1]:.2%})", f"{r['lost']} / {r['won']} of {r['held']}",
         f"{100 * r['loss']:+.2f}", f"{r['fps']:.0f} ({r['fps_lower']:.0f})", f"{r['share']:.0%}",
         f"{r['share_with_decode']:.0%}", "yes" if r["passed"] else "no"]
        for r in found
    ]  # fmt: skip


if __name__ == "__main__":
    main()
