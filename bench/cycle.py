"""Seconds of one cycle (snapshot, train, compress, re-test, gate, release) on pictures of the generated street.

The samples go through the real store; labels are the generator's truth. Nothing else runs meanwhile.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import cv2

from agent.source import open_source
from bench.ingest import _Done
from edged import site as sites
from edged.clock import SystemClock
from edged.config import load
from edged.daemon import loop_rules
from edged.improve import Loop
from edged.ingest import take
from edged.privacy.pool import ScrubChild
from edged.privacy.scrub import ScrubOptions
from edged.storage import candidates, cycles, labels, reports
from edged.wire.messages import Frame, FrameHeader, Region

SAMPLES = 480
CLASSES = ("nothing", "person", "person-backpack", "vehicle")


def run() -> dict[str, Any]:
    """The first cycle from scratch; seconds per stage, sizes, hold-out accuracy of each candidate."""
    clock = SystemClock()
    with tempfile.TemporaryDirectory() as folder:
        data_dir = Path(folder) / "site"
        config = load(sites.create(data_dir, sites.NewSite("bench", CLASSES, ("north",), block_s=100), clock))
        with sites.open_store(config, key=True) as store:
            pairs = _fill(store, clock)
            labels.add_many(store, pairs, "human", "bench")
            loop = Loop(store, loop_rules(config), sites.open_repository(config, clock), clock)
            state = loop.run_once("bench")
            cycle = cycles.latest(store)
            assert cycle is not None
            stages = {s.name: round((s.ended or s.started) - s.started, 1) for s in cycles.stages(store, cycle.id)}
            made = {}
            for c in candidates.all(store, cycle.id):
                report = json.loads(reports.of(store, c.id)[0].body)
                made[c.name] = {
                    "bytes": c.size, "holdout": report["n"], "accuracy": round(report["accuracy"]["accuracy"], 4),
                    "fps_device": report["fps_device"], "fps_here": report["fps_here"],
                }  # fmt: skip
    return {
        "labels": len(pairs),
        "state": state,
        "seconds": stages,
        "total_s": round(sum(stages.values()), 1),
        "candidates": made,
    }


def _fill(store: Any, clock: SystemClock) -> list[tuple[str, str]]:
    """Scrubbed, sealed samples with their truth."""
    pairs: list[tuple[str, str]] = []
    with (
        open_source("scene:north?seed=5&phase=day", fps=0, clock=clock) as source,
        ScrubChild(ScrubOptions(faces=False), deadline_s=30) as child,
    ):
        for i, shot in enumerate(s for s in source if s is not None):
            if len(pairs) >= SAMPLES:
                break
            jpeg = cv2.imencode(".jpg", shot.image)[1].tobytes()
            regions = tuple(Region(*box) for box in shot.regions or ())
            header = FrameHeader(f"b.{i}", shot.ts, i, "b", shot.image.shape[1], shot.image.shape[0], "", regions)
            frame = Frame("north", header, jpeg, "frame", clock.now())
            take(store, _Done(child.scrub(frame)), frame)
            pairs += [(f"north:b.{i}:{k}", truth) for k, truth in enumerate(shot.truth or ())]
    return pairs
