"""A daemon that lives and does not hear: real processes, a real broker, a socket in systemd's place."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from edged import site as sites
from edged.broker import identity
from edged.broker.acl import Acl
from edged.broker.mosquitto import render_acl, render_conf
from edged.broker.server import BrokerThread
from edged.clock import SystemClock
from edged.storage import counters
from edged.storage.store import Store
from edged.wire import topics
from edged.wire.link import Endpoint
from edged.wire.paho import PahoLink

SITE = "plant-a"
SCRIPT = Path(__file__).with_name("deaf_daemon.py")
QUICK = """
[privacy]
faces = false
plates = false
planted_every_s = 0
deadline_s = {deadline}
children = 2
[storage]
min_free = 0
[watchdog]
every_s = {every}
patience_s = {patience}
loop_s = {loop}
"""
# What hangs with all threads alive: no watchdog that asks the threads sees it.
UNSEEN = ["link_dies", "link_hangs", "link_is_deaf", "journal_is_locked", "flush_hangs", "child_is_not_heard"]
FAULTS = [*UNSEEN, "store_is_locked", "worker_dies", "loop_hangs"]
SOME = ("link_is_deaf", "flush_hangs", "loop_hangs")  # for every day; the others take minutes
READY_S, RESTART_S = 60.0, 30.0


def each(faults: list[str]) -> list[Any]:
    return [pytest.param(f, marks=() if f in SOME else pytest.mark.slow) for f in faults]


class Systemd:
    """The notify socket, and how often and when it was told that all is well."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "notify")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.path)
        self.ready, self.fed = threading.Event(), 0
        self._more = threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        while True:
            try:
                text = self._socket.recv(4096).decode()
            except OSError:
                return
            if "READY=1" in text:
                self.ready.set()
            if "WATCHDOG=1" in text:
                with self._more:
                    self.fed += 1
                    self._more.notify_all()

    def is_fed(self, times: int, within_s: float) -> bool:
        """Whether it is told so often from now on."""
        with self._more:
            want = self.fed + times
            return self._more.wait_for(lambda: self.fed >= want, within_s)

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


def embedded(site: Path, port: int) -> BrokerThread:
    made = BrokerThread(Acl(SITE), port=port, tls=identity.paths(site / "keys", "server"))
    made.start()
    return made


class Daemon:
    def __init__(
        self,
        folder: Path,
        fault: str,
        *how: str,
        every: float,
        patience: float,
        loop: float,
        deadline: float,
        broker: Any,
    ):
        self._make_broker = broker
        clock = SystemClock()
        self.folder = folder / "site"
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        extra = QUICK.format(every=every, patience=patience, loop=loop, deadline=deadline)
        new = sites.NewSite(SITE, ("a", "b"), ("gate",), mqtt_port=self.port, extra=extra)
        config = sites.create(self.folder, new, clock)
        self.start_broker()
        self.systemd = Systemd(folder)
        environment = os.environ | {"NOTIFY_SOCKET": self.systemd.path}
        self.log = (folder / "log").open("w+")
        command = [sys.executable, str(SCRIPT), str(config), fault, *how]
        self.process = subprocess.Popen(
            command, env=environment, cwd=Path(__file__).parents[1], stdout=self.log, stderr=self.log
        )
        assert self.systemd.ready.wait(READY_S), self.said()
        assert self.systemd.is_fed(2, 10), self.said()

    def start_broker(self) -> None:
        self.broker = self._make_broker(self.folder, self.port)

    def breaks(self) -> None:
        self.process.send_signal(signal.SIGUSR1)

    def children(self) -> list[int]:
        tasks = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        return [int(pid) for task in tasks for pid in task.read_text().split()]

    def send_frame(self) -> None:
        """As a camera would; whoever waits for the receipt waits for a flush."""
        import cv2
        import numpy as np

        noise = np.random.default_rng(1).integers(0, 255, (90, 160, 3), np.uint8)
        picture = cv2.imencode(".jpg", noise)[1].tobytes()
        tls = identity.paths(self.folder / "keys", "gate")
        link = PahoLink(Endpoint("127.0.0.1", self.port, "gate", tls))
        assert link.wait_connected(10), link.disconnect_reason
        properties = {"id": "b-0", "ts": "1.0", "seq": "0", "boot": "b", "w": "160", "h": "90", "regions": "[]"}
        link.publish(topics.cam(SITE, "gate", "frame"), picture, properties=properties)
        link.close()

    def said(self) -> str:
        self.log.flush()
        return Path(self.log.name).read_text()

    def close(self) -> None:
        children = self.children() if self.process.poll() is None else []
        self.process.kill()
        self.process.wait()
        for pid in children:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.broker.stop()
        self.systemd.close()
        self.log.close()


