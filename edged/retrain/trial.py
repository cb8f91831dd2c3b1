"""Stage `trial`: the delivered bytes on the frozen hold-out, under one device's limits. Makes the Report.

Guarantees: speed and memory are measured before any picture or label is loaded and without torch in the process;
answers are those of the delivered bytes through the camera's own preprocessing; the baseline sees the same pictures.
Does not guarantee speed on the device: see `device.Profile.estimate`.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from edged import engine
from edged.clock import SystemClock
from edged.retrain import device, measure, pictures, source
from edged.retrain.jobs import Progress, TrialJob
from edged.retrain.pictures import Pictures
from edged.retrain.report import Number, Pair, Report, Share, share


def run(job: TrialJob, *, progress: Callable[[Progress], None]) -> Report:
    """The whole stage. Raises Refused: no such model or device, another input; Corrupt: a changed file."""
    with source.open_source(job) as store:
        model = store.model(job.sha256)
        baseline = store.model(job.baseline) if job.baseline else None
        px = measure.input_px(model)
        progress(Progress(0.05, text="measuring speed"))
        speed = measure_speed(model, px, job)
        progress(Progress(0.4, text="running the hold-out"))
        held = pictures.load(store.crops("holdout"), job.classes, px)
        found = measure.answers(model, held, runtime=job.runtime)
        before = None
        if baseline is not None:
            progress(Progress(0.7, text="running the baseline"))
            other = measure.input_px(baseline)
            same = held if other == px else pictures.load(store.crops("holdout"), job.classes, other)
            before = in_classes(baseline, measure.answers(baseline, same, runtime=job.runtime), job.classes)
        progress(Progress(0.95, text="known answers for the camera's self-test"))
        return assemble(job, model, held, found, before, speed, measure.known_answer(model, px))


def measure_speed(model: bytes, px: int, job: TrialJob) -> dict[str, object]:
    """The device's share of a Report: latency, frames/s here and there, memory, power."""
    profile = device.find(job.device)
    loaded = engine.load(model, runtime=job.runtime, threads=1)
    times = measure.frame_times(loaded, px, seconds=job.seconds, clock=SystemClock())
    peak = device.peak_rss()
    here = 1000 / float(np.median(times.cpu))
    there = profile.estimate(here, loaded.runtime)
    what = f"{len(times.cpu)} frames of 1280x720 with four regions, {px} px, one core here, {profile.isa}"
    return {
        "runtime": loaded.runtime,
        "latency_ms_p50": Number(round(float(np.median(times.wall)), 3), "measured", what),
        "latency_ms_p95": Number(round(float(np.percentile(times.wall, 95)), 3), "measured", what),
        "stages_ms": {name: round(float(np.median(t)), 4) for name, t in times.stages.items()},
        "fps_here": Number(round(here, 1), "measured", f"by CPU time, so that other work here does not count; {what}"),
        "fps_device": Number(
            round(there.likely, 1), there.how, there.basis, round(there.lower, 1), round(there.upper, 1)
        ),
        "memory_bytes": Number(
            peak, "measured", "peak resident memory while frames ran; holds about 25 MB of the re-test itself"
        ),
        "power_w": None if not profile.power_w else Number(profile.power_w, "estimated", "thermal design power"),
        "covered": profile.covered,
        "not_covered": profile.not_covered,
    }


def in_classes(model: bytes, found: NDArray[np.int64], classes: tuple[str, ...]) -> NDArray[np.int64]:
    """Answers of a model made for other classes as indices into these; -1 (never right) for a class that is gone."""
    own = json.loads(source.metadata(model).get(source.CLASSES, "[]")) or list(classes)
    table = np.array([classes.index(name) if name in classes else -1 for name in own], np.int64)
    return table[found]


def assemble(
    job: TrialJob,
    model: bytes,
    held: Pictures,
    found: NDArray[np.int64],
    before: NDArray[np.int64] | None,
    speed: dict[str, object],
    known_answer: dict[str, object],
) -> Report:
    """Answers and truth -> a Report. `before` = the baseline's answers to the same pictures, in the same order."""
    right = found == held.labels
    was_right = None if before is None else before == held.labels
    cameras = np.array(held.cameras, dtype=object)
    classes = {name: held.labels == i for i, name in enumerate(job.classes)}
    sites = {name: cameras == name for name in sorted(set(held.cameras))}
    everything = np.ones(len(held), bool)
    return Report(
        device=job.device,
        sha256=job.sha256,
        size=len(model),
        classes=job.classes,
        n=len(held),
        skipped=held.skipped,
        accuracy=_share(right, everything),
        per_class={name: _share(right, mask) for name, mask in classes.items()},
        per_camera={name: _share(right, mask) for name, mask in sites.items()},
        confusion=_confusion(held.labels, found, len(job.classes)),
        baseline=job.baseline,
        pair=None if was_right is None else _pair(right, was_right, everything),
        pair_per_class={} if was_right is None else {k: _pair(right, was_right, m) for k, m in classes.items()},
        pair_per_camera={} if was_right is None else {k: _pair(right, was_right, m) for k, m in sites.items()},
        known_answer=known_answer,
        **speed,  # type: ignore[arg-type]
    )


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
    np.add.at(table, (truth, found), 1)
    return tuple(tuple(int(x) for x in row) for row in table)
