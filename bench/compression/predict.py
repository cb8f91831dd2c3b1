"""The latency model against Intel's published figures for the Atom x5-E3940.

Intel's table (OpenVINO 2022.3, throughput in frames/s, CPU only, four cores):
https://github.com/openvinotoolkit/openvino/blob/01c95f3e775182481ac60b35c5983d9015f20e57/docs/_static/benchmarks_files/benchmark-data.csv

For each network: its layers' costs through a fit of the probe's times on one core of this machine under the Atom's instruction
set, times one factor for the chip. The factor is the geometric mean of published over predicted of the *other* networks (the
one that is judged is left out), one per precision. Beside it: the network really run here; a plain count of multiply-adds,
all kinds of layers alike; and, as the negative control that must be worse, a model that counts bytes only.

    python -m bench.compression.predict [--seconds 60] [--only NET,...]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from bench.compression import known_nets
from bench.learning.record import Record
from edged import engine
from edged.clock import SystemClock, cpu_seconds
from edged.engine import probe
from edged.engine.cost import Cost
from edged.engine.probe import Probed
from edged.retrain import device, latency

ROOT = Path(__file__).parents[2]
SOURCE = (
    "https://github.com/openvinotoolkit/openvino, docs/_static/benchmarks_files/benchmark-data.csv at 01c95f3 (2022.3)"
)
# Frames/s of the x5-E3940, (int8, float32).
PUBLISHED = {
    "mobilenet-v2": (81.57, 45.01), "resnet-18": (22.96, 9.56), "resnet-50": (11.09, 4.52), "densenet-121": (13.34, 5.88),
    "inception-v4": (3.12, 1.34), "mobilenet-ssd": (28.03, 12.69), "yolo-v3-tiny": (12.41, 6.12),
}  # fmt: skip
GOAL, LEAST = 0.20, 5
PRECISIONS = ("int8", "float32")


def left_out(predicted: Mapping[str, float], published: Mapping[str, float]) -> dict[str, tuple[float, float]]:
    """For each network: (frames/s, relative error), with a factor found on the others only."""
    found = {}
    for name in predicted:
        others = [math.log(published[n] / predicted[n]) for n in predicted if n != name]
        there = predicted[name] * math.exp(float(np.mean(others)))
        found[name] = (there, there / published[name] - 1)
    return found


def measure(name: str, precision: str, seconds: float) -> float:
    """Frames/s of one network on one core here, by CPU time."""
    data, _ = known_nets.make(name, "int8" if precision == "int8" else "float32")
    px = known_nets.NETS[name][0]
    loaded = engine.load(data, runtime="openvino", threads=1)
    picture = np.random.default_rng(1).standard_normal((1, 3, px, px), np.float32)
    loaded.run(picture)
    ms: list[float] = []
    while len(ms) < 5 or (sum(ms) < 1000 * seconds and len(ms) < 100):
        before = cpu_seconds()
        loaded.run(picture)
        ms.append(1000 * (cpu_seconds() - before))
    return 1000 / float(np.median(ms))


def child(*arguments: str) -> str:
    """One run of this module under the Atom's caps; "" when it crashed."""
    caps = device.find("atom-x5-e3940").environment()
    done = subprocess.run(
        [sys.executable, "-m", "bench.compression.predict", "--child", *arguments], cwd=ROOT, text=True,
        env={**os.environ, **caps, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, check=False,
    )  # fmt: skip
    return done.stdout if done.returncode == 0 else ""


def plain(probed: Probed, asked: Mapping[str, tuple[Cost, ...]], precision: str, what: str) -> float:
    """Milliseconds per multiply-add ("macs") or byte ("bytes"), all kinds of layers alike: the median over the probes."""
    each = []
    for timed in probed.probes:
        amount = sum(getattr(c, what) for c in asked[timed.name] if c.precision == precision)
        if amount and not timed.name.startswith("prepare"):
            each.append(timed.ms / amount)
    return float(np.median(each))


def figures(seconds: float, only: Sequence[str]) -> dict[str, Any]:
    """The whole row as a JSON document."""
    told = child("probe", str(seconds))
    probed = msgspec.json.decode(told, type=Probed)
    asked = probe.costs()
    fitted = latency.fit(replace_scaling(probed), "this box as x5-E3940", asked=asked)
    document: dict[str, Any] = {
        "source": SOURCE, "chip": "Intel Atom x5-E3940, 4 cores", "runtime": f"{probed.runtime} {probed.version}",
        "caps": probed.caps, "probe_error": fitted.error, "goal": GOAL, "networks": {}, "factor": {},
    }  # fmt: skip
    for column, precision in enumerate(PRECISIONS):
        names = [n for n in only or PUBLISHED if n in PUBLISHED]
        published = {n: PUBLISHED[n][column] for n in names}
        costs = {n: known_nets.make(n, "int8" if precision == "int8" else "float32")[1] for n in names}
        here = {n: latency.predict(fitted, costs[n]).likely for n in names}
        simple = {
            what: {
                n: 1000 / (plain(probed, asked, precision, what) * sum(getattr(c, what) for c in costs[n]))
                for n in names
            }
            for what in ("macs", "bytes")
        }
        ran = {n: float(t) for n in names if (t := child("net", n, precision, "3"))}
        judged = {
            "model": left_out(here, published), "run": left_out(ran, published) if len(ran) > 1 else {},
            "macs": left_out(simple["macs"], published), "control": left_out(simple["bytes"], published),
        }  # fmt: skip
        document["factor"][precision] = {
            "model": _mean([published[n] / here[n] for n in names]),
            "run": _mean([published[n] / ran[n] for n in ran]) if ran else None,
        }
        for n in names:
            document["networks"][f"{n} {precision}"] = {
                "published_fps": published[n], "predicted_here_fps": round(here[n], 3),
                "ran_here_fps": round(ran[n], 3) if n in ran else "crashed under the cap",
                **{f"{how}_fps": round(v[n][0], 3) for how, v in judged.items() if n in v},
                **{f"{how}_error": round(v[n][1], 4) for how, v in judged.items() if n in v},
            }  # fmt: skip
    return document | _summary(document["networks"])


def replace_scaling(probed: Probed) -> Probed:
    """One core: the factor holds the chip's four."""
    return msgspec.structs.replace(probed, scaling=1.0)


def _mean(values: Sequence[float]) -> float:
    return round(math.exp(float(np.mean(np.log(values)))), 4)


def _summary(networks: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    found = {}
    for how in ("model", "run", "macs", "control"):
        for precision in PRECISIONS:
            errors = [
                abs(v[f"{how}_error"]) for k, v in networks.items() if k.endswith(precision) and f"{how}_error" in v
            ]
            found[f"{how} {precision}"] = {
                "networks": len(errors), "within_goal": sum(e <= GOAL for e in errors),
                "median_error": round(float(np.median(errors)), 4) if errors else None,
                "largest_error": round(max(errors), 4) if errors else None,
            }  # fmt: skip
    worse = all(found[f"control {p}"]["median_error"] > found[f"model {p}"]["median_error"] for p in PRECISIONS)
    return {"summary": found, "negative_control_is_worse": worse}


def rows(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What `bench/compress.py` prints: one row per precision."""
    found = []
    for precision in PRECISIONS:
        s = document["summary"][f"model {precision}"]
        found.append({
            "row": f"predictor against Intel's published figures, x5-E3940, {precision}",
            "goal": f"within {GOAL:.0%} for {LEAST} networks",
            "value": f"{s['within_goal']} of {s['networks']} within {GOAL:.0%}, median {s['median_error']:.0%},"
            f" largest {s['largest_error']:.0%}",
            "passed": s["within_goal"] >= LEAST,
        })  # fmt: skip
    return found


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="for the probe, compiling not counted")
    parser.add_argument("--only", default="", help="networks, with commas between")
    parser.add_argument("--results", type=Path, default=Record().results)
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.child:
        if args.child[0] == "probe":
            probed = probe.run("openvino", threads=1, seconds=float(args.child[1]), clock=SystemClock())
            print(msgspec.json.encode(probed).decode())
        else:
            print(measure(args.child[1], args.child[2], float(args.child[3])))
        return 0
    document = figures(args.seconds, [n for n in args.only.split(",") if n])
    write(document, args.results)
    record = replace(Record(), results=args.results)
    table = [
        [name, f"{v['published_fps']:g}", f"{v['model_fps']:.2f}", f"{v['model_error']:+.0%}",
         f"{v['run_error']:+.0%}" if "run_error" in v else "-", f"{v['macs_error']:+.0%}", f"{v['control_error']:+.0%}"]
        for name, v in document["networks"].items()
    ]  # fmt: skip
    record.table(
        "Frames/s of the x5-E3940",
        ("network", "published", "predicted", "error", "run here x factor", "multiply-adds only", "control: bytes"),
        table,
    )
    for row in rows(document):
        print(json.dumps(row))
    return 0 if document["negative_control_is_worse"] else 1


def write(document: Mapping[str, Any], results: Path) -> Path:
    """<date>-compress-predict.json with machine, command and commit."""
    from bench import machine
    from bench.learning.record import _commit, _told

    facts = machine.describe()
    results.mkdir(parents=True, exist_ok=True)
    path = results / f"{facts['date']}-compress-predict.json"
    whole = {
        "bench": "compress predict", "machine": facts,
        "command": " ".join(["python -m bench.compression.predict", *_told(sys.argv[1:])]), "commit": _commit(),
        "load": round(os.getloadavg()[0], 2), "seeds": [1], "measured": document,
    }  # fmt: skip
    path.write_text(json.dumps(whole, indent=1) + "\n")
    print(f"written: {path}")
    return path


if __name__ == "__main__":
    sys.exit(main())
