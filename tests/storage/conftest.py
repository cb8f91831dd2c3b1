"""A store in a temporary directory, a clock that stands still, frames and what privacy would have made of them."""

import hashlib
from contextlib import ExitStack
from dataclasses import dataclass, field

import pytest

from edged.storage import Store, frames, segment
from edged.wire.messages import Frame, FrameHeader, Region

NOON = 1_795_262_400.0  # 2026-11-21T12:00:00Z


class StillClock:
    """Stands still until it is told to move."""

    def __init__(self, at: float = NOON) -> None:
        self.at = at

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at

    def sleep(self, seconds: float) -> None:
        self.at += seconds


@dataclass(frozen=True)
class StandIn:
    """The fields of privacy's Scrubbed, which only privacy can make."""

    jpeg: bytes
    width: int
    height: int
    crops: tuple[bytes, ...]
    regions: dict = field(default_factory=dict)
    ms: dict = field(default_factory=dict)


def noise(name: str, size: int = 2000) -> bytes:
    return hashlib.shake_128(name.encode()).digest(size)


@pytest.fixture
def clock():
    return StillClock()


@pytest.fixture
def site_key():
    return bytes(range(32))


@pytest.fixture
def data_dir(tmp_path):
    return tmp_path / "site"


@pytest.fixture
def open_store(data_dir, clock, site_key):
    """Open the store again and again; all are closed at the end."""
    with ExitStack() as stack:

        def open_(**options):
            options = {"clock": clock, "site_key": site_key, "busy_s": 0.2} | options
            return stack.enter_context(Store.open(data_dir, **options))

        yield open_


@pytest.fixture
def store(open_store):
    return open_store()


@pytest.fixture
def frame(clock):
    """A frame by number; regions carry a prediction."""

    def make(n=1, *, camera="gate", ts=None, regions=2, label="car", margin=0.5, kind="frame", model="m1", jpeg=None):
        header = FrameHeader(
            id=f"boot-{n}", ts=clock.now() if ts is None else ts, seq=n, boot="boot", w=1280, h=720, model=model,
            regions=tuple(Region(x=i, y=2, w=50, h=60, label=label, score=0.7, margin=margin) for i in range(regions)),
        )  # fmt: skip
        return Frame(camera, header, noise(f"{camera} {n}") if jpeg is None else jpeg, kind, clock.now())

    return make


@pytest.fixture
def scrubbed():
    """What privacy makes of it: other bytes, one crop for each region."""

    def make(frame, crops=None):
        name = f"{frame.camera} {frame.header.id}"
        n = len(frame.header.regions) if crops is None else crops
        return StandIn(
            noise(f"scrubbed {name}"), 1280, 720, tuple(noise(f"crop {i} {name}", 500) for i in range(n)),
            {"face": 1, "plate": 0}, {"detect": 1.5},
        )  # fmt: skip

    return make


@pytest.fixture
def add(frame, scrubbed):
    """Add frame number n with `options`; returns the frame."""

    def add_(store, n=1, **options):
        made = frame(n, **options)
        frames.add(store, made, scrubbed(made))
        return made

    return add_


@pytest.fixture
def files(data_dir):
    """Every body that stands in a segment, living or dead: (segment, object id)."""

    def files_():
        found = []
        for path in sorted((data_dir / "segments").glob("*.seg")):
            with path.open("rb") as f:
                records = list(segment.scan(f.fileno(), int(path.stem)))
            found += [(int(path.stem), entry.id) for record in records for entry in record.entries]
        return found

    return files_


@pytest.fixture
def edit(data_dir):
    """Put other bytes in the place of an object's: `edit(store, object_id, change)`."""

    def edit_(store, object_id, change):
        number, place, size = store.row("select segment, place, size from object where id = ?", (object_id,))
        with (data_dir / "segments" / f"{number:08d}.seg").open("r+b") as f:
            f.seek(place)
            sealed = f.read(size)
            f.seek(place)
            f.write(change(sealed)[:size])
        return sealed

    return edit_
