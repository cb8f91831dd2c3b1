"""The time that a camera reckons expiry from: wrong clocks, no clock, a box that lies about the time."""

import pytest

from agent.metadata import BUILT, FAR_S, Inbox, Trust
from edged.errors import Refused
from edged.publish import trust
from edged.wire.messages import FrameReceipt

DAY = 86400.0
RIGHT = 1_800_000_000.0
WRONG = {"1970": 100.0, "a day back": RIGHT - DAY, "ten years on": RIGHT + 3650 * DAY}


class Site:
    """A box with the right time that signs, and a camera whose clock shows `camera`."""

    def __init__(self, folder, clock):
        self.folder, self.clock, self.camera = folder, clock, RIGHT
        clock.t = RIGHT
        trust.make_keys(folder / "keys")
        self.repo = trust.Repository(folder / "tuf", folder / "keys", clock)
        self.repo.init()
        self.number = 0
        self.start()

    def start(self):
        """The camera, as after a restart: it knows what is on its disk."""
        root = (self.folder / "tuf" / "1.root.json").read_bytes()
        self.trust = Trust(self.folder / "camera", root, lambda: self.camera)

    def sign(self):
        """A new release; returns its path and the metadata files of this moment."""
        self.number += 1
        path = f"cars/{self.number}.onnx"
        self.repo.add_target(path, b"model %d" % self.number, {})
        return path, self.repo.files()

    def takes(self, path, files):
        """True, or the sentence of the refusal."""
        inbox = Inbox()
        for name, data in files.items():
            inbox.put(name, data)
        try:
            self.trust.verify(inbox, path)
        except Refused as e:
            return str(e)
        return True


@pytest.fixture
def site(tmp_path, make):
    return Site(tmp_path, make.clock())


@pytest.mark.parametrize("restart", [False, True], ids=["while it runs", "from the start"])
@pytest.mark.parametrize("clock", WRONG)
def test_with_a_wrong_clock_nothing_older_is_taken_and_with_the_right_one_all_goes_on(site, clock, restart):
    first, old = site.sign()
    second, newer = site.sign()
    assert site.takes(second, newer) is True
    site.camera = WRONG[clock]
    if restart:
        site.start()
    assert "older" in site.takes(first, old) or "expired" in site.takes(first, old)
    third, newest = site.sign()
    now = site.takes(third, newest)
    assert now is True if clock != "ten years on" else "expired" in now and "2037" in now
    site.camera = RIGHT
    assert site.takes(*site.sign()) is True
    assert "older" in site.takes(first, old)


def test_before_anything_was_heard_it_is_at_least_the_time_of_the_build(site):
    site.clock.t = site.camera = 1000.0  # box and camera think that it is 1970
    path, files = site.sign()
    said = site.takes(path, files)
    assert "expired" in said
    assert "2026-01-01" in said
    site.clock.t = RIGHT  # the box is right again, the camera still has no clock
    assert site.takes(*site.sign()) is True


def test_what_was_trusted_says_how_late_it_is_at_least(site):
    site.camera = 100.0
    assert site.takes(*site.sign()) is True
    assert site.trust._time() == RIGHT + 7 * DAY - FAR_S  # it expires in 7 days, and nothing lives longer than FAR_S
    site.start()
    assert site.trust._time() == RIGHT + 7 * DAY - FAR_S


@pytest.mark.parametrize("told", [True, False], ids=["", "control"])
def test_a_camera_without_a_clock_learns_from_receipts_what_has_expired(site, told):
    site.camera = 100.0
    path, files = site.sign()
    if told:
        site.trust.hear(RIGHT + 8 * DAY)
        site.start()
    assert (site.takes(path, files) is True) != told


def test_a_receipt_weeks_ahead_of_a_clock_that_may_be_right_is_not_believed(site):
    site.trust.hear(RIGHT + FAR_S + 1)
    assert site.trust._time() == RIGHT
    assert site.takes(*site.sign()) is True


@pytest.mark.parametrize(
    ("camera", "ahead"), [(RIGHT, 20 * DAY), (100.0, 20 * DAY), (100.0, 3650 * DAY)],
    ids=["with a clock", "without one", "without one, ten years"],
)  # fmt: skip
@pytest.mark.parametrize("restart", [False, True], ids=["", "restarted"])
def test_a_box_that_lied_about_the_time_stops_updates_only_until_an_honest_receipt(site, camera, ahead, restart):
    path, files = site.sign()
    assert site.takes(path, files) is True
    site.camera = camera
    site.trust.hear(RIGHT + ahead)
    if restart:
        site.start()
    after = site.sign()
    assert "expired" in site.takes(*after)
    site.trust.hear(RIGHT + 60.0)
    assert site.takes(*after) is True


@pytest.mark.parametrize("camera", [RIGHT, 100.0], ids=["with a clock", "without one"])
def test_a_box_whose_clock_was_ten_days_ahead_is_heard_again_as_soon_as_it_is_right(site, camera):
    """What a receipt said is not kept as the time at which metadata was trusted."""
    site.camera = camera
    site.clock.t = RIGHT + 10 * DAY
    site.trust.hear(site.clock.t)
    assert site.takes(*site.sign()) is True
    site.clock.t = RIGHT
    site.trust.hear(site.clock.t)
    assert site.takes(*site.sign()) is True
    site.start()
    assert site.takes(*site.sign()) is True


def test_when_nobody_ever_says_the_right_time_again_the_right_clock_is_enough(site):
    site.camera = 100.0
    site.trust.hear(RIGHT + 3650 * DAY)
    assert "expired" in site.takes(*site.sign())
    site.camera = RIGHT
    site.start()
    assert site.takes(*site.sign()) is True


@pytest.mark.parametrize("ts", [0.0, 1.0, BUILT - 1.0])
def test_a_box_that_says_no_time_or_one_before_the_build_is_not_heard(site, ts):
    site.trust.hear(RIGHT + DAY)
    site.trust.hear(ts)
    assert site.trust._time() == RIGHT + DAY


@pytest.mark.parametrize("content", [b"", b"nan", b"1e400", b"\xff\xfe", b"9" * 5000])
def test_floors_that_do_not_read_back_stop_nothing(site, content):
    for name in ("time-floor", "last-receipt"):
        (site.folder / "camera" / name).write_bytes(content)
    site.start()
    assert site.takes(*site.sign()) is True


def test_the_disk_is_written_once_an_hour_and_a_full_one_stops_nothing(site, monkeypatch):
    from agent import metadata

    written = []
    monkeypatch.setattr(metadata.durable, "write", lambda path, data: written.append(path.name))
    for second in range(0, 7300, 10):
        site.trust.hear(RIGHT + second)
    assert written == ["last-receipt"] * 3

    def full(_path, _data):
        raise OSError(28, "no space")

    monkeypatch.setattr(metadata.durable, "write", full)
    site.trust.hear(RIGHT + DAY)
    assert site.trust._time() == RIGHT + DAY


def test_receipts_without_a_time_are_read_as_before():
    from edged.wire.messages import decode

    old = b'{"id":"b-1","sha256":"%s","status":"stored"}' % (b"0" * 64)
    assert decode(old, FrameReceipt).ts == 0.0
