"""The cable torn: brokers and daemons killed at random moments, a network that resets, stalls, crawls and lies.

    python -m tests.torture.cable [--kills 50] [--seed 1] [--net-minutes 30] [--soak-minutes 60] [--part kills|net|soak]

Real processes: the broker (embedded, and mosquitto with its *default* persistence), `edged run`, and the camera's own
program parts (spool, window, link) on threads of this process. What is counted: frames that a camera took and that are
not in the store at the end (lost), frames in the store twice (the primary key forbids it; checked all the same), and
publishes beyond the first for each frame (resent). The negative control is a camera that forgets a frame at its PUBACK.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import random
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from agent import run as agents
from agent import selftest
from agent.source import Shot
from edged import site
from edged.broker.mosquitto import render_acl
from edged.clock import SystemClock, iso
from edged.config import load
from edged.storage import check, frames, recover
from edged.wire.link import Endpoint, Tls
from edged.wire.paho import PahoLink
from edged.wire.signature import Signer
from tests.torture.live import FREE, SITE, LiveSite
from tests.torture.unruly import Unruly

RATE = 40.0  # frames/s of each camera
LIMITS = '\n[ingest]\nframes_per_s = 1000\nburst = 2000\nbytes_per_s = "100MB"\n'
STUCK_S = 60.0  # without any receipt: it does not end by itself


def pictures(n: int = 32) -> list[tuple[np.ndarray, bytes]]:
    rng = np.random.default_rng(1)
    images = [rng.integers(0, 255, (96, 128, 3), np.uint8) for _ in range(n)]
    return [(image, cv2.imencode(".jpg", image)[1].tobytes()) for image in images]


class Camera(threading.Thread):
    """The agent on a thread; counts what it takes and what it publishes. `forgetful` trusts the PUBACK."""

    PICTURES = pictures()

    def __init__(
        self, name: str, live: CableSite, *, rate: float = RATE, forgetful: bool = False, keepalive_s: int = 10
    ) -> None:
        super().__init__(daemon=True)
        keys, self.rate, self.camera = live.folder / "keys", rate, name
        tls = Tls(str(keys / "ca.pem"), str(keys / f"cam-{name}.pem"), str(keys / f"cam-{name}.key"))
        link = PahoLink(
            Endpoint("127.0.0.1", live.camera_port, name, tls=tls, keepalive_s=keepalive_s), agents.will(SITE, name),
            reconnect_s=(0.2, 5.0),
        )  # fmt: skip
        self.taken: set[str] = set()
        self.sends: Counter[str] = Counter()
        self.ended, self.halted = threading.Event(), threading.Event()
        self.agent = agents.Agent(
            link, self._shots(), site=SITE, camera=name, state_dir=live.aside / f"camera-{name}", clock=SystemClock(),
            root=(live.folder / "tuf" / "1.root.json").read_bytes(), self_test=selftest.Inline,
            options=agents.Options(resend_after_s=10.0, spool_bytes=2**30, spool_frames=100_000, fsync=False),
            signer=Signer(Path(tls.cert).read_bytes(), Path(tls.key).read_bytes()),
        )  # fmt: skip
        add, publish, spool = self.agent.spool.add, link.publish, self.agent.spool

        def kept(header, jpeg, kind="frame"):  # type: ignore[no-untyped-def]
            add(header, jpeg, kind)
            self.taken.add(header.id)

        def sent(topic, payload, **options):  # type: ignore[no-untyped-def]
            publish(topic, payload, **options)
            if topic.endswith("/frame"):
                frame_id = options["properties"]["id"]
                self.sends[frame_id] += 1
                if forgetful:
                    spool.drop(frame_id)

        spool.add, link.publish = kept, sent  # type: ignore[method-assign]

    def run(self) -> None:
        while not self.halted.is_set():
            if not self.agent.step():
                time.sleep(0.005)
        self.agent.close()

    def empty(self) -> bool:
        return len(self.agent.spool) == 0

    def held(self) -> set[str]:
        """Frames that are still on the camera."""
        return set(self.agent.spool._entries)

    def _shots(self) -> Iterator[Shot | None]:
        due = time.monotonic()
        for n in itertools.count():
            while not self.ended.is_set() and time.monotonic() < due:
                yield None
            if self.ended.is_set():
                return
            due = max(due + 1 / self.rate, time.monotonic() - 1)
            image, jpeg = self.PICTURES[n % len(self.PICTURES)]
            yield Shot(image, time.time(), (), (), jpeg=jpeg)


class CableSite(LiveSite):
    """A site whose broker can be killed. `kind`: embedded or mosquitto; `net`: an unruly network before the broker."""

    def __init__(self, folder: Path, aside: Path, *, kind: str = "embedded", net: Unruly | None = None) -> None:
        super().__init__(folder, aside, extra=FREE + LIMITS)
        self.kind, self.net = kind, net
        self.camera_port = self.port if net is None else net.listen(self.port)

    def __enter__(self) -> CableSite:
        self.start_broker()
        self.start_daemon()
        return self

    def start_broker(self) -> None:
        if self.kind == "embedded":
            self.broker = self._process("broker")
            return
        binary = shutil.which("mosquitto", path="/usr/sbin:/usr/bin")
        assert binary is not None, "mosquitto is not installed"
        keys, conf, acl = self.folder / "keys", self.aside / "mosquitto.conf", self.aside / "mosquitto.acl"
        acl.write_text(render_acl(SITE))
        acl.chmod(0o600)
        conf.write_text(  # as few words as it runs with: its queues and its persistence are its defaults
            f"user root\nlistener {self.port} 127.0.0.1\ncafile {keys / 'ca.pem'}\ncertfile {keys / 'server.pem'}\n"
            f"keyfile {keys / 'server.key'}\nrequire_certificate true\nuse_identity_as_username true\n"
            f"allow_anonymous false\nacl_file {acl}\n"
        )
        with self.log.open("ab") as log:
            self.broker = subprocess.Popen([binary, "-c", str(conf)], stdout=log, stderr=log)

    def kill_broker(self) -> None:
        assert self.broker is not None
        self.broker.send_signal(signal.SIGKILL)
        self.broker.wait()

    def missing(self, cameras: list[Camera]) -> tuple[int, list[str]]:
        """Frames that are neither stored nor on their camera; findings of the store. The daemon must be down."""
        with site.open_store(load(self.config), key=True) as store:
            recover.run(store)
            found = [str(f) for f in check.run(store)]
            lost = 0
            for camera in cameras:
                for frame_id in camera.taken - camera.held():
                    receipt = frames.find_receipt(store, camera.camera, frame_id)
                    lost += receipt is None or receipt.status != "stored"
            twice = store.value("select count(*) from (select 1 from frame group by camera, id having count(*) > 1)")
            if twice:
                found.append(f"{twice} frames stand there twice")
        return lost, found


def settle(cameras: list[Camera]) -> bool:
    """No more pictures; wait until every spool is empty, or nothing moves any more."""
    for camera in cameras:
        camera.ended.set()
    left, moved = -1, time.monotonic()
    while time.monotonic() - moved < STUCK_S:
        now = sum(len(c.agent.spool) for c in cameras)
        if not now:
            return True
        if now != left:
            left, moved = now, time.monotonic()
        time.sleep(0.1)
    return False


def finish(live: CableSite, cameras: list[Camera], what: str) -> bool:
    """Let everything arrive, stop, count; True if nothing is lost or broken."""
    settled = settle(cameras)
    for camera in cameras:
        camera.halted.set()
    for camera in cameras:
        camera.join(30)
    live.stop()
    lost, found = live.missing(cameras)
    taken = sum(len(c.taken) for c in cameras)
    published = sum(sum(c.sends.values()) for c in cameras)
    dropped = sum(c.agent.spool.dropped_total for c in cameras)
    again = sum(n - 1 for c in cameras for n in c.sends.values())
    print(
        f"{what}: {taken} frames taken, {lost} lost, {again} resent ({again / max(1, published):.2%} of publishes),"
        f" {dropped} pushed out of a spool, {'all receipted' if settled else 'NOT all receipted'}, {len(found)} findings",
        flush=True,
    )
    for text in found[:5]:
        print("  ", text)
    return settled and not lost and not found


def kills(n: int, seed: int, kind: str, victim: str, *, forgetful: bool = False, rate: float = RATE) -> bool:
    """Kill the broker or the daemon at `n` random moments."""
    rng = random.Random(f"{seed} {kind} {victim}")
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as aside:
        live = CableSite(Path(folder) / "site", Path(aside), kind=kind)
        with live:
            cameras = [Camera(name, live, rate=rate, forgetful=forgetful) for name in ("gate", "yard")]
            for camera in cameras:
                camera.start()
            readies = []
            for _ in range(n):
                time.sleep(rng.uniform(1.0, 9.0))
                if victim == "broker":
                    live.kill_broker()
                    time.sleep(rng.uniform(0, 1))
                    live.start_broker()
                else:
                    live.kill_daemon()
                    readies.append(live.start_daemon())
            time.sleep(3)
            what = f"{kind}, {victim} killed {n} times, seed {seed}"
            ok = finish(live, cameras, what + (", cameras that trust the PUBACK" if forgetful else ""))
            if readies:
                print(f"  ready again after {max(readies):.1f} s at most")
            return ok


def net(minutes: float, seed: int, kind: str = "embedded") -> bool:
    """A network that resets, stalls, goes half-open, crawls and flips bytes."""
    rng = random.Random(f"net {seed}")
    with (
        tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as aside, Unruly(rng) as unruly,
    ):  # fmt: skip
        live = CableSite(Path(folder) / "site", Path(aside), kind=kind, net=unruly)
        with live:
            cameras = [Camera(name, live, rate=5.0, keepalive_s=5) for name in ("gate", "yard")]
            for camera in cameras:
                camera.start()
            end, largest, away = time.monotonic() + 60 * minutes, 0, 0.0
            since = time.monotonic()
            while time.monotonic() < end:
                unruly.misbehave(rng.uniform(1, 8))
                largest = max(largest, *(len(c.agent.spool) for c in cameras))
                if all(c.agent._link.connected() for c in cameras):
                    since = time.monotonic()
                away = max(away, time.monotonic() - since)
            unruly.behave()
            back = time.monotonic()
            while not all(c.agent._link.connected() for c in cameras) and time.monotonic() - back < 120:
                time.sleep(0.1)
            ok = finish(live, cameras, f"{kind}, {minutes:g} min of {unruly}, seed {seed}")
            print(f"  connected again {time.monotonic() - back:.0f} s after the network behaved and all had arrived")
            print(f"  at most {largest} frames in a spool")
            return ok


def soak(minutes: float, seed: int, cameras: int = 8, rate: float = 1.0) -> bool:
    """Eight cameras, nothing happens: memory, descriptors and threads of the daemon may not grow."""
    names = tuple(f"cam{i}" for i in range(cameras))
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as aside:
        live = CableSite(Path(folder) / "site", Path(aside))
        for name in names:
            site.issue_camera(live.folder, name, SystemClock())
        with live:
            running = [Camera(name, live, rate=rate) for name in names]
            for camera in running:
                camera.start()
            time.sleep(60)  # imports, first segments, caches
            rows: list[tuple[float, float, int, int]] = []
            began = time.monotonic()
            while time.monotonic() - began < 60 * minutes:
                assert live.daemon is not None
                rows.append((time.monotonic() - began, *_size(live.daemon.pid)))
                time.sleep(10)
            ok = finish(live, running, f"soak of {minutes:g} min, {cameras} cameras at {rate:g} frames/s, seed {seed}")
        hours, mb = [r[0] / 3600 for r in rows], [r[1] for r in rows]
        slope = float(np.polyfit(hours, mb, 1)[0]) if len(rows) > 2 else float("nan")
        half = float(np.polyfit(hours[len(rows) // 2 :], mb[len(rows) // 2 :], 1)[0]) if len(rows) > 6 else float("nan")
        print(
            f"  RSS of the daemon {mb[0]:.1f} MB at first, {mb[-1]:.1f} MB at last, slope {slope:.2f} MB/h"
            f" ({half:.2f} in the second half); descriptors {rows[0][2]} to {rows[-1][2]}, threads {rows[0][3]} to {rows[-1][3]}"
        )
        return ok


def _size(pid: int) -> tuple[float, int, int]:
    """MB of RSS, descriptors, threads."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    return int(status["VmRSS"].split()[0]) / 1024, len(list(Path(f"/proc/{pid}/fd").iterdir())), int(status["Threads"])


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.torture.cable")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--net-minutes", type=float, default=30)
    parser.add_argument("--soak-minutes", type=float, default=60)
    parser.add_argument("--part", choices=("kills", "net", "soak"))
    options = parser.parse_args(argv)
    print(iso(SystemClock().now()))
    ok = True
    if options.part in (None, "kills"):
        for kind in ("embedded", "mosquitto"):
            for victim in ("broker", "daemon"):
                ok &= kills(options.kills, options.seed, kind, victim)
        with contextlib.suppress(AssertionError):
            ok &= not kills(5, options.seed, "mosquitto", "broker", forgetful=True)
    if options.part in (None, "net"):
        ok &= net(options.net_minutes, options.seed)
    if options.part in (None, "soak"):
        ok &= soak(options.soak_minutes, options.seed)
    return 0 if ok else 1


if __name__ == "__main__":
    raise SystemExit(main())
