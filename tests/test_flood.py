"""One camera says everything it can, as fast as it can; the others, and the box, go on. SECURITY rows 8, 9, 20."""

from __future__ import annotations

import logging
import random

import pytest

from edged import site as sites
from edged.admit import Limits
from edged.box import TALK, Box
from edged.config import check
from edged.daemon import box_rules
from edged.publish import trust
from edged.storage import cameras, counters, frames
from edged.storage.seal import read_key
from edged.storage.store import Store
from edged.wire import messages, topics
from edged.wire.messages import CameraInfo, CameraStats, FrameHeader, FrameReceipt
from edged.wire.signature import Signer
from edged.workers import Workers
from tests.memory_link import MemoryBroker
from tests.site import SITE, FakeClock, Scrubber
from tests.test_workers import jpeg

HONEST = ("gate", "yard", "door")
FLOOD = 1000
EACH = 8


class House:
    """A box on an in-memory cable with real threads of ingest, and cameras that are only their topics."""

    def __init__(self, folder, limits: Limits, **sections) -> None:
        self.clock, self.broker = FakeClock(), MemoryBroker()
        sites.create(folder, sites.NewSite(SITE, ("a", "b"), (*HONEST, "flood")), self.clock)
        config = check({"server": {"site": SITE, "data_dir": str(folder)}, "task": {"classes": ["a", "b"]},
                        "storage": {"min_free": 0}} | sections)  # fmt: skip
        self.store = Store.open(folder, clock=self.clock, site_key=read_key(folder / "keys" / "storage.key"))
        repo = trust.Repository(folder / "tuf", folder / "keys" / "tuf", self.clock)
        self.box = Box(self.broker.link("server"), self.store, repo, lambda f: self.workers.submit(f),
                       box_rules(config), self.clock)  # fmt: skip
        self.workers = Workers(
            self.store, [Scrubber()], self.box.answer, self.box.alarm, limits, cameras=HONEST, clock=self.clock,
            count=self.box.count, chance=random.Random(1),
        )  # fmt: skip
        self.links = {}
        for camera in (*HONEST, "flood"):
            self.links[camera] = self.broker.link(camera)
            self.links[camera].subscribe(topics.cam(SITE, camera, "receipt"))

    def say(self, camera, leaf, payload, properties=None):
        self.links[camera].publish(topics.cam(SITE, camera, leaf), payload, properties=properties)

    def say_signed(self, camera, leaf, payload):
        keys = self.store.data_dir / "keys"
        signer = Signer(*((keys / f"cam-{camera}{end}").read_bytes() for end in (".pem", ".key")))
        self.say(camera, leaf, payload, signer.properties(topics.cam(SITE, camera, leaf), payload))

    def send(self, camera, n, data=None, **changed):
        header = FrameHeader(f"b-{n}", 1000.0 + n, n, "b", 64, 48).to_properties()
        self.say(camera, "frame", jpeg(n) if data is None else data, header | changed)

    def heard(self, camera) -> list[FrameReceipt]:
        found = []
        while (message := self.links[camera].receive(0)) is not None:
            found.append(messages.decode(message.payload, FrameReceipt))
        return found

    def step(self, n=1):
        for _ in range(n):
            self.box.step(0)

    def close(self):
        self.workers.close()
        self.store.close()


@pytest.fixture
def house(tmp_path):
    made = House(tmp_path / "site", Limits(frames_per_s=10, burst=20, frames=32, camera_frames=16))
    yield made
    made.close()


def test_all_that_one_camera_can_say_costs_the_others_no_frame(house, caplog):
    caplog.set_level(logging.WARNING)
    for n in range(FLOOD):
        house.send("flood", n)
        house.send("flood", n, seq="nan")
        house.say("flood", "stats", b"[" * 1000)
        house.say("flood", "info", b"{}")
        house.say("flood", "model/want", b'{"sha256": 1}')
        house.say("flood", "no/such/leaf", b"x")
        if n < EACH:
            for camera in HONEST:
                house.send(camera, n)
    waiting = {(camera, f"b-{n}") for camera in HONEST for n in range(EACH)}
    retries = 0
    for _ in range(4000):
        house.box.step(0.01)
        house.clock.sleep(0.01)
        for camera in HONEST:
            for receipt in house.heard(camera):
                if receipt.status == "retry":
                    retries += 1
                    house.send(camera, int(receipt.id[2:]))
                else:
                    assert receipt.status == "stored"
                    waiting.discard((camera, receipt.id))
        if not waiting and not house.box._link.received:
            break
    assert not waiting
    assert retries == 0, "they kept to their share"
    told = house.heard("flood")
    house.workers.close()
    house.box.step(0)
    total = counters.all(house.store)
    print({k: v for k, v in total.items() if k.startswith(("refused", "retry", "frames"))}, "honest retries", retries)
    assert total["refused:bad_header"] == FLOOD
    assert total["retry:rate"] + total["unanswered"] > FLOOD / 2
    assert total["unanswered"] > 0
    assert {r.status for r in told} <= {"retry", "stored"}
    assert all(r.retry_after_s > 0 for r in told if r.status == "retry")
    assert total["refused:too_often"] > 3 * FLOOD - 3 * TALK.burst
    assert frames.count(house.store) >= len(HONEST) * EACH
    assert len(caplog.records) < 100, "a hostile camera does not fill the log"


def test_a_camera_that_says_its_birth_over_and_over_is_heard_no_more_than_it_may(house, monkeypatch):
    written = []
    monkeypatch.setattr(cameras, "set_info", lambda store, camera, info: written.append(camera))
    info = messages.encode(CameraInfo("b", "1", "x", (), 1))
    for _ in range(FLOOD):
        house.say_signed("flood", "info", info)
    house.say_signed("gate", "info", info)
    house.step(30)
    assert written.count("flood") == TALK.burst
    assert written.count("gate") == 1


def test_what_a_camera_says_of_time_has_no_effect_on_when_its_frames_go(house):
    """SECURITY row 24: camera time is data."""
    now = house.clock.now()
    for n, ts in enumerate(("0.0", "1e11", "1.7e9")):
        house.send("gate", n, ts=ts)
    house.say("gate", "stats", messages.encode(CameraStats(1e308, 0.0, 0.0, {}, 0, 0, 0)))
    house.step(3)
    house.workers.close()
    rows = house.store.rows("select f.ts, f.received, o.created from frame f join object o on o.id = f.object")
    assert sorted(r["ts"] for r in rows) == [0.0, 1.7e9, 1e11]
    assert {r["received"] for r in rows} == {r["created"] for r in rows} == {now}
