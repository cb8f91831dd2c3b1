"""A full disk: what the reserve is for, and what it is not for."""

import errno
import os
import subprocess
import sys
import textwrap
from collections import namedtuple

import pytest

from edged.errors import Unavailable
from edged.storage import audit, check, frames, labels, reserve

SIZE = 2 * 2**20
Disk = namedtuple("Disk", "f_bavail f_frsize")


@pytest.fixture
def free(monkeypatch):
    """Say how much the disk has free; the files are real."""

    def say(n):
        monkeypatch.setattr(os, "statvfs", lambda _: Disk(n, 1))

    return say


def test_it_is_really_written_and_only_the_owner_may_read_it(store, data_dir, free):
    free(1 << 40)
    assert reserve.step(data_dir, SIZE)
    path = data_dir / "reserve"
    assert (path.stat().st_size, path.stat().st_mode & 0o777) == (SIZE, 0o600)
    assert path.stat().st_blocks * 512 >= SIZE
    assert path.read_bytes().count(b"\0") < SIZE / 100


def test_it_is_given_back_before_the_disk_is_quite_full_and_taken_again_when_there_is_room(store, data_dir, free):
    free(1 << 40)
    reserve.step(data_dir, SIZE)
    free(reserve.LOW)
    assert reserve.step(data_dir, SIZE)
    free(reserve.LOW - 1)
    assert not reserve.step(data_dir, SIZE)
    assert (data_dir / "reserve").stat().st_size == 0
    free(SIZE + reserve.BACK - 1)  # not yet: it would be given back at once
    assert not reserve.step(data_dir, SIZE)
    free(SIZE + reserve.BACK)
    assert reserve.step(data_dir, SIZE)


def test_a_disk_that_is_full_from_the_first_start_holds_no_frame_back_silently(store, add, data_dir, free):
    free(SIZE)
    assert not reserve.step(data_dir, SIZE)
    with pytest.raises(Unavailable) as e:
        add(store, 1)
    assert e.value.code == "disk_full"
    free(1 << 40)
    reserve.step(data_dir, SIZE)
    add(store, 1)


def test_no_frame_is_taken_while_it_is_given_back_and_known_ones_keep_their_receipt(
    store, add, frame, scrubbed, data_dir
):
    reserve.step(data_dir, SIZE)
    first = add(store, 1)
    reserve.release(data_dir)
    for act in (lambda: add(store, 2), lambda: frames.settle(store, frame(3), "withheld", "dark")):
        with pytest.raises(Unavailable) as e:
            act()
        assert e.value.code == "disk_full"
    assert frames.add(store, first, scrubbed(first)).status == "stored"
    labels.add(store, "gate:boot-1:0", "car", "human", "anna")
    assert check.run(store) == []


def test_without_a_reserve_the_file_goes_and_nothing_is_held_to_it(store, add, data_dir):
    reserve.step(data_dir, SIZE)
    assert not reserve.step(data_dir, 0)
    assert not (data_dir / "reserve").exists()
    assert not reserve.release(data_dir)
    add(store, 1)


@pytest.fixture
def full(store, data_dir):
    """A catalogue that can take no page more: SQLITE_FULL, as on a full disk. Call it to make room."""
    reserve.step(data_dir, SIZE)
    store.execute("create table filler (x blob)")
    store.rows(f"pragma max_page_count = {store.value('pragma page_count')}")

    def overflow():
        with store.transaction(durable=False):
            while True:
                store.execute("insert into filler values (zeroblob(100000))")

    with pytest.raises(Unavailable):
        overflow()
    return lambda: store.rows("pragma max_page_count = 1000000")


def test_cheap_writes_do_not_cost_the_reserve(full, data_dir):
    assert (data_dir / "reserve").stat().st_size == SIZE


def test_an_audit_row_on_a_full_disk_gives_it_back_and_is_written_at_the_second_try(full, store, data_dir, monkeypatch):
    def fill():
        for n in range(10_000):
            audit.append(store, "anna", "look", str(n), {"why": "x" * 1000})

    with pytest.raises(Unavailable, match="given back: try again"):
        fill()
    assert (data_dir / "reserve").stat().st_size == 0
    full()
    audit.append(store, "anna", "look", "again", {})
    assert audit.verify(store) > 0


def test_a_single_statement_is_tried_again_by_itself(full, store, data_dir, monkeypatch):
    release = reserve.release

    def relieve(folder):
        full()
        return release(folder)

    monkeypatch.setattr(reserve, "release", relieve)
    store.execute("insert into filler values (zeroblob(1000000))")
    assert (data_dir / "reserve").stat().st_size == 0


