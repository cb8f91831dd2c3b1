"""Coloured shapes as labelled crops, in memory or in a real store; nothing here needs data from outside."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import pytest

from edged.retrain.pictures import Crop, load
from edged.storage import Store, frames, models, seal, snapshots
from edged.wire.messages import Frame, FrameHeader, Region

CLASSES = ("disc", "box")
NOON = 1_795_262_400.0

os.environ.setdefault("OMP_NUM_THREADS", "1")


class StillClock:
    """Stands still, so that no time limit is ever reached."""

    def now(self):
        return NOON

    def monotonic(self):
        return 100.0

    def sleep(self, seconds):
        pass


@dataclass(frozen=True)
class StandIn:
    """The fields of privacy's Scrubbed, which only privacy can make."""

    jpeg: bytes
    width: int
    height: int
    crops: tuple
    regions: dict = field(default_factory=dict)
    ms: dict = field(default_factory=dict)


def draw(label: str, seed: int, px: int = 224) -> bytes:
    """A JPEG of a bright shape somewhere on dark noise."""
    dice = np.random.default_rng(seed)
    image = dice.integers(0, 70, (px, px, 3), np.uint8)
    colour = tuple(int(c) for c in dice.integers(140, 255, 3))
    x, y = (int(v) for v in dice.integers(px // 3, 2 * px // 3, 2))
    size = int(dice.integers(px // 6, px // 4))
    if label == "disc":
        cv2.circle(image, (x, y), size, colour, -1)
    else:
        cv2.rectangle(image, (x - size, y - size // 4), (x + size, y + size // 4), colour, -1)
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()


@pytest.fixture
def clock():
    return StillClock()


@pytest.fixture
def drawn():
    return draw


@pytest.fixture
def crops():
    """n labelled crops in memory, half of each class, from one camera or several in turn."""

    def make(n, *, seed=0, cameras=("gate",), classes=CLASSES, px=64):
        def one(i):
            label = classes[i % len(classes)]
            jpeg = draw(label, seed * 10_000 + i, px)
            return Crop(f"{cameras[i % len(cameras)]}:f-{i}:0", cameras[i % len(cameras)], label, lambda: jpeg)

        return [one(i) for i in range(n)]

    return make


@pytest.fixture
def pics(crops):
    """The same, loaded at 32 px."""

    def make(n, *, px=32, classes=CLASSES, **options):
        return load(crops(n, classes=classes, **options), classes, px)

    return make


class Site:
    """A store with a snapshot of labelled shapes from two cameras."""

    def __init__(self, folder: Path, clock) -> None:
        self.dir = folder / "site"
        self.key_file = folder / "storage.key"
        self.key = seal.make_key(self.key_file)
        self.clock = clock
        self.snapshot = ""

    def open(self, **options):
        return Store.open(self.dir, clock=self.clock, site_key=self.key, **options)

    def fill(self, frames_per_camera=60, *, damaged=0, only=None):
        """Two regions per frame, one of each class; every fifth block of ten frames is held out, every sixth tunes."""
        parts = {"train": [], "tune": [], "holdout": []}
        with self.open() as store:
            for c, camera in enumerate(("gate", "yard")):
                for n in range(frames_per_camera):
                    jpegs = [draw(label, c * 1000 + n * 2 + i) for i, label in enumerate(CLASSES)]
                    if damaged and c == 0 and n < damaged:
                        jpegs[0] = b"\xff\xd8 no picture"
                    regions = tuple(Region(x=i, y=0, w=50, h=50) for i in range(2))
                    header = FrameHeader(id=f"b-{n}", ts=NOON + n, seq=n, boot="b", w=1280, h=720, regions=regions)
                    frames.add(
                        store, Frame(camera, header, f"{camera}{n}".encode(), "frame", NOON),
                        StandIn(f"{camera}{n}".encode(), 1280, 720, tuple(jpegs)),
                    )  # fmt: skip
                    part = ("train", "train", "train", "tune", "holdout")[n % 5]
                    parts[part] += [
                        [f"{camera}:b-{n}:{i}", label] for i, label in enumerate(CLASSES) if only in (None, label)
                    ]
            body = {"classes": list(CLASSES), **parts, "holdout_ratio": 0.2, "block_s": 1.0, "seed": 1}
            self.snapshot = snapshots.add(store, body)
        return self

    def job(self, **more):
        return {
            "data_dir": str(self.dir), "key_file": str(self.key_file), "snapshot": self.snapshot,
            "classes": list(CLASSES), **more,
        }  # fmt: skip

    def model(self, sha256):
        with self.open(readonly=True) as store:
            return models.read_model(store, sha256)


@pytest.fixture
def site(tmp_path, clock):
    return Site(tmp_path, clock)


@pytest.fixture(scope="session")
def filled(tmp_path_factory):
    """One filled site for the tests that only read it (or add models to it)."""
    return Site(tmp_path_factory.mktemp("retrain"), StillClock()).fill()


@pytest.fixture
def read_json():
    return lambda path: json.loads(Path(path).read_text())
