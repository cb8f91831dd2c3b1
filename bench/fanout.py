"""Receipt times of eight cameras while models are sent out, against the same with nothing sent and with no pace at all.

    python -m bench.fanout [seconds] [rounds] [embedded|mosquitto]

A real broker with TLS, eight camera processes (100 KB frames, five a second each, and every one takes every chunk), the
box's own link, main loop, waiting room and store with its flushes. Scrubbing is left out: it takes a tenth of a second or
more and would hide everything else. Each round has an idle, a paced and an unpaced stretch, so that a busy neighbour
meets all three; the ratio is p99 of a stretch against that of the idle one in the same round, and the median of the
rounds is reported. The unpaced control must break the bound of 2.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from bench import machine
from edged import site
from edged.admit import Limits
from edged.box import Box
from edged.broker import identity
from edged.broker.mosquitto import render_acl, render_conf
from edged.clock import SystemClock, iso, stopwatch
from edged.config import check
from edged.daemon import box_rules
from edged.privacy.picture import Scrubber as InChild
from edged.privacy.scrub import Scrubbed, vouch
from edged.privacy.talk import Request
from edged.publish import deliver, fanout, trust
from edged.storage import models as model_files
from edged.storage.seal import read_key
from edged.storage.store import Store
from edged.wire import messages, topics
from edged.wire.link import Endpoint
from edged.wire.messages import Frame, FrameHeader, FrameReceipt, Want
from edged.wire.paho import PahoLink
from edged.workers import Workers

SITE = "bench"
CAMERAS = tuple(f"cam-{i}" for i in range(8))
PER_SECOND = 5.0
FRAME_BYTES = 100_000
MODEL_BYTES = 6 * 10**6  # the largest that the gate lets through
MODELS = 64
NEVER = 1e6
RESEND_S = 5.0  # without a receipt; an agent waits 30
W, H = 64, 48

Models = Sequence[tuple[str, Sequence[str]]]  # SHA-256 of the file and of its chunks


class Unpaced(fanout.Fanout):
    """The control: whatever was asked for goes at once."""

    def _taken(self) -> None:
        return None


class Ready:
    """Stands in for the scrub child: what it would say, at once."""

    def __init__(self, scrubbed: Scrubbed) -> None:
        self._scrubbed = scrubbed

    def scrub(self, frame: Frame, spots: Any = None, *, blank: bool = False) -> Scrubbed:
        return self._scrubbed

    def close(self) -> None:
        pass


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 20.0
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    broker = sys.argv[3] if len(sys.argv) > 3 else "embedded"
    document: dict[str, Any] = {
        "bench": "fanout",
        "machine": machine.describe(),
        "measured": run(seconds, rounds, broker),
    }
    text = json.dumps(document, indent=2)
    print(text)
    results = Path(__file__).parent / "results"
    (results / f"{document['machine']['date']}-fanout-{broker}.json").write_text(text + "\n")


def run(seconds: float = 20.0, rounds: int = 3, broker: str = "embedded") -> dict[str, Any]:
    """p50, p99 (ms) and the ratios to idle of each stretch, and what was sent out meanwhile."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_DIR")) as folder:
        place = Place(Path(folder), broker)
        try:
            told = [place.round(seconds) for _ in range(rounds)]
        finally:
            place.close()
    stretches: dict[str, Any] = {}
    for name in ("idle", "paced", "unpaced"):
        of = [t[name] for t in told]
        stretches[name] = {
            "p50_ms": [t["p50_ms"] for t in of], "p99_ms": [t["p99_ms"] for t in of],
            "receipts": [t["receipts"] for t in of], "sent_mb_per_s": [t["sent_mb_per_s"] for t in of],
            "p99_to_idle": round(median(t["p99_ms"] / r["idle"]["p99_ms"] for t, r in zip(of, told, strict=True)), 2),
        }  # fmt: skip
    return {"at": iso(SystemClock().now()), "broker": broker, "seconds": seconds, "rounds": rounds, "cameras": len(CAMERAS),
            "frames_per_s": PER_SECOND * len(CAMERAS), "load_average": os.getloadavg()[0], **stretches}  # fmt: skip


