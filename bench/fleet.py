"""Many cameras and what reaches them: bad models on real agents, a thousand light cameras over mutual TLS, bytes by way.

    python -m bench.fleet [--only bad,crowd] [--brokers embedded,mosquitto] [--cameras 20] [--cases ...] [--light 1000] [--kb 200]

bad     real agent processes with the delays of the systemd unit; every kind of bad model, failing always and only in
        service. Exit code 1 unless each stays with its canary, the model before answers within 60 s and no camera is
        left without one.
crowd   light cameras in one process: seconds until all have a release, bytes that the box published against those of
        one copy for each step of the rollout, the broker's CPU for each MB delivered; with nobody late or cut off, with a
        fiftieth late, with a twentieth cut off; as the whole file, packed, as a delta, as a delta of the head alone
        (docs/delivery.md; random int8 weights: how large deltas of retrained models are is the bench of compression's)

Writes bench/results/<date>-fleet-<part>-<broker>.json and a plot of each part. Trust ratios and bytes, not seconds, where the
load is not small.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from bench import machine
from bench.fleets import chart, faulty
from bench.fleets.agents import Cameras
from bench.fleets.bad import Trial, Watch
from bench.fleets.place import BROKERS, Place
from bench.fleets.throng import Throng
from edged.clock import stopwatch
from edged.demo.tell import markdown
from edged.storage import deliveries, releases

RESULTS = Path(__file__).parent / "results"
BACK_S = 60.0
LATE, CUT = "late", "cut"


@dataclass(frozen=True)
class Step:
    """One release. `change`: from the model before, "all" weights are new, 40 % have "moved" by a step, only the "head" is
    new; "whole": all are new and there is no shorter way to the file. `trouble`: LATE, a fiftieth of the cameras connects
    only when all others have it; CUT, a twentieth is cut off in the middle; one camera at least.
    """

    name: str
    change: str = "all"
    trouble: frozenset[str] = frozenset()


STEPS = (
    Step("late", trouble=frozenset({LATE})), Step("whole", "whole"), Step("packed"), Step("cut", trouble=frozenset({CUT})),
    Step("delta", "moved"), Step("head", "head"),
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.fleet")
    parser.add_argument("--only", default="bad,crowd")
    parser.add_argument("--brokers", default="embedded,mosquitto")
    parser.add_argument("--cameras", type=int, default=20)
    parser.add_argument("--light", type=int, default=1000)
    parser.add_argument("--kb", type=int, default=200, help="size of the model that the crowd fetches")
    parser.add_argument("--cases", default="", help='of the bad models only these: "sleep-service,memory-service"')
    options = parser.parse_args()
    cases = tuple((k, p) for k in faulty.KINDS for p in faulty.PLACES if f"{k}-{p}" in options.cases.split(","))
    well = True
    for part in options.only.split(","):
        for broker in options.brokers.split(","):
            if part == "bad":
                measured = bad(broker, options.cameras, cases)
                well &= measured["contained"] == measured["of"] and measured["slowest_back_s"] <= BACK_S
            else:
                measured = crowd(broker, options.light, options.kb)
                well &= all(r["complete"] == r["cameras"] for r in measured["releases"])
            write(f"{part}-{broker}" + ("-some" if part == "bad" and cases else ""), measured)
        if part != "bad" or not cases:
            plot(part)
    return 0 if well else 1


def bad(broker: str, n: int, cases: tuple[tuple[str, str], ...] = ()) -> dict[str, Any]:
    """Every kind and place on a fleet of `n` real agents; then a good release for all."""
    watch, told = Watch(), []
    names = [f"cam-{i:02}" for i in range(n)]
    load = os.getloadavg()[0]
    with (
        tempfile.TemporaryDirectory() as folder,
        Place(Path(folder), names, broker, seen=watch) as place,
        Cameras(place, fps=2.0) as cameras,
    ):
        trial = Trial(place, cameras, watch)
        first = trial.good(faulty.good(0), 600)
        for i, (kind, where) in enumerate(cases or [(k, w) for k in faulty.KINDS for w in faulty.PLACES]):
            told.append(trial.bad(faulty.bad(kind, where, i + 1), 240))
            print(json.dumps(told[-1].document()), flush=True)
        last = trial.good(faulty.good(99), 600)
    rows = [
        [t.name, "canary" if len(t.offered) == 1 else f"{len(t.offered)}", _s(t.to_switch), _s(t.back), _s(t.gap),
         str(len(t.ends)), t.why[:90]]
        for t in told
    ]  # fmt: skip
    header = ("bad model", "told", "switched after s", "old one back s", "longest gap s", "ends", "why it was halted")
    print(markdown(header, rows))
    backs = [t.back for t in told if t.back is not None]
    return {
        "broker": broker, "cameras": n, "load_before": round(load, 1), "load_after": round(os.getloadavg()[0], 1),
        "contained": sum(t.contained for t in told), "of": len(told),
        "slowest_back_s": round(max(backs, default=0.0), 1), "longest_gap_s": round(max(t.gap for t in told), 1),
        "never_back": [t.name for t in told if t.to_switch is not None and t.back is None],
        "good_to_all_s": [round(first, 1), round(last, 1)], "bad_models": [t.document() for t in told],
    }  # fmt: skip


def crowd(broker: str, n: int, kb: int, steps: Sequence[Step] = STEPS) -> dict[str, Any]:
    """One release after another for `n` light cameras, of a file of about `kb` kilobytes."""
    names = [f"c-{i:04}" for i in range(n)]
    late = names[n - max(1, n // 50) :] if any(LATE in step.trouble for step in steps) else []
    load, told = os.getloadavg()[0], []
    with (
        tempfile.TemporaryDirectory() as folder,
        # the box sends no chunk twice within 3 s: cameras that ask sooner after the canary would ask again
        Place(Path(folder), names, broker, rollout={"wait_s": 2.5, "timeout_s": 300, "steps": [1.0]}) as place,
        Throng(place) as throng,
    ):
        began = stopwatch()
        online = throng.connect(names[: n - len(late)])
        connected = stopwatch() - began
        body, moved = 0, 0
        for i, step in enumerate(steps, 1):
            body, moved = (body, moved + (step.change == "moved")) if step.change in ("moved", "head") else (i, 0)
            told.append(_release(place, throng, padded(i, kb, body, moved), names, step, late))
            late = [] if LATE in step.trouble else late
            print(json.dumps(told[-1]), flush=True)
    return {
        "broker": broker, "light_cameras": n, "online": online, "connect_s": round(connected, 1),
        "load_before": round(load, 1), "load_after": round(os.getloadavg()[0], 1), "releases": told,
    }  # fmt: skip


def padded(seed: int, kb: int, body: int = 0, moved: int = 0) -> faulty.Model:
    """A good model with `kb` kilobytes of int8 weights that change nothing, of `body` and as spread as a quantised net's;
    after as many retrainings (`moved`) of 40 % of them by a step.
    """
    made = faulty.good(seed)
    model = onnx.ModelProto.FromString(made.data)
    weights = np.clip(np.random.default_rng(body or seed).normal(0, 25, (kb, 1000)).round(), -127, 127)
    for i in range(moved):
        dice = np.random.default_rng((body, i))
        weights = np.clip(weights + dice.choice((-1, 0, 1), weights.shape, p=(0.2, 0.6, 0.2)), -127, 127)
    model.graph.initializer.append(numpy_helper.from_array(weights.astype(np.int8), "extra"))
    return faulty.Model(made.name, model.SerializeToString(), made.known_answer)


def _release(
    place: Place, throng: Throng, model: faulty.Model, names: list[str], step: Step, late: list[str]
) -> dict[str, Any]:  # fmt: skip
    cpu, box, before, told = place.broker_cpu(), throng.cpu(), place.counter("bytes:chunks_out"), throng.told()
    n = len(names)
    few = max(1, n // 20)
    if CUT in step.trouble:
        throng.cut(names[1 :: n // few][:few], 1.0, 0.4)  # the first camera is the canary
    began, number = stopwatch(), place.publish(model, ways=step.change != "whole")
    times = throng.complete(number, n - len(late), 560)
    if LATE in step.trouble:
        place.clock.sleep(2.0)
        throng.connect(late)
        times = throng.complete(number, n, 120)
    _heard(place, number, n, 60)
    place.clock.sleep(1.0)  # the box writes its totals twice a second
    after, now = place.counter("bytes:chunks_out"), throng.told()
    kept = now.get("chunk bytes kept", 0) - told.get("chunk bytes kept", 0)
    rows = place.do(lambda: deliveries.of(place.store, number))
    row = place.do(lambda: releases.get(place.store, number))
    each = kept / max(1, len(times))  # bytes of the way that they took
    arrived = [t - began for t in times]
    return {
        "release": number, "step": step.name, "trouble": sorted(step.trouble), "cameras": n, "complete": len(times),
        "load": round(os.getloadavg()[0], 1), "file_bytes": len(model.data),
        "bytes_a_camera": round(each), "ways": {k: v - told.get(k, 0) for k, v in now.items() if k.startswith("by ")},
        "cut_off": now.get("cut off", 0) - told.get("cut off", 0), "late": len(late) if LATE in step.trouble else 0,
        "seconds": {q: round(arrived[int(s * (len(arrived) - 1))], 1) for q, s in (("first", 0), ("median", 0.5), ("last", 1))},
        "published_bytes": after - before, "copies_published": round((after - before) / max(1.0, each), 3),
        "broker_cpu_s": round(place.broker_cpu() - cpu, 2), "crowd_cpu_s": round(throng.cpu() - box, 2),
        "broker_cpu_ms_per_mb": round(1e3 * (place.broker_cpu() - cpu) / (kept / 1e6), 2) if kept > 1e6 else None,
        "box": {s: sum(d.status == s for d in rows) for s in sorted({d.status for d in rows})}, "state": row.state if row else "",
    }  # fmt: skip


def _heard(place: Place, number: int, cameras: int, limit_s: float) -> None:
    """Wait until the box knows of so many that they have it."""
    end = stopwatch() + limit_s
    while stopwatch() < end:
        rows = place.do(lambda: deliveries.of(place.store, number))
        if sum(d.status == "SUCCEEDED" for d in rows) >= cameras:
            return
        place.clock.sleep(0.2)


def write(name: str, measured: dict[str, Any]) -> None:
    facts = machine.describe()
    command = " ".join(["python -m bench.fleet", *sys.argv[1:]])
    document = {"bench": "fleet", "machine": facts, "command": command, "measured": measured}
    (RESULTS / f"{facts['date']}-fleet-{name}.json").write_text(json.dumps(document, indent=1) + "\n")


def plot(part: str) -> None:
    """Of what was measured today, on whichever brokers."""
    date = machine.describe()["date"]
    files = {b: RESULTS / f"{date}-fleet-{part}-{b}.json" for b in BROKERS}
    measured = {b: json.loads(f.read_text())["measured"] for b, f in files.items() if f.exists()}
    if not measured:
        return
    loads = ", ".join(f"{b} {m['load_before']} to {m['load_after']}" for b, m in measured.items())
    if part == "bad":
        note = f"{max(m['cameras'] for m in measured.values())} agents; load on {os.cpu_count()} cores: {loads}"
        svg = chart.draw({b: m["bad_models"] for b, m in measured.items()}, note)
    else:
        note = f"{max(m['light_cameras'] for m in measured.values())} light cameras; load on {os.cpu_count()} cores: {loads}"
        flat = {b: [r | {"last": r["seconds"]["last"]} for r in m["releases"]] for b, m in measured.items()}
        svg = chart.crowd(flat, note)
    (RESULTS / f"{date}-fleet-{part}.svg").write_text(svg)


def _s(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.1f}"


if __name__ == "__main__":
    sys.exit(main())
