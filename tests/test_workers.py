"""Many threads, many cameras, one store: each frame is stored once, and each is answered or still on its camera."""

from __future__ import annotations

import random
import threading
from collections import Counter

import cv2
import numpy as np
import pytest

from edged import ingest
from edged.admit import Limits
from edged.errors import Corrupt, Unavailable
from edged.storage import alarms, check, counters, frames
from edged.storage.store import Store
from edged.wire.messages import Frame, FrameHeader, FrameReceipt
from edged.workers import TOLD, Workers
from tests.site import FakeClock, Scrubber

RECORDED = 1000


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def store(tmp_path, clock):
    with Store.open(tmp_path / "site", clock=clock, site_key=bytes(32)) as opened:
        yield opened


class Slow(Scrubber):
    """Holds every frame until `go` is set; says when it holds one."""

    def __init__(self) -> None:
        super().__init__()
        self.go, self.holding = threading.Event(), threading.Event()
        self.scrubbed: Counter[str] = Counter()

    def scrub(self, frame, spots=None, *, blank=False):
        self.holding.set()
        assert self.go.wait(60)
        self.scrubbed[frame.header.id] += 1
        return super().scrub(frame, spots, blank=blank)


class Answers:
    """What the cameras hear."""

    def __init__(self) -> None:
        self.all: list[tuple[str, FrameReceipt]] = []
        self._changed = threading.Condition()

    def __call__(self, camera: str, receipt: FrameReceipt) -> None:
        with self._changed:
            self.all.append((camera, receipt))
            self._changed.notify_all()

    def wait(self, n: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.all) >= n, 60), f"{len(self.all)} of {n} answers"

    def of(self, status: str) -> list[tuple[str, str]]:
        return [(c, r.id) for c, r in self.all if r.status == status]


def jpeg(n: int) -> bytes:
    image = np.full((48, 64, 3), n % 200 + 30, np.uint8)
    image[: 1 + n % 40, ::2] = 200
    return cv2.imencode(".jpg", image)[1].tobytes()


def frame(n: int, camera: str = "gate", data: bytes = b"") -> Frame:
    return Frame(camera, FrameHeader(f"b-{n}", 1000.0 + n, n, "b", 64, 48), data or jpeg(n))


def test_a_frame_sent_again_while_the_first_is_scrubbed_is_answered_once(store, clock):
    slow, answers = Slow(), Answers()
    workers = Workers(store, [slow], answers, pytest.fail, clock=clock)
    assert workers.submit(frame(0)) is None
    assert slow.holding.wait(60)
    again = [threading.Thread(target=workers.submit, args=(frame(0),)) for _ in range(16)]
    for thread in again:
        thread.start()
    for thread in again:
        thread.join()
    slow.go.set()
    workers.close()
    assert [(r.id, r.status) for _, r in answers.all] == [("b-0", "stored")]
    assert slow.scrubbed == {"b-0": 1}
    assert frames.count(store) == 1
    assert workers.held_bytes() == 0


def test_another_picture_under_an_id_that_is_under_way_is_refused(store, clock):
    slow, answers = Slow(), Answers()
    workers = Workers(store, [slow], answers, pytest.fail, clock=clock)
    workers.submit(frame(0))
    assert slow.holding.wait(60)
    other = workers.submit(frame(0, data=jpeg(1)))
    assert (other.status, other.sha256) == ("refused", ingest.sha256(frame(1)))
    slow.go.set()
    workers.close()
    assert [(r.id, r.status, r.sha256) for _, r in answers.all] == [("b-0", "stored", ingest.sha256(frame(0)))]