class Place:
    """Broker, box and cameras."""

    def __init__(
        self, folder: Path, broker: str, *, extra: Sequence[str] = (), limits: Limits | None = None, models: int = MODELS
    ) -> None:  # fmt: skip
        self.folder, clock = folder / "site", SystemClock()
        site.create(self.folder, site.NewSite(SITE, ("a", "b"), (*CAMERAS, *extra)), clock)
        keys = self.folder / "keys"
        self.broker, self.port = {"embedded": embedded, "mosquitto": mosquitto}[broker](keys)
        config = check({"server": {"site": SITE, "data_dir": str(self.folder)}, "task": {"classes": ["a", "b"]},
                        "storage": {"min_free": 0}})  # fmt: skip
        self.store = Store.open(self.folder, clock=clock, site_key=read_key(keys / "storage.key"))
        repository = trust.Repository(self.folder / "tuf", keys / "tuf", clock)
        self.link = PahoLink(Endpoint("127.0.0.1", self.port, "server", identity.paths(keys, "server")))
        if not self.link.wait_connected(20):
            raise SystemExit(self.link.disconnect_reason)
        rules = box_rules(config)
        self.box = Box(self.link, self.store, repository, lambda f: self.workers.submit(f), rules, clock)
        ready: list[Any] = [Ready(scrubbed()), Ready(scrubbed())]
        self.workers = Workers(
            self.store, ready, self.box.answer, self._alarm, limits, cameras=(*CAMERAS, *extra), count=self.box.count
        )  # fmt: skip
        self._rate = rules.rate_bytes_per_s
        digests = {}
        for seed in range(models):
            data = random.Random(seed).randbytes(MODEL_BYTES)
            digests[model_files.put_model(self.store, data)] = deliver.digests(data)
        (Path(folder) / "digests.json").write_text(json.dumps(digests))
        self._stop = threading.Event()
        self._loop = threading.Thread(target=self._forever)
        self._loop.start()
        command = [sys.executable, "-m", "bench.fanout", "camera", str(self.port), str(folder)]
        self.cameras = [
            subprocess.Popen([*command, camera], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for camera in CAMERAS
        ]
        for camera in self.cameras:
            self._hear(camera)
        self._model = 0

    def round(self, seconds: float) -> dict[str, dict[str, float]]:
        return {name: self.stretch(name, seconds) for name in ("idle", "paced", "unpaced")}

    def stretch(self, name: str, seconds: float) -> dict[str, float]:
        """Let the cameras send for so long; in all but an idle one they fetch models meanwhile, one after another."""
        while self.link.backlog():  # what the last one left
            time.sleep(0.1)
        time.sleep(2.0)
        self.box._fanout = self._fanout(name)  # what was asked for in the last stretch is forgotten
        wanted: list[int] = []
        if name != "idle":
            wanted = [(self._model + i) % MODELS for i in range(MODELS // 2)]
            self._model += MODELS // 2
        before, began = self._sent(), stopwatch()
        for camera in self.cameras:
            self._tell(camera, {"seconds": seconds, "models": wanted})
        waits = sorted(w for camera in self.cameras for w in self._hear(camera)["waits"])
        took = stopwatch() - began
        return {
            "p50_ms": round(1000 * waits[len(waits) // 2], 1), "p99_ms": round(1000 * waits[int(len(waits) * 0.99)], 1),
            "receipts": sum(w < NEVER for w in waits), "sent": len(waits),
            "sent_mb_per_s": round((self._sent() - before) / took / 1e6, 2),
        }  # fmt: skip

    def _fanout(self, name: str) -> fanout.Fanout:
        if name == "unpaced":
            return Unpaced(deliver.Pacer(1e12, SystemClock()), SystemClock())
        return fanout.Fanout(deliver.Pacer(self._rate, SystemClock()), SystemClock(), self.link.backlog)

    def close(self) -> None:
        for camera in self.cameras:
            assert camera.stdin is not None
            camera.stdin.close()
            camera.wait()
        self._stop.set()
        self._loop.join()
        self.workers.close()
        self.link.close()
        self.store.close()
        self.broker.terminate()
        self.broker.wait()

    def _forever(self) -> None:
        while not self._stop.is_set():
            self.box.step()

    def _alarm(self, e: BaseException) -> None:
        raise SystemExit(f"the box met {e!r}")

    def _sent(self) -> int:
        return int(self.store.value("select coalesce(sum(n), 0) from counter where name = 'bytes:chunks_out'"))

    def _tell(self, camera: subprocess.Popen[str], what: dict[str, Any]) -> None:
        assert camera.stdin is not None
        camera.stdin.write(json.dumps(what) + "\n")
        camera.stdin.flush()

    def _hear(self, camera: subprocess.Popen[str]) -> dict[str, Any]:
        assert camera.stdout is not None
        said: dict[str, Any] = json.loads(camera.stdout.readline())
        return said


def scrubbed() -> Scrubbed:
    """A picture that privacy vouches for, of the size that frames have here."""
    import cv2
    import numpy as np

    image = np.random.default_rng(1).integers(60, 200, (H, W, 3), np.uint8)
    jpeg = cv2.imencode(".jpg", image)[1].tobytes()
    request = Request(1, "cam-0", "frame", W, H, (), jpeg)
    made = vouch(request, InChild(()).scrub(request))
    object.__setattr__(made, "jpeg", made.jpeg + bytes(FRAME_BYTES))  # what is stored weighs as much as a real one
    return made


def camera(port: int, folder: Path, name: str) -> None:
    """One camera process: a line of JSON in per stretch, one out with the receipt times in seconds."""
    digests = list(json.loads((folder / "digests.json").read_text()).items())
    link = PahoLink(Endpoint("127.0.0.1", port, name, identity.paths(folder / "site" / "keys", name)))
    link.subscribe(topics.cam(SITE, name, "receipt"))
    link.subscribe(topics.model(SITE, "chunk/+"))
    if not link.wait_connected(30):
        raise SystemExit(link.disconnect_reason)
    print(json.dumps({"ready": name}), flush=True)
    seq = 0
    for line in sys.stdin:
        told = json.loads(line)
        seq, waits = stretch(link, name, seq, told["seconds"], [digests[i] for i in told["models"]])
        print(json.dumps({"waits": waits}), flush=True)
    link.close()


def stretch(link: PahoLink, name: str, seq: int, seconds: float, wanted: Models) -> tuple[int, list[float]]:
    body, boot = os.urandom(FRAME_BYTES - 8), str(os.getpid())
    fetch = Fetch(wanted, lambda want: link.publish(topics.cam(SITE, name, "model/want"), messages.encode(want)))
    began, waits = stopwatch(), []
    due = began + random.random() / PER_SECOND
    under_way: dict[str, tuple[int, float]] = {}  # id -> its number and when it went first
    went: dict[str, float] = {}  # and when last
    again: list[tuple[float, str]] = []  # when, id
    while (now := stopwatch()) < began + seconds or (under_way and now < began + seconds + 20):
        fresh = now >= due and now < began + seconds
        if fresh:
            due += 1 / PER_SECOND
            seq += 1
            under_way[f"{boot}-{seq}"] = seq, now
        again += [(now, i) for i in under_way if now - went.get(i, now) > RESEND_S]
        late = [i for when, i in again if when <= now and i in under_way]
        again = [(when, i) for when, i in again if when > now]
        for frame_id in [*late, *([f"{boot}-{seq}"] if fresh else [])]:
            n, went[frame_id] = under_way[frame_id][0], now
            header = FrameHeader(frame_id, time.time(), n, boot, W, H).to_properties()
            link.publish(topics.cam(SITE, name, "frame"), n.to_bytes(8, "big") + body, properties=header)
        if now < began + seconds:
            fetch.step(now)
        message = link.receive(max(0.0, min(0.05, due - stopwatch())))
        if message is None:
            continue
        if message.topic.endswith("/receipt"):
            receipt = messages.decode(message.payload, FrameReceipt)
            if receipt.status == "retry" and receipt.id in under_way:
                again.append((stopwatch() + receipt.retry_after_s, receipt.id))
                went[receipt.id] = stopwatch() + receipt.retry_after_s
            elif receipt.id in under_way:
                waits.append(stopwatch() - under_way.pop(receipt.id)[1])
        else:
            fetch.got(message.topic.rpartition("/")[2], stopwatch())
    return seq, waits + [NEVER] * len(under_way)


class Fetch:
    """One model after another, chunk by chunk, as the camera's updater asks for them."""

    def __init__(self, wanted: Models, ask: Callable[[Want], None]) -> None:
        self._wanted, self._ask = list(wanted), ask
        self._missing: dict[str, int] = {}
        self._asked_at = float("-inf")

    def step(self, now: float) -> None:
        if not self._missing and self._wanted:
            self._whole, chunks = self._wanted.pop(0)
            self._missing = {sha: i for i, sha in enumerate(chunks)}
            self._asked_at = float("-inf")
        if self._missing and now - self._asked_at > 2.0:
            self._asked_at = now
            self._ask(Want(self._whole, tuple(sorted(self._missing.values())[:256])))

    def got(self, sha256: str, now: float) -> None:
        if self._missing.pop(sha256, None) is not None:
            if len(self._missing) % 256 == 0:
                self._asked_at = float("-inf")
            else:
                self._asked_at = now


def embedded(keys: Path) -> tuple[subprocess.Popen[bytes], int]:
    files = identity.paths(keys, "server")
    command = [sys.executable, "-m", "edged.broker", "--site", SITE, "--port", "0", "--ca", files.ca, "--cert", files.cert,
               "--key", files.key]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    return process, int(process.stdout.readline().split()[1])


def mosquitto(keys: Path) -> tuple[subprocess.Popen[bytes], int]:
    import socket

    binary = shutil.which("mosquitto", path=os.environ["PATH"] + ":/usr/sbin")
    if binary is None:
        raise SystemExit("mosquitto is not installed")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    acl, file, data = keys / "acl", keys / "mosquitto.conf", keys / "broker"
    data.mkdir(exist_ok=True)
    acl.write_text(render_acl(SITE))
    acl.chmod(0o600)
    tls = identity.paths(keys, "server")
    file.write_text(render_conf(host="127.0.0.1", port=port, tls=tls, acl_file=acl, data_dir=data, user="root"))
    return subprocess.Popen([binary, "-c", str(file)], stderr=subprocess.DEVNULL), port


if __name__ == "__main__":
    if sys.argv[1:2] == ["camera"]:
        camera(int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])
    else:
        main()
