"""A mask painted while the daemon runs: the next picture has grey there, in the picture and in the crops on disk."""

import re

import cv2
import numpy as np
import pytest

from edged import site as sites
from edged.config import check
from edged.daemon import start_scrubbers
from edged.engine import patterns
from edged.errors import Unavailable
from edged.ingest import Line
from edged.privacy import selftest
from edged.privacy.track import Rules
from edged.storage import frames, masks, samples
from edged.storage.seal import read_key
from edged.storage.store import Store
from edged.web.app import create_app
from edged.wire.messages import Frame, FrameHeader, Region
from tests.site import FakeClock

LEFT = ((0.0, 0.0), (0.5, 0.0), (0.5, 1.0), (0.0, 1.0))
RIGHT = [[0.75, 0.0], [1.0, 0.0], [1.0, 1.0], [0.75, 1.0]]
WIDTH, HEIGHT = 640, 352
LEFT_HALF, RIGHT_QUARTER = (0, 0, 320, 352), (482, 0, 158, 352)  # at 480 a decoder mixes in the neighbour's colour


class Box:
    """A site with one real scrub child, and the page's own connection to its store."""

    def __init__(self, folder):
        self.clock = FakeClock()
        sites.create(folder, sites.NewSite("plant-a", ("a", "b"), ("gate",)), self.clock)
        config = check({
            "server": {"site": "plant-a", "data_dir": str(folder)}, "task": {"classes": ["a", "b"]},
            "camera": [{"id": "gate", "mask": [{"name": "window", "polygon": RIGHT}]}, {"id": "yard"}],
            "privacy": {"faces": False, "plates": False, "children": 1, "deadline_s": 60},
        })  # fmt: skip
        key = read_key(folder / "keys" / "storage.key")
        self.store = Store.open(folder, clock=self.clock, site_key=key)
        self.page = Store.open(folder, clock=self.clock, site_key=None)
        (scrubber,) = start_scrubbers(config, masks.Painted(self.store).of)
        self.line = Line(self.store, scrubber, Rules(hold=2, back=1, gap_s=5.0), 1.0, self.clock)
        self.n = 0
        self.jpeg = cv2.imencode(".jpg", cv2.resize(patterns.picture(4, HEIGHT), (WIDTH, HEIGHT)))[1].tobytes()

    def send(self, camera="gate"):
        """One frame with a region on its left and one in its middle."""
        self.n += 1
        regions = (Region(40, 40, 200, 200), Region(340, 40, 120, 120))
        header = FrameHeader(f"b-{self.n}", self.clock.now(), self.n, "b", WIDTH, HEIGHT, regions=regions)
        return list(self.line.put(Frame(camera, header, self.jpeg, "frame", self.clock.now())))

    def see(self, camera="gate"):
        """A second later, send one frame and wait until it is stored; its picture and its two crops, decoded."""
        self.clock.sleep(1.0)
        self.send(camera)
        self.clock.sleep(1.0)
        done = [receipt.status for _, receipt in self.line.overdue()]
        assert done == ["stored"], done
        crops = [samples.crop(self.store, f"{camera}:b-{self.n}:{i}") for i in (0, 1)]
        return [cv2.imdecode(np.frombuffer(j, np.uint8), 1) for j in (frames.last_picture(self.store, camera), *crops)]

    def close(self):
        self.line.close()
        self.page.close()
        self.store.close()


@pytest.fixture
def box(tmp_path):
    made = Box(tmp_path / "site")
    yield made
    made.close()


def grey(image):
    return bool((image == 128).all())


def test_painted_on_the_page_while_it_runs_the_next_picture_and_its_crops_are_grey_there(box):
    picture, left, middle = box.see()
    assert not selftest.hidden(picture, LEFT_HALF)
    assert not grey(left)
    page = create_app(
        box.page, site="s", classes=("a", "b"), names={"gate": "Gate"}, gate={}, clock=box.clock, secret="x",
        hosts=("localhost",),
    ).test_client()  # fmt: skip
    token = re.search(r'name="csrf_token" value="([^"]+)"', page.get("/camera/gate/mask").text)[1]
    form = {"csrf_token": token, "name": "street", "corners": masks.format_polygon(LEFT)}
    assert page.post("/camera/gate/mask", data=form).status_code == 303
    (made,) = masks.holding(box.page, "gate")
    picture, left, middle = box.see()
    assert selftest.hidden(picture, LEFT_HALF)
    assert grey(left)
    assert not grey(middle)
    assert not selftest.hidden(box.see("yard")[0], LEFT_HALF)
    masks.remove(box.page, "gate", made.id, "anna")
    assert not selftest.hidden(box.see()[0], LEFT_HALF)


def test_whatever_is_painted_and_removed_what_the_configuration_masks_stays_masked(box):
    assert selftest.hidden(box.see()[0], RIGHT_QUARTER)
    made = masks.paint(box.page, "gate", "window", RIGHT, "anna")
    assert selftest.hidden(box.see()[0], RIGHT_QUARTER)
    masks.remove(box.page, "gate", made.id, "anna")
    assert selftest.hidden(box.see()[0], RIGHT_QUARTER)


def test_a_frame_that_waits_when_a_mask_is_removed_is_stored_with_it(box):
    made = masks.paint(box.page, "gate", "street", LEFT, "anna")
    assert box.send() == []
    masks.remove(box.page, "gate", made.id, "anna")
    box.clock.sleep(5.0)
    assert [receipt.status for _, receipt in box.line.overdue()] == ["stored"]
    picture = cv2.imdecode(np.frombuffer(frames.last_picture(box.store, "gate"), np.uint8), 1)
    assert selftest.hidden(picture, LEFT_HALF)


def test_while_the_masks_cannot_be_read_the_frame_stays_with_its_camera(box, monkeypatch):
    def busy(store):
        raise Unavailable("the store is busy")

    monkeypatch.setattr(masks, "_stamp", busy)
    ((_, receipt),) = box.send()
    assert receipt.status == "retry"
    assert frames.last_picture(box.store, "gate") is None
