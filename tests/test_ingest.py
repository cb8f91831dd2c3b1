"""WALK 1 over time: frames wait a moment, so that what one shows covers those before it; none is lost for that."""

from __future__ import annotations

import threading

import cv2
import numpy as np
import pytest

from edged.errors import Refused, Unavailable
from edged.ingest import Line
from edged.privacy.detect import Found, View
from edged.privacy.picture import GREY
from edged.privacy.scrub import Withheld
from edged.privacy.track import Rules
from edged.storage import alarms, counters, frames
from edged.storage.store import Store
from edged.wire.messages import Frame, FrameHeader, Region
from edged.workers import Workers
from tests.site import FakeClock, Scrubber

W, H = 320, 192
RED = (0, 0, 255)
PLACE = (96, 64, 48, 48)  # where the red square is, unless it moves


class RedSquare:
    """Finds a red square; `blind` names frames (by call) in which it does not."""

    kind, start, keep = "face", 0.5, 0.3

    def __init__(self) -> None:
        self.calls = 0
        self.blind: set[int] = set()

    def find(self, view: View) -> list[Found]:
        self.calls += 1
        if self.calls - 1 in self.blind:
            return []
        red = (view.image[..., 2] > 200) & (view.image[..., 0] < 90)
        rows, columns = np.nonzero(red)
        if not len(rows):
            return []
        x, y = int(columns.min()), int(rows.min())
        return [Found("face", x, y, int(columns.max()) - x + 1, int(rows.max()) - y + 1, 0.9)]


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def store(tmp_path, clock):
    with Store.open(tmp_path / "site", clock=clock, site_key=bytes(32)) as opened:
        yield opened


@pytest.fixture
def detector():
    return RedSquare()


@pytest.fixture
def scrubber(detector):
    return Scrubber([detector])


@pytest.fixture
def line(store, scrubber, clock):
    return Line(store, scrubber, Rules(back=5, hold=10, gap_s=1.0), 0.5, clock)


def frame(n: int, *, red: bool = True, ts: float | None = None, camera: str = "gate", kind: str = "frame", x: int = 96):
    image = np.random.default_rng(n).integers(60, 160, (H, W, 1), np.uint8).repeat(3, axis=2)
    if red:
        cv2.rectangle(image, (x, 64), (x + 47, 111), RED, -1)
    jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
    header = FrameHeader(f"b-{n}", n * 0.1 if ts is None else ts, n, "b", W, H, regions=(Region(64, 32, 128, 128),))
    return Frame(camera, header, jpeg, kind)


def pixels(store: Store, n: int, camera: str = "gate") -> np.ndarray:
    (row,) = store.rows("select object from frame where camera = ? and id = ?", (camera, f"b-{n}"))
    from edged.storage import objects

    return cv2.imdecode(np.frombuffer(objects.read(store, row["object"]), np.uint8), cv2.IMREAD_COLOR)


def shows_red(image: np.ndarray) -> bool:
    return bool(((image[..., 2] > 180) & (image[..., 0] < 110)).any())


def put(line: Line, *given: Frame) -> list[tuple[str, str]]:
    return [(f.header.id, receipt.status) for one in given for f, receipt in line.put(one)]


def test_a_frame_waits_for_later_ones_and_comes_out_in_order(line, clock):
    assert put(line, *(frame(i) for i in range(5))) == []
    assert len(line.waiting()) == 5
    assert put(line, frame(5), frame(6)) == [("b-0", "stored"), ("b-1", "stored")]
    assert [f.header.id for f, _ in line.finish()] == ["b-2", "b-3", "b-4", "b-5", "b-6"]
    assert not line.waiting()
    assert line.due_in() is None


def test_what_a_later_frame_shows_is_covered_in_those_before(line, detector, store):
    detector.blind = {0, 1, 2, 3}
    put(line, *(frame(i) for i in range(10)))
    list(line.finish())
    assert [shows_red(pixels(store, i)) for i in range(10)] == [False] * 10
    assert (pixels(store, 0)[64:112, 96:144] == GREY).all()


def test_what_is_lost_stays_covered(line, detector, store):
    detector.blind = {2, 3, 4, 5, 6, 7}
    put(line, *(frame(i) for i in range(8)))
    list(line.finish())
    assert not any(shows_red(pixels(store, i)) for i in range(8))


def test_the_control_without_a_delay_leaks_what_the_detector_missed(store, scrubber, detector, clock):
    detector.blind = {0, 3}
    line = Line(store, scrubber, Rules(), 0.0, clock)
    assert put(line, *(frame(i) for i in range(5))) == [(f"b-{i}", "stored") for i in range(5)]
    assert [shows_red(pixels(store, i)) for i in range(5)] == [True, False, False, True, False]


def test_a_frame_that_nothing_follows_waits_no_longer_than_it_must(line, clock):
    put(line, frame(0))
    assert line.due_in() == pytest.approx(0.5)
    clock.sleep(0.3)
    assert list(line.overdue()) == []
    put(line, frame(1))
    clock.sleep(0.21)
    assert [f.header.id for f, _ in line.overdue()] == ["b-0"]
    assert line.due_in() == pytest.approx(0.29)