def test_copies_that_meet_in_one_group_commit_are_one_row_and_one_receipt(store):
    """No waiting room before the store: every thread brings the same frame at once."""
    scrubber, start, receipts = Scrubber(), threading.Barrier(8), []

    def bring() -> None:
        scrubbed = scrubber.scrub(frame(0))
        start.wait(60)
        receipts.append(frames.add(store, frame(0), scrubbed))

    threads = [threading.Thread(target=bring) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(receipts) == 8
    assert len(set(receipts)) == 1
    assert frames.count(store) == 1
    assert store.value("select count(*) from object") == 1
    assert check.run(store) == []


def replay(store: Store, recorded: list[Frame], clock: FakeClock) -> Answers:
    """All of them through two workers; those told to come again do, at once."""
    answers = Answers()
    wide = Limits(frames_per_s=1e6, burst=1e6, bytes_per_s=1e12, frames=100_000, camera_frames=100_000)
    workers = Workers(store, [Scrubber(), Scrubber()], answers, pytest.fail, wide, clock=clock)
    for f in recorded:
        assert workers.submit(f) is None
    workers.close()
    return answers


@pytest.mark.timeout(300)
def test_a_thousand_publishes_sent_again_in_any_order_twice_change_nothing(store, clock):
    """SECURITY row 6."""
    recorded = [frame(n, camera) for n in range(RECORDED // 4) for camera in ("gate", "yard", "door", "shed")]
    first = replay(store, recorded, clock)
    rows = tuple(store.value(f"select count(*) from {table}") for table in ("frame", "object", "camera"))
    receipts = {(c, r.id): r for c, r in first.all}
    assert rows[0] == len(receipts) == RECORDED
    for seed in (11, 12):
        random.Random(seed).shuffle(recorded)
        again = replay(store, recorded, clock)
        assert {(c, r.id): r for c, r in again.all} == receipts
        print(f"seed {seed}: {len(again.all)} answers, {frames.count(store)} frames")
    assert tuple(store.value(f"select count(*) from {table}") for table in ("frame", "object", "camera")) == rows
    assert counters.get(store, "duplicate") == 2 * RECORDED
    assert check.run(store) == []


def test_the_control_a_build_that_forgets_what_it_answered_scrubs_again(store, clock, monkeypatch):
    """Neither the waiting room nor `known`: what is left is the store's own key, and that is no receipt for nothing."""
    monkeypatch.setattr(ingest, "known", lambda *_: None)
    monkeypatch.setattr("edged.admit.Room.held", lambda *_: None)
    slow, answers = Slow(), Answers()
    slow.go.set()
    workers = Workers(store, [slow], answers, pytest.fail, clock=clock)
    for _ in range(3):
        workers.submit(frame(0))
    workers.close()
    assert slow.scrubbed["b-0"] == 3
    assert len(answers.all) == 3


def test_a_flood_is_told_to_come_again_and_the_others_lose_nothing(store, clock):
    """SECURITY row 9, in the real threads: the flooding camera is one of four, and never waits."""
    slow, answers = Slow(), Answers()
    limits = Limits(frames_per_s=5, burst=20, frames=24, camera_frames=16)
    workers = Workers(store, [slow], answers, pytest.fail, limits, clock=clock, chance=random.Random(1))
    turned_away = [r for n in range(500) if (r := workers.submit(frame(n, "flood")))]
    honest = [frame(n, camera) for n in range(6) for camera in ("gate", "yard", "door")]
    assert [workers.submit(f) for f in honest] == [None] * len(honest)
    assert workers.waiting() <= limits.frames
    slow.go.set()
    workers.close()
    stored = answers.of("stored")
    assert sorted(s for s in stored if s[0] != "flood") == sorted((f.camera, f.header.id) for f in honest)
    assert {r.status for r in turned_away} == {"retry"}
    assert len({r.retry_after_s for r in turned_away}) > 50, "spread over time"
    assert sum("share" in r.detail for r in turned_away) == TOLD.burst, "what it does not heed it is not told for ever"
    assert all(0 < r.retry_after_s <= 45 for r in turned_away)
    assert workers.held_bytes() == 0
    total = counters.all(store)
    answered = len(turned_away) + sum(c == "flood" for c, _ in [*stored, *answers.of("retry")])
    assert answered + total["unanswered"] == 500
    assert answered < 220, "who was told to wait 30 s and goes on is not worth a word"
    assert total["retry:rate"] + total["retry:room"] == len(turned_away) + len(answers.of("retry"))


def test_a_full_disk_makes_cameras_wait_longer_and_longer_and_is_an_alarm_until_a_frame_is_stored(
    store, clock, monkeypatch
):
    answers, real, tries = Answers(), frames.add, []

    def full(*_):
        tries.append(clock.now())
        raise Unavailable("disk full", code="disk_full")

    monkeypatch.setattr(frames, "add", full)
    workers = Workers(store, [Scrubber()], answers, pytest.fail, clock=clock, chance=random.Random(1))
    for n, wait in enumerate([1, 2, 4, 8, 16, 20, 20, 20]):
        assert workers.submit(frame(n)) is None
        answers.wait(n + 1)
        assert wait <= answers.all[-1][1].retry_after_s <= 1.5 * wait <= 30, (
            "30 s after the disk is well all send again"
        )
        at_once = workers.submit(frame(100 + n))
        assert (at_once.status, at_once.detail) == ("retry", "disk full"), "nothing is scrubbed in vain meanwhile"
        assert wait <= at_once.retry_after_s <= 1.5 * wait
        clock.sleep(wait + 0.01)
    assert len(tries) == 8
    assert [a.code for a in alarms.standing(store)] == ["disk_full"]
    monkeypatch.setattr(frames, "add", real)
    assert workers.submit(frame(0)) is None
    answers.wait(9)
    assert answers.all[-1][1].status == "stored"
    assert alarms.standing(store) == []
    assert workers.submit(frame(1)) is None
    workers.close()


@pytest.mark.parametrize("code", ["disk_failed", "disk_full"])
def test_when_the_disk_takes_no_alarm_either_the_cameras_are_still_answered(store, clock, monkeypatch, code):
    def fails(*_):
        raise Unavailable("it took a write badly", code=code)

    monkeypatch.setattr(frames, "add", fails)
    monkeypatch.setattr(alarms, "sound", fails)
    answers = Answers()
    workers = Workers(store, [Scrubber()], answers, pytest.fail, clock=clock)
    workers.submit(frame(0))
    workers.close()
    assert [r.status for _, r in answers.all] == ["retry"]


def test_damage_stops_the_store_and_frees_the_room(store, clock, monkeypatch):
    def damaged(*_):
        raise Corrupt("a row is not what was written")

    raised: list[BaseException] = []
    monkeypatch.setattr(frames, "add", damaged)
    workers = Workers(store, [Scrubber()], lambda *_: pytest.fail("no receipt"), raised.append, clock=clock)
    for n in range(3):
        workers.submit(frame(n))
    workers.close()
    assert [type(e) for e in raised] == [Corrupt] * 3
    assert workers.held_bytes() == 0


def test_a_line_forgets_cameras_that_nothing_waits_of(store, clock, monkeypatch):
    monkeypatch.setattr(ingest, "STREAMS", 4)
    line = ingest.Line(store, Scrubber(), ingest.Rules(), 0.5, clock)
    for i in range(12):
        list(line.put(frame(i, f"c{i}")))
        clock.sleep(1.0)
        assert [f.camera for f, _ in line.overdue()] == [f"c{i}"]
    assert list(line._streams) == ["c8", "c9", "c10", "c11"]
    assert list(line._last) == ["c8", "c9", "c10", "c11"]
