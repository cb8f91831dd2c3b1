"""A thousand light cameras in one asyncio process, each over mutual TLS with a certificate of its own.

    python -m bench.fleets.crowd FOLDER PORT      (FOLDER: the site's; started by bench/fleets/throng.py)

Each does what a camera does from "you should run release 7" to its word on it: the same subscriptions, questions and
reports (signed), the same download (agent/download.py: ways, parts on disk, what is asked for and when). Left out:
pictures, the self-test, the slots; and the metadata is verified once for all of them (python-tuf), and a file rebuilt once
from what came by a shorter way, not a thousand times, since a thousand cameras have a thousand processors.

One line of JSON in for each order, one out for each event:
    {"connect": [names]}  {"cut": [names], "for_s": s, "at": share of its next download}  {"tell": 1}  {"end": 1}
    {"ready": n}  {"told": {...}}  {"complete": release, "cameras": n, "at": monotonic seconds}
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from agent import offer
from agent.download import Download, Limits
from agent.metadata import Inbox, Trust
from agent.offer import Offer
from bench.fleets.mqtt import Client
from bench.fleets.place import HARDWARE, SITE
from edged import __version__
from edged.broker import identity
from edged.clock import SystemClock, stopwatch
from edged.errors import Refused, Unavailable
from edged.wire import messages, topics
from edged.wire.link import Will
from edged.wire.messages import CameraInfo, Desired, Health, JobStatus, Reported, Want
from edged.wire.signature import Signer

LIMITS = Limits()
REPORT_EVERY_S = 1.0
AT_ONCE = 16  # connections that are being made
RECONNECT_S = (1.0, 2.0)  # paho's first wait, jittered


class Metadata:
    """What the site's keys vouch for, looked up once for all cameras."""

    def __init__(self, folder: Path, root: bytes) -> None:
        self._trust, self.inbox = Trust(folder, root, SystemClock().now), Inbox()
        self._known: dict[str, Offer] = {}
        self._looked = -1

    def offer(self, desired: Desired) -> Offer | None:
        """None while it is not there yet. Raises Refused."""
        if desired.target not in self._known and self._looked != self.inbox.changes:
            self._looked = self.inbox.changes
            with contextlib.suppress(Unavailable):
                self._known[desired.target] = offer.read(self._trust.verify(self.inbox, desired.target).target)
        return self._known.get(desired.target)


class Light:
    """One camera."""

    def __init__(self, name: str, folder: Path, port: int, site: Path, metadata: Metadata, tally: Tally) -> None:
        self.name, self.folder, self._port, self._metadata, self._tally = name, folder, port, metadata, tally
        self._tls = identity.paths(site / "keys", name)
        self._signer = Signer(Path(self._tls.cert).read_bytes(), Path(self._tls.key).read_bytes())
        self._client: Client | None = None
        self._desired: Desired | None = None
        self._offer: Offer | None = None
        self._download: Download | None = None
        self._reported_at = 0.0
        self._status: JobStatus = "IN_PROGRESS"
        self._detail, self._due = "", False
        self.runs: tuple[int, str, bytes] = (0, "", b"")  # release, SHA-256, the file
        self.health: Health | None = None
        self.cut_at: tuple[float, Callable[[], None]] | None = None  # share of a download; what happens then

    async def connect(self) -> None:
        cam = topics.cam(SITE, self.name, "")
        filters = [cam + leaf for leaf in ("receipt", "model/desired", "capture/set", "enabled/set")]
        filters += [topics.model(SITE, leaf) for leaf in ("meta/+", "chunk/+")]
        will = Will(cam + "state", b"offline")
        self._client = await Client.connect(
            "127.0.0.1", self._port, self.name, self._tls, will, filters, self._heard, self._lost
        )
        release, sha256, _ = self.runs
        info = CameraInfo("b", __version__, HARDWARE, (), 0, sha256, "colour" if sha256 else "", release)
        said = messages.encode(info)
        self._client.publish(cam + "info", said, retain=True, properties=self._signer.properties(cam + "info", said))
        self._client.publish(cam + "state", b"online", retain=True)
        self._tally.online += 1
        self._due = True

    def cut(self) -> None:
        if self._client is not None:
            self._client.cut()

    def step(self, now: float) -> None:
        """What a camera does when time has passed."""
        if self._client is None:
            return
        self._begin(now)
        self._collect(now)
        self._report(now)

    # --- one update, as agent/updater.py has it

    def _begin(self, now: float) -> None:
        if self._desired is None or self._offer is not None or self._status != "IN_PROGRESS":
            return
        try:
            found = self._metadata.offer(self._desired)
            if found is None:
                return
            offer.check(found, self._desired, running=None, hardware=HARDWARE, agent=__version__)
        except Refused as e:
            self._say("REJECTED", str(e))
            return
        self._offer = found
        self._download = Download(self.folder, found, self.runs[1], LIMITS, now)

    def _collect(self, now: float) -> None:
        if self._download is None:
            return
        if self._download.complete:
            self._finish(self._download)
        elif why := self._download.step(now, self._client is not None, self._ask):
            self._say("TIMED_OUT", why)

    def _ask(self, want: Want) -> None:
        if self._client is None:
            raise Unavailable("no cable")
        self._client.publish(topics.cam(SITE, self.name, "model/want"), messages.encode(want))
        self._tally.count["wants"] += 1

    def _finish(self, download: Download) -> None:
        assert self._desired is not None
        assert self._offer is not None
        self._download = None
        if download.way is not None:
            self._tally.count[f"by {download.way.form}"] += 1
        data = self._tally.rebuilt(download, self.runs[1:])
        if hashlib.sha256(data).hexdigest() != self._offer.sha256:
            self._say("FAILED", "the bytes are not those that were signed")
            return
        self.runs = (self._desired.version, self._offer.sha256, data)
        self.health = Health(pictures=20, fps=5.0, fps_before=5.0, agreement=1.0, shift=0.0, regions=20)
        self._say("SUCCEEDED", "light")
        self._tally.completed(self._desired.version)

    def _say(self, status: JobStatus, detail: str) -> None:
        self._status, self._due, self._reported_at = status, True, 0.0
        self._detail = detail

    def _report(self, now: float) -> None:
        if not self._due or self._desired is None or self._client is None or now - self._reported_at < REPORT_EVERY_S:
            return
        done, progress = self._status == "SUCCEEDED", 0.0
        if self._download is not None or done:
            progress = 1.0 if self._download is None else 0.1 + 0.7 * self._download.progress
        release, sha256, _ = self.runs
        reported = Reported(
            "colour" if sha256 else "", release, sha256, self._desired.job, self._status, progress,
            self._detail, self.health if done else None,
        )  # fmt: skip
        topic, payload = topics.cam(SITE, self.name, "model/reported"), messages.encode(reported)
        self._client.publish(topic, payload, retain=True, properties=self._signer.properties(topic, payload))
        self._tally.count["reports"] += 1
        self._due, self._reported_at = False, now

    # --- what comes in

    def _heard(self, topic: str, payload: bytes) -> None:
        leaf, _, name = topic.rpartition("/")
        if leaf.endswith("/chunk"):
            self._tally.count["chunk bytes in"] += len(payload)
            if self._download is not None and self._download.put(name, payload, now := stopwatch()):
                self._tally.count["chunk bytes kept"] += len(payload)
                self._due = True
                if self.cut_at is not None and self._download.progress >= self.cut_at[0]:
                    _, cut = self.cut_at
                    self.cut_at = None
                    self._tally.count["cut off"] += 1
                    cut()
                self._collect(now)
        elif leaf.endswith("/meta"):
            self._metadata.inbox.put(name, payload)
        elif topic.endswith("/model/desired"):
            desired = messages.decode(payload, Desired) if payload else None
            if desired != self._desired:
                self._desired, self._offer, self._download, self._status = desired, None, None, "IN_PROGRESS"
                self._detail, self._due = "", True
                if desired is not None and desired.version == self.runs[0]:
                    self._say("SUCCEEDED", "it runs already")

    def _lost(self) -> None:
        self._client = None
        self._tally.online -= 1