ON_A_SMALL_DISK = textwrap.dedent(
    """
    import hashlib, os, sys
    from pathlib import Path
    from edged.errors import Unavailable
    from edged.storage import Store, alarms, audit, check, erasure, frames, labels, recover, reserve
    from tests.storage.conftest import StandIn, StillClock, noise
    from edged.wire.messages import Frame, FrameHeader, Region

    folder, clock, size = Path(sys.argv[1]), StillClock(), 8 << 20
    store = Store.open(folder / "site", clock=clock, site_key=bytes(32), max_bytes=64 << 20, min_free=12 << 20)
    recover.run(store)
    assert reserve.step(folder / "site", size)

    def add(n):
        header = FrameHeader(id=f"b-{n}", ts=0.0, seq=n, boot="b", w=8, h=8, model="", regions=(
            Region(x=0, y=0, w=8, h=8, label="", score=0.0, margin=0.0),))
        frame = Frame("gate", header, noise(str(n)), "frame", clock.now())
        return frames.add(store, frame, StandIn(noise(f"p{n}", 40_000), 8, 8, (noise(f"c{n}", 500),), {}, {}))

    n = 0
    try:
        while True:
            add(n)
            n += 1
    except Unavailable as e:
        assert e.code == "disk_full", e
    assert reserve.step(folder / "site", size), "frames came to the reserve"
    with open(folder / "others", "wb", buffering=0) as others:  # another program takes all that is left
        try:
            while others.write(bytes(65536)):
                pass
        except OSError:
            pass
    tried = 0
    for act in (
        lambda: [labels.add(store, f"gate:b-{k % n}:0", "car", "human", "anna") for k in range(3000)],
        lambda: [audit.append(store, "anna", "look", str(k), {"why": "y" * 200}) for k in range(300)],
        lambda: alarms.sound(store, "disk_full", "no room"),
        lambda: erasure.now(store, erasure.What(samples=("gate:b-1:0",)), "anna"),
    ):
        try:
            act()
        except Unavailable as e:
            assert e.code == "disk_full", e
            tried += 1
            act()
    assert tried <= 2, tried
    assert os.path.getsize(folder / "site" / "reserve") == 0
    try:
        add(n)
        raise SystemExit("a frame was taken on the reserve")
    except Unavailable as e:
        assert e.code == "disk_full"
    (folder / "others").unlink()
    (folder / "ballast").unlink(missing_ok=True)
    assert audit.verify(store) >= 300
    assert check.run(store) == [], check.run(store)
    print("frames", n, "second tries", tried)
    """
)


def test_on_a_disk_that_others_fill_labels_audit_alarm_and_erasure_work_and_frames_wait(tmp_path):
    script = tmp_path / "small.py"
    script.write_text(ON_A_SMALL_DISK)
    command = 'mount -t tmpfs -o size=64m tmpfs "$1" && exec "$2" "$3" "$1"'
    (tmp_path / "disk").mkdir()
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", command, "sh", tmp_path / "disk", sys.executable, script],
        capture_output=True, text=True, timeout=90, check=False, env={**os.environ, "PYTHONPATH": os.getcwd()},
    )  # fmt: skip
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip(f"no file system of one's own here: {done.stderr.strip()[:200]}")
    print(done.stdout, done.stderr)
    assert done.returncode == 0, done.stderr


def test_what_finds_the_disk_full_is_done_again_with_the_reserve_given_back(store, data_dir, free):
    free(1 << 40)
    reserve.step(data_dir, SIZE)
    full = [OSError(errno.ENOSPC, "No space left on device")] * 2

    def do():
        if full:
            raise full.pop()
        return "done"

    with pytest.raises(Unavailable) as e:  # still full with the reserve
        reserve.spend(data_dir, do)
    assert e.value.code == "disk_full"
    full.append(OSError(errno.ENOSPC, "No space left on device"))
    reserve.step(data_dir, SIZE)
    assert reserve.spend(data_dir, do) == "done"
    assert (data_dir / "reserve").stat().st_size == 0


def test_names_are_held_and_given_back_too(store, data_dir, free):
    free(1 << 40)
    reserve.step(data_dir, SIZE)
    assert len(list(data_dir.glob("reserve.*"))) == reserve.NAMES
    reserve.release(data_dir)
    assert list(data_dir.glob("reserve.*")) == []
    reserve.step(data_dir, SIZE)
    assert len(list(data_dir.glob("reserve.*"))) == reserve.NAMES
    reserve.step(data_dir, 0)
    assert list(data_dir.glob("reserve*")) == []


def test_while_it_is_being_made_frames_come_in(store, data_dir, free, add, monkeypatch):
    free(1 << 40)
    real = os.fsync
    came = []

    def fsync(fd):
        if os.path.basename(os.readlink(f"/proc/self/fd/{fd}")).endswith("reserve"):
            add(store, 1)
            came.append(1)
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    assert reserve.step(data_dir, SIZE)
    assert came == [1]
