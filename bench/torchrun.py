"""`python -m bench.torchrun [--data DIR --model NAME --epochs N --rounds N]`: one process against two, by the same command.

Both in turn, a round after the other, so that what else the machine does meets both. Said for each: test (or tune) error,
pictures a second by the wall, CPU seconds. The speed-up is the median of the rounds' ratios; with as many cores busy as
there are it says little, so the share of the machine that was had stands beside it. Two runs are alike when two proportions
tell no difference (p > 0.01, pooled z test); control: half the right answers must not be alike. Without --data it draws
shapes with a little noise in the labels.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.machine import describe
from edged.clock import stopwatch

SEED = 1


def run(
    data: Path | None = None,
    model: str = "mobilenet-0.25",
    epochs: int = 3,
    rounds: int = 3,
    more: tuple[str, ...] = (),
) -> dict[str, Any]:
    """The figures of `rounds` rounds."""
    with tempfile.TemporaryDirectory(prefix="edged-torchrun-") as folder:
        where = data or shapes(Path(folder, "data"))
        found: dict[int, list[dict[str, Any]]] = {1: [], 2: []}
        for i in range(rounds):
            for n in (1, 2) if i % 2 == 0 else (2, 1):
                found[n].append(once(where, Path(folder, f"out-{n}-{i}"), model, epochs, n, SEED + i, more))
                print(f"round {i + 1}, {n} process(es): {found[n][-1]}", file=sys.stderr, flush=True)
    ratios = [b["pictures_per_s"] / a["pictures_per_s"] for a, b in zip(found[1], found[2], strict=True)]
    right, n = ({k: sum(r[w] for r in found[k]) for k in (1, 2)} for w in ("right", "n"))
    if alike(right[1], n[1], right[1] // 2, n[1]):
        raise SystemExit("control failed: half the right answers pass for the same")
    return {
        "model": model, "epochs": epochs, "rounds": rounds, "seeds": [SEED, SEED + rounds - 1],
        "one": found[1], "two": found[2],
        "error": {k: round(1 - right[k] / n[k], 5) for k in (1, 2)}, "judged": n,
        "alike": alike(right[1], n[1], right[2], n[2]),
        "speed_up": {"median": round(statistics.median(ratios), 3), "rounds": [round(r, 3) for r in ratios]},
        "cpu_ratio": round(sum(r["cpu_s"] for r in found[2]) / sum(r["cpu_s"] for r in found[1]), 3),
        "load": os.getloadavg(), "control": "half the right answers: not alike",
    }  # fmt: skip


def once(
    data: Path, out: Path, model: str, epochs: int, processes: int, seed: int, more: tuple[str, ...]
) -> dict[str, Any]:
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m", "edged",
        "--json", "train", "--data", str(data), "--model", model, "-o", str(out), "--epochs", str(epochs),
        "--seed", str(seed), "--threads", "1", *more,
    ]  # fmt: skip
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), stopwatch()
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    if not done.stdout:  # a model that is no better than guessing ends with 3, and is a result
        raise SystemExit(done.stderr[-3000:])
    after, wall = resource.getrusage(resource.RUSAGE_CHILDREN), stopwatch() - began
    facts = json.loads(done.stdout)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    judged = facts["test"] or facts["tune"]
    drawn = max(facts["train_samples"], facts["settings"]["epoch_least"]) * facts["epochs"]
    return {
        "right": judged["right"], "n": judged["n"], "error": round(judged["error"], 5), "wall_s": round(wall, 1),
        "training_s": facts["seconds"], "pictures_per_s": round(drawn / facts["seconds"], 1), "cpu_s": round(cpu, 1),
        "cores_had": round(cpu / wall, 2),
    }  # fmt: skip


def alike(right_a: int, n_a: int, right_b: int, n_b: int) -> bool:
    """Whether two shares tell no difference: two-sided p > 0.01 of the pooled z test."""
    pooled = (right_a + right_b) / (n_a + n_b)
    error = math.sqrt(pooled * (1 - pooled) * (1 / n_a + 1 / n_b))
    return error == 0 or abs(right_a / n_a - right_b / n_b) / error < 2.575829


def shapes(where: Path, n: int = 800, wrong: float = 0.05) -> Path:
    """Discs and boxes on noise, n of each in the classes and n / 2 in test/; a share has the other one's label."""
    import cv2
    import numpy as np

    dice = np.random.default_rng(SEED)
    for part, count in (("", n), ("test", n // 2)):
        for i in range(2 * count):
            image = dice.integers(0, 80, (64, 64, 3), np.uint8)
            (x, y), size = dice.integers(20, 44, 2).tolist(), int(dice.integers(8, 16))
            colour = dice.integers(140, 250, 3).tolist()
            if i % 2:
                cv2.circle(image, (x, y), size, colour, -1)
            else:
                cv2.rectangle(image, (x - size, y - size), (x + size, y + size), colour, -1)
            name = ("box", "disc")[(i + (dice.random() < wrong)) % 2]
            path = where / part / name / f"{i:05}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), image)
    return where


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--model", default="mobilenet-0.25")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    machine = describe()
    document = {
        "bench": "torchrun", "machine": machine, "data": args.data.name if args.data else "drawn shapes",
        "measured": run(args.data, args.model, args.epochs, args.rounds),
    }  # fmt: skip
    text = json.dumps(document, indent=2)
    print(text)
    (Path(__file__).parent / "results" / f"{machine['date']}-torchrun.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
