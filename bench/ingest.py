"""What a frame costs from its arrived bytes to its receipt, part by part; writes docs/ingest.svg.

    python -m bench ingest

Three measurements: the whole way of 720p frames with a real scrub child (here), how long a camera waits for the durable
receipt (receipts.py), and what the disk is made to write (writes.py; only as root). The pictures are the project's own
street, 1280x720, with their regions.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from statistics import mean, median
from typing import Any

import cv2

from agent.source import open_source
from bench import machine, receipts, writes
from bench.broker import await_port, cpu_of, embedded
from bench.chart import stacked_bar
from edged.broker import identity
from edged.clock import SystemClock, cpu_seconds, stopwatch
from edged.privacy.pool import ScrubChild
from edged.privacy.scrub import ScrubOptions
from edged.storage import frames as store_frames
from edged.storage.journal import Journal
from edged.storage.store import Store
from edged.wire import messages, topics
from edged.wire.link import Endpoint
from edged.wire.messages import Frame, FrameHeader, Region
from edged.wire.paho import PahoLink

FRAMES = 60
SVG = Path(__file__).parent.parent / "docs" / "ingest.svg"
PARTS = {  # what the child tells of its time, by the names of the chart
    "decode": "decode", "judge": "judge light", "face": "faces", "plate": "plates",
    "fill": "cover, cut, encode", "encode": "cover, cut, encode", "check": "check again",
}  # fmt: skip
ORDER = (
    "decode", "judge light", "faces", "plates", "cover, cut, encode", "check again", "to the child and back", "seal",
    "commit", "receipt",
)  # fmt: skip


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
    """All three; a part that cannot be measured here says why instead."""
    whole = way()
    SVG.write_text(drawing(whole))
    return {
        "way": whole,
        "receipts": receipts.run(),
        "writes": writes.run() if os.geteuid() == 0 else "needs root: sudo python -m bench.writes",
    }


def way() -> dict[str, Any]:
    """One scrub child, one frame at a time: milliseconds per part, frames/s, and frames for a second of one core."""
    arrived = frames(FRAMES)
    clock = SystemClock()
    with tempfile.TemporaryDirectory() as folder:
        keys = Path(folder) / "keys"
        identity.make_ca(keys, "site", clock.now())
        identity.issue(keys, "server", server=True, hosts=["127.0.0.1"], now=clock.now())
        broker, port = embedded(keys, True)
        await_port(port)
        link = PahoLink(Endpoint("127.0.0.1", port, "server", identity.paths(keys, "server")))
        try:
            if not link.wait_connected(20):
                raise SystemExit("no broker")
            with (
                Store.open(Path(folder) / "data", clock=clock, site_key=bytes(32)) as store,
                ScrubChild(ScrubOptions(), deadline_s=30) as child,
            ):
                child.scrub(arrived[0])  # until everything is loaded
                return _way(arrived[1:], store, child, link)
        finally:
            link.close()
            broker.terminate()
            broker.wait()


def _way(arrived: list[Frame], store: Store, child: ScrubChild, link: PahoLink) -> dict[str, Any]:
    spent: dict[str, list[float]] = {name: [] for name in ORDER}
    committing = _timed(Journal, "append")
    cpu, began = cpu_seconds() + cpu_of(child.pid or 0), stopwatch()
    for frame in arrived:
        start = stopwatch()
        scrubbed = child.scrub(frame)
        middle = stopwatch()
        receipt = store_frames.add(store, frame, scrubbed)
        added = stopwatch()
        link.publish(topics.cam("site", "north", "receipt"), messages.encode(receipt))
        end = stopwatch()
        commit = sum(committing)
        committing.clear()
        one = dict.fromkeys(ORDER, 0.0) | {
            "to the child and back": (middle - start) * 1e3 - scrubbed.ms["total"],
            "seal": (added - middle - commit) * 1e3, "commit": commit * 1e3, "receipt": (end - added) * 1e3,
        }  # fmt: skip
        for name, ms in scrubbed.ms.items():
            if name in PARTS:
                one[PARTS[name]] += ms
        for name, ms in one.items():
            spent[name].append(ms)
    seconds, cpu = stopwatch() - began, cpu_seconds() + cpu_of(child.pid or 0) - cpu
    parts = {name: round(median(ms), 3) for name, ms in spent.items()}
    total = sum(parts.values())
    return {
        "frames": len(arrived), "mean_jpeg_bytes": round(mean(len(f.jpeg) for f in arrived)),
        "frames_per_s_one_child": round(len(arrived) / seconds, 2),
        "cpu_ms_per_frame": round(cpu / len(arrived) * 1e3, 1),
        "frames_per_s_per_core": round(len(arrived) / cpu, 2),
        "parts_ms": parts, "parts_share": {name: round(ms / total, 4) for name, ms in parts.items()},
        "load": os.getloadavg()[0],
    }  # fmt: skip


def _timed(owner: Any, name: str) -> list[float]:
    """From now on, how long each call of `owner.name` took."""
    took: list[float] = []
    function: Callable[..., Any] = getattr(owner, name)

    def timed(*args: Any, **more: Any) -> Any:
        start = stopwatch()
        try:
            return function(*args, **more)
        finally:
            took.append(stopwatch() - start)

    setattr(owner, name, timed)
    return took


def drawing(whole: dict[str, Any]) -> str:
    said = machine.describe()
    return stacked_bar(
        f"A 720p frame from arrived bytes to its receipt: {sum(whole['parts_ms'].values()):.0f} ms",
        f"{whole['frames_per_s_per_core']} frames/s per core; medians of {whole['frames']} frames, one scrub child with its "
        f"defaults; {said['cpu']}, {said['date']}",
        list(whole["parts_ms"].items()),
        "ms",
    )
