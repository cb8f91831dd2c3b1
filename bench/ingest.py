"""Frames per second from arrived bytes through scrub (a real child) to the durable receipt, per scrub child.

The pictures are the project's own street, 1280x720, with their regions. Shares of the stages come from what the child
reports and from timing the commit around it, in the same run.
"""

from __future__ import annotations

import tempfile
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import cv2

from agent.source import open_source
from edged.clock import SystemClock, stopwatch
from edged.ingest import take
from edged.privacy.pool import ScrubChild
from edged.privacy.scrub import ScrubOptions
from edged.storage.store import Store
from edged.wire.messages import Frame, FrameHeader, Region

FRAMES = 60


def frames(n: int) -> list[Frame]:
    """`n` frames of the generated street as they would arrive."""
    made = []
    with open_source("scene:north?seed=3&phase=day", fps=0, clock=SystemClock()) as source:
        for i, shot in enumerate(islice((s for s in source if s is not None), n)):
            jpeg = cv2.imencode(".jpg", shot.image, [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()
            regions = tuple(Region(*box) for box in shot.regions or ())
            header = FrameHeader(
                f"bench.{i}", shot.ts, i, "bench", shot.image.shape[1], shot.image.shape[0], "", regions
            )
            made.append(Frame("north", header, jpeg, "frame", SystemClock().now()))
    return made


def run() -> dict[str, Any]:
    """One scrub child, one thread: frames/s and milliseconds per stage (medians)."""
    arrived = frames(FRAMES)
    with (
        tempfile.TemporaryDirectory() as folder,
        Store.open(Path(folder), clock=SystemClock(), site_key=bytes(32)) as store,
        ScrubChild(ScrubOptions(), deadline_s=30) as child,
    ):
        child.ready()
        spent: list[float] = []
        stages: dict[str, list[float]] = {}
        began = stopwatch()
        for frame in arrived:
            start = stopwatch()
            scrubbed = child.scrub(frame)
            middle = stopwatch()
            take(store, _Done(scrubbed), frame)
            stages.setdefault("seal and commit", []).append((stopwatch() - middle) * 1e3)
            for name, ms in scrubbed.ms.items():
                stages.setdefault(name, []).append(ms)
            stages.setdefault("to the child and back", []).append((middle - start) * 1e3 - sum(scrubbed.ms.values()))
            spent.append((stopwatch() - start) * 1e3)
        seconds = stopwatch() - began
    return {
        "frames": len(arrived), "frames_per_s": round(len(arrived) / seconds, 2), "ms_per_frame": round(median(spent), 1),
        "stages_ms": {name: round(median(ms), 2) for name, ms in stages.items()},
        "mean_jpeg_bytes": round(sum(len(f.jpeg) for f in arrived) / len(arrived)),
    }  # fmt: skip


class _Done:
    """Hands over what was scrubbed already."""

    def __init__(self, scrubbed: Any) -> None:
        self._scrubbed = scrubbed

    def scrub(self, frame: Frame) -> Any:
        return self._scrubbed

    def close(self) -> None:
        pass
