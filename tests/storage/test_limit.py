"""The disk is smaller than `max_bytes`: the store goes round on what there is."""

import os
import subprocess
import sys
import textwrap

import pytest

from edged.storage import limit

MB = 2**20


def test_the_lesser_of_both_holds_and_is_named(open_store, monkeypatch):
    store = open_store(max_bytes=64 * MB, min_free=10 * MB)
    for free, expected in (
        (1000 * MB, limit.Limit(64 * MB, 64 * MB // store.segment_bytes, "max_bytes")),
        (30 * MB, limit.Limit(20 * MB, 20 * MB // store.segment_bytes, "min_free")),
        (5 * MB, limit.Limit(0, 0, "min_free")),
    ):
        monkeypatch.setattr("edged.storage.disk.free", lambda _, n=free: n)
        assert limit.of(store) == expected
    assert limit.of(store, 0) == limit.Limit(5 * MB, 5 * MB // store.segment_bytes, "disk")
    assert "storage.min_free" in str(limit.of(store).full())
    assert "max_bytes" not in limit.of(store).full().hint


def test_segments_are_small_on_a_small_disk(open_store, monkeypatch):
    monkeypatch.setattr("edged.storage.disk.free", lambda _: 150 * MB)
    assert open_store(max_bytes=1000 * MB, min_free=22 * MB).segment_bytes == 4 * MB
    assert open_store().segment_bytes < 5 * MB


ON_A_SMALL_DISK = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    from edged.errors import Unavailable
    from edged.storage import Store, check, disk, frames, limit, objects, recover, retention, segments, upkeep
    from tests.storage.conftest import StandIn, StillClock, noise
    from edged.wire.messages import Frame, FrameHeader, Region

    folder, control, clock = Path(sys.argv[1]), sys.argv[2] == "control", StillClock()
    MAX, MIN = 1 << 30, 10 << 20
    if control:  # the limit is max_bytes alone, whatever the disk has
        real = limit.of
        def blind(store, reserve=None):
            n = store.value("select count(*) from segment")
            return limit.Limit(MAX, MAX // store.segment_bytes - n, "max_bytes")
        limit.of = blind
    store = Store.open(folder / "site", clock=clock, site_key=bytes(32), max_bytes=MAX, min_free=MIN, linger_s=2.0)
    recover.run(store)
    work = upkeep.Upkeep(store, upkeep.Rules(retention.Rules(retention.within(MAX), 1e9), reserve=2 << 20), lambda: True)

    def add(n):
        header = FrameHeader(id=f"b-{n}", ts=0.0, seq=n, boot="b", w=8, h=8, model="", regions=(
            Region(x=0, y=0, w=8, h=8, label="", score=0.0, margin=0.0),))
        frame = Frame("gate", header, noise(str(n)), "frame", clock.now())
        return frames.add(store, frame, StandIn(noise(f"p{n}", 60_000), 8, 8, (noise(f"c{n}", 500),), {}, {}))

    stored = refused = row = worst = 0
    low = 1 << 60
    for n in range(3000):  # 180 MB through a disk of 64
        try:
            add(n)
            stored, row = stored + 1, 0
        except Unavailable as e:
            assert e.code == "disk_full", e
            refused, row = refused + 1, row + 1
            worst = max(worst, row)
        low = min(low, disk.free(folder))
        clock.at += 1
        if n % 10 == 0:
            work.step()
        if row > 300:
            break
    print("stored", stored, "refused", refused, "in a row", worst, "lowest free", low,
          "pictures", objects.used(store), "segments", len(segments.files(store)), "of", store.segment_bytes)
    print("limit", limit.of(store), "free", disk.free(folder))
    assert row <= 300, "nothing is stored any more"
    assert worst <= 20, worst  # two steps of the upkeep; segments of 28 pictures
    assert low >= MIN - 2 * store.segment_bytes, low
    newest = store.value("select count(*) from object where id in (select object from frame where seq > 2800)")
    assert newest > 100
    with store.journal.settled():  # rows may follow by linger_s
        pass
    assert check.run(store) == [], check.run(store)[:3]
    store.close()
    print("went round")
    """
)


def on_a_small_disk(tmp_path, mode):
    script = tmp_path / "small.py"
    script.write_text(ON_A_SMALL_DISK)
    command = 'mount -t tmpfs -o size=64m tmpfs "$1" && exec "$2" "$3" "$1" "$4"'
    (tmp_path / "disk").mkdir()
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", command, "sh", tmp_path / "disk", sys.executable, script, mode],
        capture_output=True, text=True, timeout=120, check=False, env={**os.environ, "PYTHONPATH": os.getcwd()},
    )  # fmt: skip
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip(f"no file system of one's own here: {done.stderr.strip()[:200]}")
    print(done.stdout, done.stderr)
    return done


def test_frames_are_stored_for_ever_on_a_disk_that_is_smaller_than_the_limit(tmp_path):
    done = on_a_small_disk(tmp_path, "real")
    assert done.returncode == 0, done.stderr
    assert "went round" in done.stdout


def test_with_the_configured_limit_alone_such_a_disk_stops(tmp_path):
    done = on_a_small_disk(tmp_path, "control")
    assert done.returncode != 0
    assert "nothing is stored any more" in done.stderr
