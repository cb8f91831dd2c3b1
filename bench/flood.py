"""Receipt times of eight cameras while a ninth sends 1,000 frames a second and never waits, against the same without it.

    python -m bench.flood [seconds] [rounds] [embedded|mosquitto]

Broker, box and cameras as in `bench.fanout`; the flood's frames are 10 KB. The control gives the ninth camera no share of
its own to stay in: no rate, and as much of the room as it takes. Honest frames that are not stored at the end of a stretch
are counted as lost.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from bench import machine
from bench.fanout import CAMERAS, PER_SECOND, SITE, H, Place, W
from edged.admit import Limits
from edged.broker import identity
from edged.clock import SystemClock, iso, stopwatch
from edged.errors import Unavailable
from edged.storage import counters
from edged.wire import topics
from edged.wire.link import Endpoint
from edged.wire.messages import FrameHeader
from edged.wire.paho import PahoLink

FLOOD_PER_S = 1000
FLOOD_BYTES = 10_000
OPEN = Limits(frames_per_s=1e9, burst=1e9, bytes_per_s=1e15, frames=64, camera_frames=64)


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 15.0
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    broker = sys.argv[3] if len(sys.argv) > 3 else "embedded"
    document: dict[str, Any] = {
        "bench": "flood",
        "machine": machine.describe(),
        "measured": run(seconds, rounds, broker),
    }
    text = json.dumps(document, indent=2)
    print(text)
    results = Path(__file__).parent / "results"
    (results / f"{document['machine']['date']}-flood-{broker}.json").write_text(text + "\n")


def run(seconds: float, rounds: int, broker: str) -> dict[str, Any]:
    """p99 (ms), honest frames sent and receipted, frames of the flood that came and that were turned away."""
    told: dict[str, list[dict[str, float]]] = {"calm": [], "flood": [], "no_shares": []}
    for name, limits in (("shares", None), ("no_shares", OPEN)):
        with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_DIR")) as folder:
            place = Place(Path(folder), broker, extra=("flood",), limits=limits, models=1)
            try:
                for _ in range(rounds):
                    if limits is None:
                        told["calm"].append(place.stretch("idle", seconds))
                    told["flood" if limits is None else name].append(flooded(place, Path(folder), seconds))
            finally:
                place.close()
    calm = median(t["p99_ms"] for t in told["calm"])
    return {
        "at": iso(SystemClock().now()), "broker": broker, "seconds": seconds, "rounds": rounds, "cameras": len(CAMERAS),
        "honest_frames_per_s": PER_SECOND * len(CAMERAS), "load_average": os.getloadavg()[0], "stretches": told,
        "flood_p99_to_calm": round(median(t["p99_ms"] for t in told["flood"]) / calm, 2),
        "no_shares_p99_to_calm": round(median(t["p99_ms"] for t in told["no_shares"]) / calm, 2),
    }  # fmt: skip


def flooded(place: Place, folder: Path, seconds: float) -> dict[str, float]:
    before = counters.all(place.store)
    command = [sys.executable, "-m", "bench.flood", "camera", str(place.port), str(folder), str(seconds)]
    with subprocess.Popen(command) as flood:
        found = place.stretch("idle", seconds)
        flood.terminate()
    now = counters.all(place.store)
    came = {k: now.get(k, 0) - before.get(k, 0) for k in ("frames_in", "retry:rate", "retry:room")}
    return found | {k.replace(":", "_"): float(n) for k, n in came.items()}


def flood(port: int, folder: Path, seconds: float) -> None:
    """1,000 frames a second, or what the broker takes; nothing that comes back is heeded."""
    link = PahoLink(Endpoint("127.0.0.1", port, "flood", identity.paths(folder / "site" / "keys", "flood")))
    if not link.wait_connected(30):
        raise SystemExit(link.disconnect_reason)
    began, sent, body = stopwatch(), 0, os.urandom(FLOOD_BYTES)
    while (now := stopwatch()) < began + seconds + 30:  # it is ended from outside
        while sent < (now - began) * FLOOD_PER_S:
            sent += 1
            header = FrameHeader(f"{os.getpid()}-{sent}", 1.0, sent, "f", W, H)
            try:
                link.publish(topics.cam(SITE, "flood", "frame"), body, properties=header.to_properties())
            except Unavailable:
                break
        link.receive(0.005)
    link.close()


if __name__ == "__main__":
    if sys.argv[1:2] == ["camera"]:
        flood(int(sys.argv[2]), Path(sys.argv[3]), float(sys.argv[4]))
    else:
        main()
