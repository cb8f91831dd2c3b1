"""A site of real processes: the embedded broker, `edged run`, and cameras that keep each frame until its receipt.

The cameras live in the caller's process and do what the agent does with receipts: "retry" means the same frame again
later, everything else lets it go. Nothing is scrubbed away (no detectors), all else is as in life.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from edged import site
from edged.clock import Clock, SystemClock
from edged.config import load
from edged.storage import check, frames, recover
from edged.wire import messages, topics
from edged.wire.link import Endpoint, Tls
from edged.wire.messages import FrameHeader, FrameReceipt
from edged.wire.paho import PahoLink

SITE = "plant-a"
CAMERAS = ("gate", "yard")
AGENT = "dock"  # a camera that is a process of its own, if it is started
QUIET = """
[privacy]
faces = false
plates = false
unjudged = "keep"
children = 1
delay_s = 0
planted_every_s = 0
"""
START_S = 60.0
# libfaketime 0.9.10 that leaves monotonic time alone breaks clock_nanosleep(2), which time.sleep uses.
_AWAKE = "import select, time; time.sleep = lambda s: select.select([], [], [], s); from agent.cli import main; main()"
FREE = "\n[storage]\nmin_free = 0\n"


def jpeg(seed: int) -> bytes:
    """A noisy picture of 160x120, some 10 kB."""
    rng = np.random.default_rng(seed)
    return bytes(cv2.imencode(".jpg", rng.integers(0, 255, (120, 160, 3), np.uint8))[1])


@dataclass
class Waiting:
    header: FrameHeader
    jpeg: bytes
    not_before: float = 0.0
    sent: float = -1e9


class Camera:
    """One camera; `step` sends what is due and takes receipts."""

    def __init__(self, name: str, port: int, keys: Path, *, seed: int = 0, resend_s: float = 5.0) -> None:
        self.name, self.boot, self.resend_s = name, f"b{seed}", resend_s
        tls = Tls(str(keys / "ca.pem"), str(keys / f"cam-{name}.pem"), str(keys / f"cam-{name}.key"))
        self.link = PahoLink(Endpoint("127.0.0.1", port, name, tls=tls), reconnect_s=(0.2, 2.0))
        self.link.subscribe(topics.cam(SITE, name, "receipt"))
        self.waiting: dict[str, Waiting] = {}
        self.receipted: dict[str, str] = {}  # id -> SHA-256 of what was let go as stored
        self.answers: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.last_stored = 0.0
        self._seq = 0

    def see(self, ts: float | None = None) -> None:
        """Take a picture."""
        n, self._seq = self._seq, self._seq + 1
        header = FrameHeader(
            id=f"{self.boot}-{n}", ts=time.time() if ts is None else ts, seq=n, boot=self.boot, w=160, h=120
        )
        self.waiting[header.id] = Waiting(header, jpeg(n % 64))

    def step(self, window: int = 8) -> None:
        now = time.monotonic()
        while (message := self.link.receive(0)) is not None:
            self._receipt(messages.decode(message.payload, FrameReceipt), now)
        if not self.link.connected():
            return
        for w in list(self.waiting.values())[:window]:
            if now >= w.not_before and now - w.sent >= self.resend_s:
                with contextlib.suppress(Exception):
                    self.link.publish(topics.cam(SITE, self.name, "frame"), w.jpeg, properties=w.header.to_properties())
                    w.sent = now

    def _receipt(self, receipt: FrameReceipt, now: float) -> None:
        self.answers[receipt.status] += 1
        w = self.waiting.get(receipt.id)
        if w is None or hashlib.sha256(w.jpeg).hexdigest() != receipt.sha256:
            return
        if receipt.status == "retry":
            self.reasons[receipt.detail[:80]] += 1
            w.not_before, w.sent = now + receipt.retry_after_s, -1e9
            return
        if receipt.status == "stored":
            self.receipted[receipt.id] = receipt.sha256
            self.last_stored = now
        del self.waiting[receipt.id]


class LiveSite:
    """`aside` is a folder elsewhere for the log; `prefix` stands before the daemon's command (faketime, say). Use as a
    context manager.
    """

    def __init__(
        self, folder: Path, aside: Path, *, extra: str = "", prefix: Sequence[str] = (), env: Mapping[str, str] | None = None,
        clock: Clock | None = None,
    ) -> None:  # fmt: skip
        self.folder, self.prefix = folder, tuple(prefix)
        self.env = dict(os.environ) | dict(env or {})
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        new = site.NewSite(SITE, ("a", "b"), (*CAMERAS, AGENT), mqtt_port=self.port, extra=QUIET + extra)
        self.config = site.create(folder, new, clock or SystemClock())
        self.aside, self.log = aside, aside / "log"
        self.broker: subprocess.Popen[bytes] | None = None
        self.daemon: subprocess.Popen[bytes] | None = None
        self.agent: subprocess.Popen[bytes] | None = None
        self.cameras: list[Camera] = []

    def __enter__(self) -> LiveSite:
        self.broker = self._process("broker")
        self.start_daemon()
        self.cameras = [Camera(name, self.port, self.folder / "keys") for name in CAMERAS]
        return self

    def __exit__(self, *_: object) -> None:
        for camera in self.cameras:
            camera.link.close()
        for process in (self.agent, self.daemon, self.broker):
            if process is not None and process.poll() is None:
                process.terminate()
                try:
                    process.wait(30)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()

    def start_daemon(self) -> float:
        """Start `edged run`; seconds until it said that it is ready. Raises RuntimeError when it ends instead."""
        address = str(self.aside / "notify")
        Path(address).unlink(missing_ok=True)
        began = time.monotonic()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
            notified.bind(address)
            notified.settimeout(0.2)
            self.daemon = self._process("run", self.prefix, {"NOTIFY_SOCKET": address})
            while time.monotonic() - began < START_S:
                with contextlib.suppress(TimeoutError):
                    if notified.recv(100).startswith(b"READY=1"):
                        break
                if self.daemon.poll() is not None:
                    raise RuntimeError(f"the daemon ended with {self.daemon.returncode}:\n{self.said()}")
            else:
                raise RuntimeError(f"the daemon is not ready:\n{self.said()}")
        Path(address).unlink()
        return time.monotonic() - began

    def start_agent(self) -> None:
        """A real camera process that sends two pictures a second."""
        pictures = self.aside / "pictures"
        pictures.mkdir()
        for i in range(4):
            (pictures / f"{i}.jpg").write_bytes(jpeg(i))
        command = site.agent_command(self.folder, SITE, "127.0.0.1", self.port, AGENT)
        command[command.index("-m") : command.index("run")] = ["-c", _AWAKE]
        command += ["--source", f"folder:{pictures}?kind=roi&loop=1", "--fps", "2", "--resend-after-s", "5"]
        with self.log.open("ab") as log:
            self.agent = subprocess.Popen(command, env=self.env, stdout=log, stderr=log)

    def kill_daemon(self) -> None:
        assert self.daemon is not None
        self.daemon.send_signal(signal.SIGKILL)
        self.daemon.wait()

    def stop(self) -> None:
        """End the daemon in an orderly way."""
        assert self.daemon is not None
        self.daemon.terminate()
        self.daemon.wait(60)

    def faults(self) -> list[str]:
        """What is not as it was promised, once no daemon runs."""
        config = load(self.config)
        with site.open_store(config, key=True) as store:
            recover.run(store)
            found = [str(f) for f in check.run(store)]
            for camera, frame_id, sha256 in self.receipted():
                receipt = frames.find_receipt(store, camera, frame_id)
                if receipt is None or (receipt.status, receipt.sha256) != ("stored", sha256):
                    found.append(f"frame {camera} {frame_id} was receipted and is lost")
        return found

    def up(self) -> bool:
        return self.daemon is not None and self.daemon.poll() is None

    def said(self, lines: int = 30) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def play(self, seconds: float, *, every_s: float = 0.1, until: Callable[[], bool] = lambda: False) -> bool:
        """Cameras see and send; True when `until` came true before the time was over."""
        end, next_ = time.monotonic() + seconds, 0.0
        while time.monotonic() < end:
            if time.monotonic() >= next_:
                next_ = time.monotonic() + every_s
                for camera in self.cameras:
                    if len(camera.waiting) < 200:
                        camera.see()
            for camera in self.cameras:
                camera.step()
            if until():
                return True
            time.sleep(0.01)
        return False

    def answers(self) -> Counter[str]:
        return sum((c.answers for c in self.cameras), Counter())

    def stored_since(self, then: float) -> bool:
        return all(c.last_stored > then for c in self.cameras)

    def receipted(self) -> Iterator[tuple[str, str, str]]:
        """(camera, frame id, SHA-256) of every frame whose camera let it go."""
        for camera in self.cameras:
            for frame_id, sha256 in camera.receipted.items():
                yield camera.name, frame_id, sha256

    def _process(
        self, word: str, prefix: Sequence[str] = (), more: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        command = [*prefix, sys.executable, "-m", "edged", "-c", str(self.config), word]
        with self.log.open("ab") as log:
            return subprocess.Popen(command, env=self.env | dict(more or {}), stdout=log, stderr=log)
