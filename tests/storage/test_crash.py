"""What is on disk after a process died, and the order in which things get there."""

import errno
import hashlib
import os
import random
import secrets
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edged.errors import Corrupt, Unavailable
from edged.storage import check, disk, frames, models, objects, samples
from edged.storage.store import Store

SCRIPT = Path(__file__).with_name("kill_at.py")

LOAD = """
import sys
sys.path.insert(0, {!r})
import kill_at
from pathlib import Path
kill_at.play(Path(sys.argv[1]), 0, int(sys.argv[2]), 10_000, False)
"""


def noise(name, size):
    return hashlib.shake_128(name.encode()).digest(size)


@pytest.fixture
def play(data_dir, open_store):
    """Run the adding program until it is killed at a step; gives the receipts it had, and whether it reached the end."""
    open_store().close()
    command = [sys.executable, str(SCRIPT), str(data_dir)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as program:

        def play_(kill_at, first, count, *broken):
            program.stdin.write(" ".join(map(str, (kill_at, first, count, *broken))) + "\n")
            told: list[str] = []
            while (line := program.stdout.readline()) != "over\n":
                assert line, "the program is gone"
                told.append(line.strip())
            return [n for n in told if n != "end"], "end" in told

        yield play_
        program.stdin.close()
        assert program.wait(30) == 0


def assert_sound(store, receipted):
    """Nothing receipted is lost, nothing is half there."""
    assert check.run(store) == []
    for frame_id in receipted:
        n = frame_id.removeprefix("boot-")
        receipt = frames.find_receipt(store, "gate", frame_id)
        assert receipt is not None, f"{frame_id} was receipted and is lost"
        assert receipt.status == "stored"
        assert objects.read(store, store.value("select object from frame where id = ?", (frame_id,))) == noise(
            f"scrubbed {n}", 3000
        )
        assert [samples.crop(store, f"gate:{frame_id}:{i}") for i in range(4)] == [
            noise(f"crop {i} {n}", 300) for i in range(4)
        ]


def test_killed_at_every_step_of_an_add_nothing_receipted_is_lost_and_nothing_is_half_there(play, open_store):
    n, leftovers, ended = 0, 0, False
    while not ended:
        n += 1
        receipted, ended = play(n, n, 1)
        with open_store() as store:
            recovered = objects.recover(store)
            leftovers += recovered.temps + recovered.orphans
            assert_sound(store, receipted)
        again, _ = play(0, n, 1)  # the camera, without a receipt, sends it again
        with open_store() as store:
            assert_sound(store, again)
            assert frames.count(store) == n
    assert n > 50
    assert leftovers > 50  # it was caught in the middle


def test_killed_at_random_moments_under_load_nothing_receipted_is_lost(data_dir, open_store):
    open_store().close()
    rng = random.Random(5)
    receipted: list[str] = []
    for round_ in range(6):
        command = [sys.executable, "-c", LOAD.format(str(SCRIPT.parent)), str(data_dir), str(round_ * 10_000)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, bufsize=0) as child:
            wanted = rng.randrange(3, 40)
            got = b""
            while got.count(b"\n") < wanted:
                got += child.stdout.read(64)
            time.sleep(rng.random() * 0.01)
            child.kill()
            got += child.stdout.read()
        receipted += [line for line in got.decode().split("\n")[:-1] if line]
    with open_store() as store:
        objects.recover(store)
        assert_sound(store, receipted)
        assert len(receipted) <= frames.count(store) <= len(receipted) + 6


def test_a_build_that_files_rows_before_objects_is_caught(play, open_store):
    """The negative control of this harness."""
    found = []
    for k in range(1, 60):
        _, ended = play(k, k, 1, "broken")
        with open_store() as store:
            objects.recover(store)
            found += [f.code for f in check.run(store)]
        if ended:
            break
    assert ended
    assert "lost_object" in found


def test_objects_and_their_folder_are_synced_before_the_row_commits(store, add, frame, scrubbed, monkeypatch):
    add(store, 0)  # the data key and some directories are there now
    calls: list[tuple[str, str]] = []
    real_fsync, real_rename, real_run = os.fsync, os.rename, Store._run

    def fsync(fd):
        path = os.readlink(f"/proc/self/fd/{fd}")
        calls.append(("fsync dir" if os.path.isdir(path) else "fsync file", path))
        real_fsync(fd)

    def rename(a, b):
        calls.append(("rename", str(a)))
        real_rename(a, b)

    def run(self, sql, params=()):
        if sql == "commit":
            calls.append(("commit", ""))
        return real_run(self, sql, params)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", rename)
    monkeypatch.setattr(Store, "_run", run)
    add(store, 1, regions=4)
    what = [c for c, _ in calls]
    if what[0] == "fsync dir":  # a new two-letter folder, made durable in its parent
        assert calls[0][1].endswith("/objects")
        del calls[0], what[0]
    assert what == ["fsync file"] * 5 + ["rename"] * 5 + ["fsync dir", "commit"]
    assert [p for c, p in calls if c == "fsync file"] == [p for c, p in calls if c == "rename"]
    assert len({os.path.dirname(p) for c, p in calls if c == "rename"}) == 1


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("at", [1, 2, 3, 4])
def test_when_a_sync_fails_the_frame_is_not_receipted_and_nothing_is_left(store, add, files, monkeypatch, code, at):
    add(store, 0)
    real_token = secrets.token_hex
    monkeypatch.setattr(secrets, "token_hex", lambda n: "ab" if n == 1 else real_token(n))
    add(store, 1)  # folder ab is there
    before = files()
    calls = 0
    real = os.fsync

    def fsync(fd):
        nonlocal calls
        calls += 1
        if calls == at:
            raise OSError(code, os.strerror(code))
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(Unavailable if code == errno.ENOSPC else Corrupt) as e:
        add(store, 2)
    assert e.value.code == ("disk_full" if code == errno.ENOSPC else "disk_failed")
    assert calls == at  # a failed fsync is never tried again
    assert files() == before
    assert frames.find_receipt(store, "gate", "boot-2") is None
    monkeypatch.setattr(os, "fsync", real)
    add(store, 2)
    assert check.run(store) == []


def test_when_the_rows_fail_the_objects_go(store, add, frame, scrubbed, files, monkeypatch):
    add(store, 0)
    before = files()

    def full(*_):
        raise Unavailable("disk full", code="disk_full")

    monkeypatch.setattr(objects, "record", full)
    with pytest.raises(Unavailable):
        add(store, 1)
    assert files() == before


def test_when_the_commit_fails_the_objects_stay_for_recovery_to_judge(store, add, files, monkeypatch):
    add(store, 0)
    real = Store._run

    def run(self, sql, params=()):
        if sql == "commit":
            raise Corrupt("the disk failed")
        return real(self, sql, params)

    monkeypatch.setattr(Store, "_run", run)
    with pytest.raises(Corrupt):
        add(store, 1)
    monkeypatch.setattr(Store, "_run", real)
    assert len(files()) == 6
    assert objects.recover(store).orphans == 3
    assert check.run(store) == []
    add(store, 1)


def test_recovery_removes_temporaries_and_orphans_and_nothing_else(store, add, files, data_dir):
    add(store, 1)
    good = files()
    folder = good[0].parent
    (folder / f"{disk.TEMP}1234").write_bytes(b"half")
    (folder / (folder.name + "0" * 30)).write_bytes(b"orphan")
    (data_dir / "objects" / "README").write_text("somebody's note")
    assert {f.code for f in check.run(store)} == {"temporary", "orphan"}
    assert objects.recover(store) == objects.Recovered(temps=1, orphans=1)
    assert [p for p in files() if p.name != "README"] == good
    assert objects.recover(store) == objects.Recovered(0, 0)


def test_recovery_waits_for_a_frame_that_is_being_added(store, open_store, frame, scrubbed, monkeypatch):
    """Objects without a row yet are not orphans while their writer lives."""
    import threading

    other = open_store()
    objects_written, go_on = threading.Event(), threading.Event()
    real = objects.record

    def slow(*args):
        objects_written.set()
        assert go_on.wait(30)
        real(*args)

    monkeypatch.setattr(objects, "record", slow)
    f = frame(1)
    adding = threading.Thread(target=frames.add, args=(store, f, scrubbed(f)))
    adding.start()
    assert objects_written.wait(30)
    found: list[objects.Recovered] = []
    recovering = threading.Thread(target=lambda: found.append(objects.recover(other)))
    recovering.start()
    recovering.join(0.2)
    assert found == []
    go_on.set()
    adding.join(30)
    recovering.join(30)
    assert found == [objects.Recovered(0, 0)]
    assert check.run(store) == []


def test_a_model_appears_whole_and_a_damaged_one_is_noticed_and_can_be_put_again(store, tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"model")
    sha = models.put_model(store, tmp_path / "m.onnx")
    assert sha == hashlib.sha256(b"model").hexdigest() == models.put_model(store, b"model")
    path = models.model_path(store, sha)
    assert path.read_bytes() == b"model"
    path.write_bytes(b"modeL")
    with pytest.raises(Corrupt):
        models.model_path(store, sha)
    models.put_model(store, b"model")
    assert models.read_model(store, sha) == b"model"