class Tally:
    """What all of them did."""

    def __init__(self) -> None:
        self.count: Counter[str] = Counter()
        self.online = 0
        self.complete: Counter[int] = Counter()
        self._files: dict[tuple[str, str], bytes] = {}

    def completed(self, release: int) -> None:
        self.complete[release] += 1
        tell(complete=release, cameras=self.complete[release], at=stopwatch())

    def rebuilt(self, download: Download, old: tuple[str, bytes]) -> bytes:
        """What the first camera has made of these bytes and the old file: its SHA-256, and itself."""
        key = download.sha256, old[0]
        if key not in self._files:
            self._files[key] = download.read(lambda: old[1])
        return self._files[key]


class Crowd:
    """Takes orders."""

    def __init__(self, site: Path, port: int, scratch: Path) -> None:
        self.tally = Tally()
        self._site, self._port, self._scratch = site, port, scratch
        self._metadata = Metadata(scratch / "trust", (site / "tuf" / "1.root.json").read_bytes())
        self.cameras: dict[str, Light] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._gate = asyncio.Semaphore(AT_ONCE)

    async def forever(self) -> None:
        orders = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
        self._spawn(self._steps())
        while line := await orders.readline():
            order: dict[str, Any] = json.loads(line)
            if "connect" in order:
                for n in order["connect"]:
                    scratch = self._scratch / n
                    self.cameras[n] = Light(n, scratch, self._port, self._site, self._metadata, self.tally)
                await asyncio.gather(*(self._connect(n) for n in order["connect"]))
                tell(ready=self.tally.online)
            elif "cut" in order:
                for name in order["cut"]:
                    self.cameras[name].cut_at = order["at"], partial(self._interrupt, name, order["for_s"])
            elif "tell" in order:
                tell(told=dict(self.tally.count), online=self.tally.online)
            else:
                break

    async def _steps(self) -> None:
        while True:
            for light in list(self.cameras.values()):
                light.step(stopwatch())
            await asyncio.sleep(0.1)

    def _interrupt(self, name: str, for_s: float) -> None:
        self.cameras[name].cut()
        self._spawn(self._come_back(name, for_s))

    async def _come_back(self, name: str, for_s: float) -> None:
        await asyncio.sleep(for_s + random.uniform(*RECONNECT_S))
        await self._connect(name)

    async def _connect(self, name: str) -> None:
        async with self._gate:
            for attempt in range(5):
                try:
                    await self.cameras[name].connect()
                    return
                except (OSError, TimeoutError) as e:
                    self.tally.count[f"connect failed: {type(e).__name__}"] += 1
                    await asyncio.sleep(2.0**attempt)

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            raise SystemExit(f"the crowd met {task.exception()!r}") from task.exception()


def tell(**what: Any) -> None:
    print(json.dumps(what), flush=True)


def main() -> None:
    site, port = Path(sys.argv[1]), int(sys.argv[2])
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as scratch:
        asyncio.run(Crowd(site, port, Path(scratch)).forever())


if __name__ == "__main__":
    main()
