"""The row "int8 MobileNet accuracy loss after retraining": float, int8 after training (`int8`), int8 with retraining
(`qat`), each as delivered bytes under the engine on the hold-out.

    python -m bench.compression.int8 --data DIR [--data DIR] [--nets mobilenet-0.25@64,mobilenet-0.5@96] [--seeds 1]

A row is one network and one seed of training. The loss counts paired pictures: `lost` were right in float and are wrong in
int8, `won` the other way round; the bound is that of the loss, by Newcombe's interval for paired shares without correlation
(the sum of a Wilson interval for lost and for won), so it errs to the pessimistic side. CPU milliseconds are those of one
frame with four regions, preprocessing included, one core here.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.compression import parts as sets
from bench.compression.record import RESULTS, Record
from bench.compression.teaching import Taught, recipe, teach
from edged import engine
from edged.chain import Step
from edged.clock import SystemClock, cpu_seconds
from edged.interval import wilson
from edged.retrain import compress, measure, methods
from edged.retrain.pictures import Pictures

GOAL = 0.005  # accuracy that int8 may lose after retraining
SECONDS = 1.0  # for which a file is timed


def rows(
    data: Sequence[Path], nets: Sequence[str], seeds: Sequence[int], epochs: int, effort: float = 1.0,
    keep: Path | None = None,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """One row for each network (NAME@PX) and seed: {"net", "px", "seed", "held", "float", "int8", "qat", ...}."""
    for net in nets:
        name, _, side = net.partition("@")
        px = int(side)
        parts = sets.load(data, px)
        print(f"{px} px: {parts}", flush=True)
        for seed in seeds:
            taught = teach(parts, name, px, seed=seed, keep=keep, **recipe(name, px, epochs))
            yield {"net": name, "px": px, "seed": seed, "held": len(parts.held), **compare(taught, parts, seed, effort)}


def compare(taught: Taught, parts: sets.Parts, seed: int, effort: float = 1.0) -> dict[str, Any]:
    """Float and its two int8 files."""
    truth = parts.held.labels
    found: dict[str, Any] = {"train_seconds": taught.seconds}
    base = measure.answers(taught.onnx, parts.held) == truth
    found["float"] = told(taught.onnx, parts.held, base, base)
    cameras = np.array(parts.held.cameras)
    found["cameras"] = {str(c): [int(base[cameras == c].sum()), int((cameras == c).sum())] for c in np.unique(cameras)}
    for step in ("int8", "qat"):
        began = cpu_seconds()
        data, facts = made(taught, parts, seed, effort, step)
        right = measure.answers(data, parts.held) == truth
        found[step] = told(data, parts.held, right, base) | {
            "seconds": round(cpu_seconds() - began, 1), "note": facts.note, "tune_before": round(facts.accuracy_before, 4),
            "tune_after": round(facts.accuracy_after, 4),
        }  # fmt: skip
    return found


def made(taught: Taught, parts: sets.Parts, seed: int, effort: float, step: str) -> tuple[bytes, methods.Facts]:
    """The delivered bytes of one step on a trained network."""
    lesson = methods.Lesson(parts.train, parts.tune, SystemClock(), seed=seed, effort=effort)
    net, _ = compress.network(taught.weights)
    model = methods.Model(taught.px, parts.classes, net)
    if step == "int8":
        model = methods.Model(taught.px, parts.classes, onnx=taught.onnx)
    model, facts = methods.apply(model, Step(step), lesson)
    return model.onnx, facts


def told(data: bytes, held: Pictures, right: np.ndarray, base: np.ndarray) -> dict[str, Any]:
    """What is said of one file."""
    n, lost, won = len(right), int((base & ~right).sum()), int((right & ~base).sum())
    low, high = wilson(int(right.sum()), n)
    times = measure.frame_times(engine.load(data), held.pixels.shape[1], seconds=SECONDS, clock=SystemClock())
    return {
        "bytes": len(data), "right": int(right.sum()), "accuracy": round(float(right.mean()), 5),
        "wilson": [round(low, 5), round(high, 5)], "lost": lost, "won": won, "loss": round((lost - won) / n, 5),
        "loss_upper": round(wilson(lost, n)[1] - wilson(won, n)[0], 5), "cpu_ms": round(float(np.median(times.cpu)), 3),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, action="append", required=True)
    parser.add_argument("--nets", default="mobilenet-0.25@64,mobilenet-0.5@96")
    parser.add_argument(
        "--keep", type=Path, help="a folder for trained weights, which are taken from there another time"
    )
    parser.add_argument("--seeds", default="1")
    parser.add_argument("--epochs", type=int, default=0, help="of the float training, 0 = as `edged train`")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the documents")
    parser.add_argument("--effort", type=float, default=1.0, help="length of retraining, 1 = usual")
    args = parser.parse_args()
    record = Record("int8", args.results)
    found = []
    seeds = [int(s) for s in args.seeds.split(",")]
    for row in rows(args.data, args.nets.split(","), seeds, args.epochs, args.effort, args.keep):
        found.append(row)
        record.table("int8 on the hold-out, delivered bytes", *table(found))
        met = all(row["qat"]["loss"] <= GOAL for row in found)
        measured = {"sets": [p.name for p in args.data], "goal": GOAL, "met": met, "rows": found}
        record.write(measured, {"Delivered bytes on the hold-out": table(found)}, seeds)


def table(found: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    header = [
        "network",
        "px",
        "seed",
        "file",
        "bytes",
        "accuracy (Wilson 95 %)",
        "lost / won of",
        "loss, points",
        "CPU ms",
    ]
    lines = []
    for row in found:
        for kind in ("float", "int8", "qat"):
            f = row[kind]
            low, high = f["wilson"]
            lines.append([
                row["net"], str(row["px"]), str(row["seed"]), kind, str(f["bytes"]),
                f"{f['accuracy']:.2%} ({low:.2%} to {high:.2%})", f"{f['lost']} / {f['won']} of {row['held']}",
                f"{100 * f['loss']:+.2f}", f"{f['cpu_ms']:.2f}",
            ])  # fmt: skip
    return header, lines


if __name__ == "__main__":
    main()
