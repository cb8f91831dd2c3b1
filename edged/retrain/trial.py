"""Stage `trial`: the delivered bytes on the frozen hold-out, under one device's limits. Makes the Report.

Guarantees: speed and memory are measured before any picture or label is loaded and without torch in the process;
answers are those of the delivered bytes, packed and unpacked again, through the camera's own preprocessing; the baseline
sees the same pictures. Does not guarantee speed on the device: see `device.Profile.estimate`.

`retest.py` spreads the same work over several processes and candidates.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import Struct, json, structs
from numpy.typing import NDArray

from edged import engine
from edged.clock import SystemClock, stopwatch
from edged.retrain import device, latency, measure, power, source, task
from edged.retrain.device import Estimate
from edged.retrain.jobs import Judged, Progress, TrialJob
from edged.retrain.report import Number, Pair, Pinned, Report, Share, share
from edged.retrain.rewrite import kernels
from edged.retrain.task import Bench, Prepared, Seen

IDLE_S = 1.0  # that a sensor of power looks before the load


def run(job: TrialJob, *, progress: Callable[[Progress], None], imposed: tuple[str, ...] = ()) -> Report:
    """The whole stage; `imposed`: limits, in words. Raises Refused: no such model or device, another input, other classes;
    Corrupt: a changed file.
    """
    with source.open_source(job) as store, tempfile.TemporaryDirectory(prefix="edged-trial-") as folder:
        bench = Bench(job, store, Path(folder))
        if job.baseline:
            store.model(job.baseline)  # refused before anything is measured
        model = store.model(job.sha256)
        progress(Progress(0.05, text="measuring speed"))
        speed = measure_speed(model, measure.input_px(model), job) | {"imposed": imposed}
        progress(Progress(0.35, text="packing and unpacking"))
        prepared = bench.prepare(job.sha256)
        progress(Progress(0.4, text="running the hold-out"))
        held = len(store.crops("holdout"))
        found = whole(bench, job.sha256, held)
        pinned = bench.answers(job.sha256, "pinned", 0) if job.pinned else None
        before = pins_before = None
        if job.baseline:
            progress(Progress(0.7, text="running the baseline"))
            before = whole(bench, job.baseline, held)
            pins_before = bench.answers(job.baseline, "pinned", 0) if job.pinned else None
        return assemble(job, job.sha256, prepared, speed, found, before, pinned, pins_before)


def whole(bench: Bench, sha256: str, held: int) -> Seen:
    """Every slice of a hold-out of `held` pictures."""
    return task.merged([bench.answers(sha256, "holdout", n) for n in task.slices(held)])


def measure_speed(model: bytes, px: int, job: Judged) -> dict[str, Any]:
    """The device's share of a Report: cold start, latency, frames/s here and there, memory, power. Raises Refused (code
    reference_kernel), before it is run, for a model that would take seconds a picture with the device's instruction set.
    """
    profile, clock = device.find(job.device), SystemClock()
    begin = stopwatch()
    loaded = engine.load(model, runtime=job.runtime, threads=1)
    if profile.caps:
        kernels.refuse(loaded)  # before it takes minutes
    measure.frame_times(loaded, px, seconds=0, clock=clock, regions=1, least=1, warm=0)
    cold = stopwatch() - begin
    meter = power.meter(profile, clock=clock)
    idle = load = None
    if meter is not None:
        with meter.span() as resting:
            clock.sleep(IDLE_S)
        with meter.span() as working:
            times = measure.frame_times(loaded, px, seconds=job.seconds / 2, clock=clock)
        idle, load = resting.energy, working.energy
    else:
        times = measure.frame_times(loaded, px, seconds=job.seconds / 2, clock=clock)
    fewer = {
        n: measure.frame_times(loaded, px, seconds=job.seconds / 6, clock=clock, regions=n)
        for n in range(1, measure.MOST)
    }
    peak = device.peak_rss()
    here = 1000 / float(np.median(times.cpu))
    there = latency.there(profile, model, here, loaded.runtime, job.latency)
    what = f"{len(times.cpu)} frames of 1280x720 with four regions, {px} px, one core here, {profile.isa}"
    low, high = (float(q) for q in np.percentile(times.cpu, (25, 75)))
    busy = measure.beside(os.getloadavg()[0], os.cpu_count() or 1)
    spread = f"median; half of the frames took {low:.3g} to {high:.3g} ms{busy}"
    return {
        "runtime": loaded.runtime,
        "latency_ms_p50": Number(round(float(np.median(times.wall)), 3), "measured", what),
        "latency_ms_p95": Number(round(float(np.percentile(times.wall, 95)), 3), "measured", what),
        "stages_ms": {name: round(float(np.median(t)), 4) for name, t in times.stages.items()},
        "fps_here": Number(round(here, 1), "measured", f"by CPU time; {what}; {spread}"),
        "fps_device": Number(
            round(there.likely, 1), there.how, there.basis + busy, round(there.lower, 1), round(there.upper, 1)
        ),
        "fps_regions": {str(n): by_regions(t, here, there) for n, t in sorted({**fewer, measure.MOST: times}.items())},
        "cold_start_ms": Number(
            round(1000 * cold, 1),
            "measured",
            "loading the file and one frame with one region, here, in a fresh process",
        ),
        "memory_bytes": Number(
            peak, "measured", "peak resident memory while frames ran; holds about 25 MB of the re-test itself"
        ),
        "power_w": power.number(profile, load, idle),
        "file": profile.file,
        "covered": profile.covered,
        "not_covered": profile.not_covered,
    }


class Speed(Struct, frozen=True):
    """The device's share of a Report, for reading it back."""

    runtime: str
    latency_ms_p50: Number
    latency_ms_p95: Number
    stages_ms: dict[str, float]
    fps_here: Number
    fps_device: Number
    fps_regions: dict[str, Number]
    cold_start_ms: Number
    memory_bytes: Number
    power_w: Number | None
    file: str
    covered: tuple[str, ...]
    not_covered: tuple[str, ...]
    imposed: tuple[str, ...] = ()


