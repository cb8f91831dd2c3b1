"""How long a camera waits for the durable receipt of a frame, against the broker's own PUBACK, over TLS.

    python -m bench.receipts [seconds]

Eight cameras send 15 frames/s of 100 KB each through a broker to a box: in turns one that takes each message and drops it
(its cameras only get PUBACKs), and one that does with it what `edged run` does: header, waiting room, two lines, seal,
group commit, receipt. Both times count from the moment a camera begins to send. Nothing is scrubbed
(bench/unchanged.py), since that would hide the rest: 150 ms against 5. Broker, box and cameras are three processes on
one machine; the ratio is of the medians of the same run.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from statistics import median
from typing import Any

import mqtt5
import msgspec

from bench import unchanged
from bench.broker import await_port, embedded, mosquitto
from edged.broker import identity
from edged.clock import SystemClock, stopwatch
from edged.storage.store import Store
from edged.wire import messages, topics
from edged.wire.link import Endpoint
from edged.wire.messages import FrameReceipt
from edged.wire.paho import PahoLink
from edged.workers import Workers

CAMERAS = 8
RATE = 120.0  # frames/s of all
SECONDS = 8.0
ROUNDS = 3
LINES = CAMERAS  # what would scrub 120 frames/s; a box of two cores has two
WARM = 15  # frames of each camera that are not counted
SITE = "site"


def run(seconds: float = SECONDS) -> dict[str, Any]:
    """Milliseconds, by broker and by what the box does with a frame."""
    said: dict[str, Any] = {"frames_per_s": RATE, "cameras": CAMERAS}
    clock = SystemClock()
    with tempfile.TemporaryDirectory() as folder:
        keys = Path(folder) / "keys"
        identity.make_ca(keys, SITE, clock.now())
        identity.issue(keys, "server", server=True, hosts=["127.0.0.1"], now=clock.now())
        for i in range(CAMERAS):
            identity.issue(keys, f"cam-{i}", server=False, now=clock.now())
        said["fdatasync_ms"] = _figures([_flush_s(Path(folder)) for _ in range(200)])
        for name, start in (("embedded", embedded), ("mosquitto", mosquitto)):
            waits: dict[str, list[float]] = {
                "puback_dropped": [],
                "puback_stored": [],
                "receipt": [],
                "turned_away": [],
            }
            medians: list[float] = []
            for n in range(ROUNDS):
                for mode in ("drop", "store"):
                    heard = _phase(start, keys, Path(folder) / f"{name}-{n}", mode, seconds)
                    for what, ms in heard.items():
                        waits[what] += ms
                        if what == "receipt":
                            medians.append(median(ms))
            turned_away = len(waits.pop("turned_away"))
            said[name] = {"frames_turned_away": turned_away} | {what: _figures(ms) for what, ms in waits.items()}
            said[name]["receipt"]["p50_of_rounds_ms"] = [round(ms * 1e3, 2) for ms in medians]
            said[name]["receipt_to_puback_p50"] = round(median(waits["receipt"]) / median(waits["puback_dropped"]), 2)
            print(name, said[name], flush=True)
    return said


def _phase(start, keys: Path, data: Path, mode: str, seconds: float) -> dict[str, list[float]]:
    broker, port = start(keys, True)
    box = None
    try:
        await_port(port)
        command = [sys.executable, "-m", "bench.receipts", "--box", mode, str(port), str(keys), str(data)]
        box = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert box.stdout is not None
        if not box.stdout.readline():
            raise SystemExit("the box did not come up")
        picture = unchanged.jpeg(100_000)
        cameras = [Camera(f"cam-{i}", port, keys, picture, seconds, i / RATE, mode == "store") for i in range(CAMERAS)]
        for camera in cameras:
            camera.start()
        for camera in cameras:
            camera.join()
    finally:
        for process in (box, broker):
            if process is not None:
                process.send_signal(signal.SIGTERM)
                process.wait()
    if mode == "drop":
        return {"puback_dropped": [s for c in cameras for s in c.pubacks]}
    turned_away = [0.0] * sum(c.turned_away for c in cameras)
    lost = sum(2 * c.sent - len(c.pubacks) - len(c.receipts) for c in cameras) - len(turned_away)
    if lost:
        raise SystemExit(f"{lost} answers did not come")
    return {
        "turned_away": turned_away,
        "puback_stored": [s for c in cameras for s in c.pubacks[WARM:]],
        "receipt": [s for c in cameras for s in c.receipts[WARM:]],
    }


class Camera(threading.Thread):
    """Sends on a timetable, whatever has been answered; notes when each answer came (seconds after the send began)."""

    def __init__(
        self, name: str, port: int, keys: Path, picture: bytes, seconds: float, phase: float, receipts: bool
    ) -> None:  # fmt: skip
        super().__init__(daemon=True)
        self.camera, self.picture, self._seconds, self._phase = name, picture, seconds, phase
        self.pubacks: list[float] = []
        self.receipts: list[float] = []
        self.sent = self.turned_away = 0
        self._wants_receipts = receipts
        self._began: dict[str, float] = {}
        self._buffer = b""
        tls = identity.paths(keys, name)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(tls.ca)
        context.load_cert_chain(tls.cert, tls.key)
        raw = socket.create_connection(("127.0.0.1", port), 20)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = context.wrap_socket(raw, server_hostname="127.0.0.1")
        own = topics.cam(SITE, name, "receipt")
        self._socket.sendall(mqtt5.ConnectPacket(name, clean_start=True, keep_alive=60).write())
        self._socket.sendall(
            mqtt5.SubscribePacket(1, [mqtt5.TopicFilter(own, max_qos=mqtt5.QoS.AT_LEAST_ONCE)]).write()
        )

    def run(self) -> None:
        every = CAMERAS / RATE
        due = stopwatch() + 0.2 + self._phase
        end = due + self._seconds
        while due < end:
            self._listen(due)
            self._send()
            due += every
        self._listen(stopwatch() + 10.0, until_done=True)
        self._socket.close()

    def _send(self) -> None:
        frame = unchanged.frame(self.camera, self.sent, self.picture, SystemClock().now())
        self.sent += 1
        began = stopwatch()
        self._began[frame.header.id] = self._began[f"#{self.sent}"] = began
        packet = mqtt5.PublishPacket(
            topics.cam(SITE, self.camera, "frame"), self.picture, qos=mqtt5.QoS.AT_LEAST_ONCE, packet_id=self.sent,
            user_properties=list(frame.header.to_properties().items()),
        )  # fmt: skip
        self._socket.sendall(packet.write())

    def _listen(self, until: float, until_done: bool = False) -> None:
        while (left := until - stopwatch()) > 0:
            answered = len(self.receipts) + self.turned_away
            if until_done and len(self.pubacks) == self.sent and answered == self.sent * self._wants_receipts:
                return
            if self._socket.pending() or select.select([self._socket], [], [], left)[0]:
                self._take(self._socket.recv(65536))

    def _take(self, data: bytes) -> None:
        now = stopwatch()
        self._buffer += data
        while len(self._buffer) > 1:
            try:
                packet, size = mqtt5.read(memoryview(self._buffer))
            except IndexError:
                return
            self._buffer = self._buffer[size:]
            if isinstance(packet, mqtt5.PubAckPacket):
                self.pubacks.append(now - self._began.pop(f"#{packet.packet_id}"))
            elif isinstance(packet, mqtt5.PublishPacket):
                receipt = messages.decode(packet.payload, FrameReceipt)
                if receipt.status == "stored":
                    self.receipts.append(now - self._began.pop(receipt.id))
                else:  # the box is busy, and says so; a camera would send again
                    self.turned_away += 1
                self._socket.sendall(mqtt5.PubAckPacket(packet.packet_id or 0).write())


def box(mode: str, port: int, keys: Path, data: Path) -> None:
    """The box's process, until SIGTERM."""
    link = PahoLink(Endpoint("127.0.0.1", port, "server", identity.paths(keys, "server")))
    link.subscribe(topics.cam(SITE, "+", "frame"))
    if not link.wait_connected(20):
        raise SystemExit("the box has no broker")
    clock = SystemClock()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    clock.sleep(0.3)  # until the subscription holds
    print("ready", flush=True)
    if mode == "drop":
        while not stop.is_set():
            link.receive(0.1)
        link.close()
        return

    def answer(camera: str, receipt: FrameReceipt) -> None:
        link.publish(topics.cam(SITE, camera, "receipt"), messages.encode(receipt))

    def alarm(e: BaseException) -> None:
        print(f"the box failed: {e!r}", file=sys.stderr)
        os._exit(1)

    with Store.open(data, clock=clock, site_key=bytes(32)) as store:
        workers = Workers(store, [unchanged.Unchanged() for _ in range(LINES)], answer, alarm)
        while not stop.is_set():
            message = link.receive(0.1)
            if message is None:
                continue
            address = topics.parse(message.topic)
            frame = messages.frame_of(address.id, address.leaf, message.properties, message.payload, clock.now())
            if (receipt := workers.submit(frame)) is not None:
                answer(address.id, receipt)
        workers.close()
        link.close()


def _flush_s(folder: Path) -> float:
    """Seconds of one write of 100 KB over what is there, and its flush: what the disk alone takes."""
    file = folder / "flush"
    if not file.exists():
        file.write_bytes(bytes(100_000))
    fd = os.open(file, os.O_RDWR)
    try:
        began = stopwatch()
        os.pwrite(fd, os.urandom(16) * 6250, 0)
        os.fdatasync(fd)
        return stopwatch() - began
    finally:
        os.close(fd)


def _figures(seconds: list[float]) -> dict[str, Any]:
    ordered = sorted(seconds)
    return {
        "p50_ms": round(median(ordered) * 1e3, 2), "p99_ms": round(ordered[len(ordered) * 99 // 100] * 1e3, 2),
        "n": len(ordered),
    }  # fmt: skip


if __name__ == "__main__":
    if sys.argv[1:2] == ["--box"]:
        box(sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]), Path(sys.argv[5]))
    else:
        print(msgspec.json.encode(run(*map(float, sys.argv[1:]))).decode())