@pytest.fixture
def start(tmp_path):
    started = []

    def make(fault, *how, every=0.5, patience=4.0, loop=10.0, deadline=4.0, broker=embedded):
        timing = {"every": every, "patience": patience, "loop": loop, "deadline": deadline}
        started.append(Daemon(tmp_path, fault, *how, **timing, broker=broker))
        return started[-1]

    yield make
    for daemon in started:
        daemon.close()


@pytest.mark.parametrize("fault", each(FAULTS))
def test_a_daemon_that_no_longer_hears_ends_by_itself(start, fault):
    daemon = start(fault, "quick")
    daemon.breaks()
    if fault == "flush_hangs":
        daemon.send_frame()
    assert daemon.process.wait(RESTART_S) == 1, daemon.said()


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_with_the_numbers_that_are_shipped_it_takes_at_most_30_seconds(start, fault):
    daemon = start(fault, every=5.0, patience=15.0, loop=25.0, deadline=15.0)
    assert daemon.systemd.is_fed(8, 20)
    daemon.breaks()
    if fault == "flush_hangs":
        daemon.send_frame()
    began = time.monotonic()
    assert daemon.process.wait(RESTART_S + 5) == 1, daemon.said()
    print(f"\n{fault}: ended after {time.monotonic() - began:.1f} s")
    assert time.monotonic() - began <= RESTART_S + 0.5


@pytest.mark.parametrize("fault", each(UNSEEN))
def test_the_watchdog_that_asks_the_threads_goes_on_to_be_fed(start, fault):
    """The control: the same harms under the watchdog that was here before."""
    daemon = start(fault, "old", "quick")
    daemon.breaks()
    if fault == "flush_hangs":
        daemon.send_frame()
    assert daemon.systemd.is_fed(8, 20), "it was to be deceived"
    assert daemon.process.poll() is None


def test_a_daemon_that_is_well_is_let_be_and_ends_when_told(start):
    daemon = start("nothing", "quick")
    daemon.breaks()
    assert daemon.systemd.is_fed(10, 30)
    daemon.process.terminate()
    assert daemon.process.wait(30) == 0, daemon.said()


def test_a_broker_that_is_away_restarts_nothing(start):
    daemon = start("nothing", "quick")
    daemon.broker.stop()
    assert daemon.systemd.is_fed(10, 30), daemon.said()
    daemon.start_broker()
    assert daemon.systemd.is_fed(5, 30), daemon.said()
    assert daemon.process.poll() is None


class Mosquitto:
    """The broker of production, with the two files that edged writes for it."""

    def __init__(self, site: Path, port: int) -> None:
        binary = shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/usr/bin")
        if binary is None:
            pytest.skip("mosquitto is not installed")
        acl, conf = site / "acl", site / "mosquitto.conf"
        acl.write_text(render_acl(SITE))
        acl.chmod(0o600)
        tls = identity.paths(site / "keys", "server")
        # root: mosquitto would otherwise become another user before it reads the key of this test
        conf.write_text(render_conf(host="127.0.0.1", port=port, tls=tls, acl_file=acl, data_dir=site, user="root"))
        self.process = subprocess.Popen([binary, "-c", str(conf)], stderr=subprocess.DEVNULL)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.mark.mosquitto
def test_mosquitto_hands_back_what_the_box_sends_itself(start):
    daemon = start("nothing", "quick", broker=Mosquitto)
    with Store.open(daemon.folder, clock=SystemClock(), site_key=None, readonly=True) as store:
        while not counters.get(store, "beats"):
            assert daemon.systemd.is_fed(1, 30), daemon.said()
    assert daemon.systemd.is_fed(5, 30), daemon.said()
    assert "connecting anew" not in daemon.said()


@pytest.mark.mosquitto
def test_a_broker_that_hangs_with_its_connections_open_restarts_nothing(start):
    daemon = start("nothing", "quick", broker=Mosquitto)
    assert daemon.systemd.is_fed(3, 30)
    daemon.broker.process.send_signal(signal.SIGSTOP)
    assert daemon.systemd.is_fed(20, 60), daemon.said()
    assert "connecting anew" in daemon.said()
    daemon.broker.process.send_signal(signal.SIGCONT)
    assert daemon.systemd.is_fed(5, 60), daemon.said()
    assert daemon.process.poll() is None


def test_scrub_children_that_stand_still_are_replaced_and_nothing_else_is(start):
    daemon = start("nothing", "quick")
    before = daemon.children()
    for pid in before:
        os.kill(pid, signal.SIGSTOP)
    assert daemon.systemd.is_fed(10, 30), daemon.said()
    assert not set(before) & set(daemon.children())
    assert daemon.process.poll() is None