def speed_of(result: bytes) -> dict[str, Any]:
    """What `measure_speed` gave, from its JSON."""
    return structs.asdict(json.decode(result, type=Speed))


def by_regions(times: measure.Times, here: float, there: Estimate) -> Number:
    """Frames/s on the device with so many regions: what it does of four, times what fewer cost less here. The ends hold the
    95 % interval of the median here (order statistics; H. A. David, Order Statistics, 7.1) and the device's own doubt.
    """
    if there.how == "unknown":
        return Number(0.0, "unknown", there.basis)
    cpu = np.sort(times.cpu)
    off = 1.96 * np.sqrt(len(cpu)) / 2
    slow = cpu[min(len(cpu) - 1, int(np.ceil(len(cpu) / 2 + off)))]
    fast = cpu[max(0, int(len(cpu) / 2 - off) - 1)]
    likely, low, high = (1000 / float(t) / here for t in (np.median(cpu), slow, fast))
    ends = (round(low * there.lower, 1), round(high * there.upper, 1))
    return Number(round(likely * there.likely, 1), there.how, f"{len(cpu)} frames here; {there.basis}", *ends)


def assemble(
    job: Judged,
    sha256: str,
    prepared: Prepared,
    speed: Mapping[str, Any],
    seen: Seen,
    before: Seen | None = None,
    pinned: Seen | None = None,
    pins_before: Seen | None = None,
    *,
    beside: int = 0,
) -> Report:
    """What the tasks found -> a Report. `before`: the baseline's answers to the same pictures, in the same order."""
    truth, found = np.array(seen.labels, np.int64), np.array(seen.found, np.int64)
    right = found == truth
    was_right = None if before is None else np.array(before.found, np.int64) == truth
    cameras = np.array(seen.cameras, dtype=object)
    classes = {name: truth == i for i, name in enumerate(job.classes)}
    sites = {name: cameras == name for name in sorted(set(seen.cameras)) if name}
    everything = np.ones(len(truth), bool)
    return Report(
        device=job.device,
        sha256=sha256,
        size=prepared.size,
        size_packed=prepared.size_packed,
        classes=job.classes,
        n=len(truth),
        skipped=seen.skipped,
        not_numbers=int((found == task.NOT_A_NUMBER).sum()),
        accuracy=_share(right, everything),
        per_class={name: _share(right, mask) for name, mask in classes.items()},
        per_camera={name: _share(right, mask) for name, mask in sites.items()},
        confusion=_confusion(truth, found, len(job.classes)),
        baseline=job.baseline,
        pair=None if was_right is None else _pair(right, was_right, everything),
        pair_per_class={} if was_right is None else {k: _pair(right, was_right, m) for k, m in classes.items()},
        pair_per_camera={} if was_right is None else {k: _pair(right, was_right, m) for k, m in sites.items()},
        pinned=_pinned(job, pinned, pins_before),
        known_answer=prepared.known_answer,
        kernels=prepared.kernels,
        isa=prepared.isa,
        isa_failed=prepared.isa_failed,
        beside=beside,
        **speed,
    )


def _pinned(job: Judged, seen: Seen | None, before: Seen | None) -> Pinned | None:
    if seen is None:
        return Pinned(0, 0, left_out=job.pins_left_out) if job.pins_left_out else None
    wrong = tuple(i for i, truth, found in zip(seen.ids, seen.labels, seen.found, strict=True) if truth != found)
    had = _right(before)
    gone = tuple(f"pinned {i}: its picture cannot be read" for i in seen.bad)
    return Pinned(
        len(seen.ids), len(seen.ids) - len(wrong), wrong, tuple(i for i in wrong if i in had),
        (*job.pins_left_out, *gone),
    )  # fmt: skip


def _right(seen: Seen | None) -> frozenset[str]:
    if seen is None:
        return frozenset()
    return frozenset(i for i, truth, found in zip(seen.ids, seen.labels, seen.found, strict=True) if truth == found)


def _share(right: NDArray[np.bool_], of: NDArray[np.bool_]) -> Share:
    return share(int((right & of).sum()), int(of.sum()))


def _pair(right: NDArray[np.bool_], was: NDArray[np.bool_], of: NDArray[np.bool_]) -> Pair:
    return Pair(
        n=int(of.sum()),
        right=int((right & of).sum()),
        baseline_right=int((was & of).sum()),
        lost=int((was & ~right & of).sum()),
        won=int((right & ~was & of).sum()),
    )


def _confusion(truth: NDArray[np.int64], found: NDArray[np.int64], n: int) -> tuple[tuple[int, ...], ...]:
    table = np.zeros((n, n), np.int64)
    told = found >= 0  # what is no class of the task stands nowhere
    np.add.at(table, (truth[told], found[told]), 1)
    return tuple(tuple(int(x) for x in row) for row in table)