def test_a_slow_look_does_not_cut_the_delay_short(store, detector, clock):
    """Looks take longer than the delay; the frames that follow are queued already."""
    detector.blind = {0, 1, 2}
    slow = Scrubber([detector])
    look = slow.look
    slow.look = lambda f: (clock.sleep(0.7), look(f))[1]
    entered, go = threading.Event(), threading.Event()
    answered: list[str] = []
    workers = Workers(store, [slow], lambda camera, r: answered.append(r.id), lambda e: None, delay_s=0.5,
                      clock=clock)  # fmt: skip

    def hold(line):
        entered.set()
        go.wait(20)
        return iter(())

    assert workers.submit_job(0, hold)
    entered.wait(20)
    for i in range(5):
        workers.submit(frame(i))
    go.set()
    workers.close()
    assert answered == [f"b-{i}" for i in range(5)]
    assert not any(shows_red(pixels(store, i)) for i in range(5))


def test_frames_far_apart_have_nothing_to_do_with_each_other(line, store):
    assert put(line, frame(0), frame(1, red=False, ts=60.0)) == [("b-0", "stored")]
    list(line.finish())
    assert not (pixels(store, 1)[64:112, 96:144] == GREY).all()


def test_a_camera_whose_clock_went_back_starts_anew(line):
    assert put(line, frame(0, ts=50.0), frame(1, ts=3.0)) == [("b-0", "stored")]


def test_cameras_do_not_cover_for_each_other(line, store):
    put(line, frame(0), frame(0, red=False, camera="yard"))
    list(line.finish())
    assert (pixels(store, 0, "gate")[64:112, 96:144] == GREY).all()
    assert not (pixels(store, 0, "yard")[64:112, 96:144] == GREY).all()


def test_a_frame_that_is_sent_again_while_it_waits_is_answered_once(line, store):
    assert put(line, frame(0), frame(0), frame(0)) == []
    assert [(f.header.id, r.status) for f, r in line.finish()] == [("b-0", "stored")]
    assert put(line, frame(0)) == [("b-0", "stored")], "known by now"
    assert frames.count(store) == 1
    assert counters.all(store)["duplicate"] == 1


def test_a_look_that_fails_withholds_its_frame_only(line, scrubber, store):
    put(line, frame(0), frame(1))
    scrubber.fault = Withheld("the detector is ill", code="detector")
    assert put(line, frame(2)) == [("b-2", "withheld")]
    scrubber.fault = None
    put(line, frame(3))
    assert [(f.header.id, r.status) for f, r in line.finish()] == [(f"b-{i}", "stored") for i in (0, 1, 3)]
    assert counters.all(store)["withheld:detector"] == 1


def test_a_cover_that_fails_withholds_its_frame(line, scrubber, store):
    put(line, frame(0))
    scrubber.fault = Withheld("late", code="timeout")
    assert [(f.header.id, r.status) for f, r in line.finish()] == [("b-0", "withheld")]
    assert frames.count(store) == 0


def test_a_child_that_is_away_leaves_the_frame_with_its_camera(line, scrubber):
    scrubber.fault = Unavailable("no child", code="child_down")
    assert put(line, frame(0)) == [("b-0", "retry")]
    scrubber.fault = None
    put(line, frame(0))
    assert [(f.header.id, r.status) for f, r in line.finish()] == [("b-0", "stored")]


def test_an_alarm_stands_while_no_child_can_start(line, scrubber, store):
    scrubber.fault = Unavailable("the face network is not installed", code="child_down")
    put(line, frame(0))
    put(line, frame(1))
    (alarm,) = alarms.standing(store)
    assert (alarm.code, alarm.text) == ("scrub_down", "no picture can be taken: the face network is not installed")
    scrubber.fault = None
    put(line, frame(0))
    assert alarms.standing(store) == [alarm], "looked at, not yet stored"
    list(line.finish())
    assert alarms.standing(store) == []


def test_a_store_that_cannot_be_asked_leaves_the_frame_with_its_camera(line, monkeypatch):
    def away(*_):
        raise Unavailable("the disk failed", code="disk_failed")

    with monkeypatch.context() as failed:
        failed.setattr(frames, "find_receipt", away)
        assert put(line, frame(1)) == [("b-1", "retry")]


def test_what_can_never_be_taken_is_refused_at_once(line, scrubber):
    scrubber.fault = Refused("no JPEG", code="not_jpeg")
    assert put(line, frame(0)) == [("b-0", "refused")]
    assert not line.waiting()


def test_a_region_picture_does_not_wait(line):
    assert put(line, frame(0, kind="roi")) == [("b-0", "stored")]


def test_regions_are_cut_after_everything_is_covered(line, detector, store):
    detector.blind = {0}
    put(line, frame(0), frame(1))
    list(line.finish())
    from edged.storage import samples

    for sample in samples.unlabelled(store, "gate", 10):
        crop = cv2.imdecode(np.frombuffer(samples.crop(store, sample.id), np.uint8), cv2.IMREAD_COLOR)
        assert not shows_red(crop)


def test_workers_answer_every_frame_of_every_camera_and_finish_what_waits(store):
    answered: list[tuple[str, str, str]] = []
    lock = threading.Lock()

    def answer(camera, receipt):
        with lock:
            answered.append((camera, receipt.id, receipt.status))

    workers = Workers(
        store, [Scrubber([RedSquare()]) for _ in range(2)], answer, lambda e: None, delay_s=5.0
    )  # fmt: skip
    for i in range(12):
        for camera in ("gate", "yard", "door"):
            assert workers.submit(frame(i, camera=camera)) is None
    workers.close()
    for camera in ("gate", "yard", "door"):
        assert [(i, s) for c, i, s in answered if c == camera] == [(f"b-{i}", "stored") for i in range(12)]
    assert frames.count(store) == 36
