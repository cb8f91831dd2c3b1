"""A signed site on this machine: a broker as a process, the box's link, store and main loop in a thread, certificates for N
cameras.

Real: keys, certificates, metadata, broker over mutual TLS, rollout, chunks, ingest down to the flush. Stood in for: the
scrub children (bench/unchanged.py) and the gate, whose verdict is written as passed: what is shown here begins where it
has already been mistaken.
"""

from __future__ import annotations

import queue
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from unittest.mock import patch

from bench import unchanged
from bench.broker import await_port, cpu_of
from bench.fanout import embedded, mosquitto
from bench.fleets.faulty import CLASSES, PX, Model
from edged import site
from edged.box import Box
from edged.broker import identity
from edged.clock import SystemClock
from edged.config import check
from edged.daemon import box_rules
from edged.publish import release, trust
from edged.storage import candidates, cycles, models, reports, snapshots, verdicts
from edged.storage.seal import read_key
from edged.storage.store import Store
from edged.wire import topics
from edged.wire.link import Endpoint, Tls, Will
from edged.wire.messages import Frame, FrameReceipt
from edged.wire.paho import PahoLink
from edged.workers import Workers

SITE = "bench"
HARDWARE = "bench-cam"
BROKERS = {"embedded": embedded, "mosquitto": mosquitto}
ROLLOUT: Mapping[str, Any] = {"wait_s": 1.0, "timeout_s": 120.0}

T = TypeVar("T")


@dataclass(frozen=True)
class Seen:
    """A frame as the box got it. `model` its SHA-256, `labelled`: every region has a label; `at` monotonic seconds."""

    camera: str
    model: str
    labelled: bool
    at: float


class Place:
    """A context manager. What touches the store or the repository goes through `do`, into the main loop's thread."""

    def __init__(
        self, folder: Path, cameras: Sequence[str], broker: str = "embedded", *, rollout: Mapping[str, Any] = ROLLOUT,
        seen: Callable[[Seen], None] = lambda _: None,
    ) -> None:  # fmt: skip
        self.folder, self.cameras, self.clock = folder / "site", tuple(cameras), SystemClock()
        site.create(self.folder, site.NewSite(SITE, CLASSES, self.cameras, task="colour"), self.clock)
        keys = self.folder / "keys"
        with ExitStack() as closing:
            self._begin(broker, keys, rollout, seen, closing)
            self._closing = closing.pop_all()

    def _begin(
        self, broker: str, keys: Path, rollout: Mapping[str, Any], seen: Callable[[Seen], None], closing: ExitStack
    ) -> None:  # fmt: skip
        self.broker, self.port = BROKERS[broker](keys)
        closing.callback(self._end_broker)
        await_port(self.port)
        config = check({
            "server": {"site": SITE, "data_dir": str(self.folder)},
            "task": {"classes": list(CLASSES), "name": "colour"},
            "storage": {"min_free": 0}, "rollout": dict(rollout),
        })  # fmt: skip
        self.store = closing.enter_context(
            Store.open(self.folder, clock=self.clock, site_key=read_key(keys / "storage.key"))
        )
        self.repository = trust.Repository(self.folder / "tuf", keys / "tuf", self.clock)
        rules = box_rules(config)
        will = Will(topics.server(SITE, rules.server_id, "state"), b"offline")
        self.link = PahoLink(Endpoint("127.0.0.1", self.port, "server", self.tls("server")), will)
        closing.callback(self.link.close)
        if not self.link.wait_connected(60):
            raise SystemExit(self.link.disconnect_reason)
        self._seen, self._crop = seen, unchanged.crop(8000)
        self.box = Box(self.link, self.store, self.repository, self._submit, rules, self.clock)
        self.workers = Workers(
            self.store, [unchanged.Unchanged(self._crop)], self.box.answer, self.box.alarm, cameras=self.cameras,
            count=self.box.count,
        )  # fmt: skip
        closing.callback(self.workers.close)
        self.failure: BaseException | None = None
        self.longest_step_s = 0.0
        self._asked: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._loop = threading.Thread(target=self._forever, name="box")
        self._loop.start()
        closing.callback(self._end_loop)

    def __enter__(self) -> Place:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    def _end_loop(self) -> None:
        self._stop.set()
        self._loop.join()

    def _end_broker(self) -> None:
        self.broker.terminate()
        try:
            self.broker.wait(20)
        except subprocess.TimeoutExpired:
            self.broker.kill()
            self.broker.wait()
        if self.broker.stdout is not None:
            self.broker.stdout.close()

    def tls(self, name: str) -> Tls:
        return identity.paths(self.folder / "keys", name)

    def do(self, what: Callable[[], T]) -> T:
        """Run this between two steps of the main loop, and return what it returns or raise what it raises."""
        if self.failure is not None:
            raise SystemExit(f"the box met {self.failure!r}") from self.failure
        future: Future[T] = Future()
        self._asked.put((what, future))
        return future.result(120)

    def publish(self, model: Model, *, ways: bool = True) -> int:
        """Sign a release of it as if the gate had passed it, with shorter `ways` to it or without; returns its number."""
        with nullcontext() if ways else patch("edged.publish.ways.make", return_value=[]):
            return self.do(lambda: self._publish(model))

    def broker_cpu(self) -> float:
        """Seconds so far."""
        return cpu_of(self.broker.pid)

    def counter(self, name: str) -> int:
        return self.do(lambda: int(self.store.value("select coalesce(sum(n), 0) from counter where name = ?", (name,))))

    def _publish(self, model: Model) -> int:
        store = self.store
        snapshot = snapshots.add(store, {"classes": list(CLASSES), "train": [], "tune": [], "holdout": []})
        running = cycles.running(store)
        cycle = running.id if running else cycles.start(store, "fleet bench")
        sha256 = models.put_model(store, model.data)
        made = candidates.add(
            store, cycle, name=model.name, sha256=sha256, size=len(model.data), snapshot=snapshot, recipe={}
        )
        report = reports.add(store, made, "bench", {"known_answer": model.known_answer})
        verdicts.add(store, made, report, True, ["not judged: the bench signs it whatever it is"])
        described = release.Description("colour", CLASSES, PX, model.known_answer, (HARDWARE,))
        return release.publish(store, self.repository, candidate=made, description=described, author="bench")

    def _submit(self, frame: Frame) -> FrameReceipt | None:
        header = frame.header
        labelled = bool(header.regions) and all(r.label for r in header.regions)
        self._seen(Seen(frame.camera, header.model, labelled, self.clock.monotonic()))
        return self.workers.submit(frame)

    def _forever(self) -> None:
        try:
            while not self._stop.is_set():
                began = self.clock.monotonic()
                self.box.step(0.05)
                self.longest_step_s = max(self.longest_step_s, self.clock.monotonic() - began)
                while not self._asked.empty():
                    what, future = self._asked.get()
                    try:
                        future.set_result(what())
                    except BaseException as e:  # noqa: BLE001 - whoever asked gets it
                        future.set_exception(e)
        except BaseException as e:  # noqa: BLE001 - told by the next `do`
            self.failure = e
