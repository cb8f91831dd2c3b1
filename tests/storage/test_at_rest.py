"""What a thief of the disk finds: every file under the data directory but the keys, byte by byte."""

import base64
import os
import signal
import subprocess
import sys
import textwrap

import pytest

from edged.storage import check, frames, recover

CANARY = "Kanarienvogel-4711"  # in every picture and every crop, as a face would be
MARKS = {
    "canary": CANARY.encode(),
    "canary in base64": base64.b64encode(CANARY.encode())[:-4],
    "canary in UTF-16": CANARY.encode("utf-16-le"),
    "JFIF": b"\0\x10JFIF",  # with its length: four bytes alone stand in one of 500 such stores by chance
    "start of a JPEG": b"\xff\xd8\xff\xe0\0\x10",
    "PEM": b"-----BEGIN",
    "site key": bytes(range(32)),
}
N = 1000

CHILD = textwrap.dedent(
    f"""
    import os, signal, sys, threading
    from pathlib import Path
    from edged.storage import Store, frames, recover
    from edged.wire.messages import Frame, FrameHeader, Region
    from tests.storage.conftest import StandIn, StillClock

    clock = StillClock()
    store = Store.open(Path(sys.argv[1]), clock=clock, site_key=bytes(range(32)))
    recover.run(store)

    def picture(name):
        return b"\\xff\\xd8\\xff\\xe0\\0\\x10JFIF" + {CANARY!r}.encode() + name.encode() * 40

    def add(n):
        header = FrameHeader(id=f"b-{{n}}", ts=0.0, seq=n, boot="b", w=8, h=8, model="m", regions=(
            Region(x=0, y=0, w=8, h=8, label="car", score=0.5, margin=0.5),))
        frame = Frame("gate", header, picture(f"raw {{n}}"), "frame", clock.now())
        frames.add(store, frame, StandIn(picture(f"whole {{n}}"), 8, 8, (picture(f"crop {{n}}"),)))

    def work(start):
        for n in range(start, {N}, 8):
            add(n)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    print(frames.count(store), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
    """
)


def hits(folder):
    """(file, mark) for everything that is found; keys/ is what the operator keeps elsewhere."""
    found, looked, size = [], 0, 0
    for path in sorted(folder.rglob("*")):
        if path.is_file() and "keys" not in path.relative_to(folder).parts:
            content = path.read_bytes()
            looked, size = looked + 1, size + len(content)
            found += [(path.name, name) for name, mark in MARKS.items() if mark in content]
    return found, looked, size


@pytest.fixture
def crashed(data_dir, tmp_path):
    """A store that took a thousand frames and was killed."""
    script = tmp_path / "child.py"
    script.write_text(CHILD)
    child = subprocess.run(
        [sys.executable, script, data_dir], capture_output=True, text=True, timeout=100, check=False,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )  # fmt: skip
    assert (child.returncode, child.stdout) == (-signal.SIGKILL, f"{N}\n"), child.stderr
    return data_dir


def test_a_thousand_frames_a_crash_and_a_new_start_leave_nothing_readable(crashed, open_store, capsys):
    after_crash, looked, size = hits(crashed)
    store = open_store()
    recover.run(store)
    assert frames.count(store) == N
    assert check.run(store) == []
    after_start = hits(crashed)[0]
    store.close()
    after_close = hits(crashed)[0]
    with capsys.disabled():
        print(f"\n{N} frames, {looked} files, {size} bytes, {len(MARKS)} marks: {len(after_crash)} hits after the crash,"
              f" {len(after_start)} after the start, {len(after_close)} after the close")  # fmt: skip
    assert (after_crash, after_start, after_close) == ([], [], [])


def test_control_a_picture_that_lies_there_open_is_found(crashed):
    (crashed / "segments" / "left.tmp").write_bytes(b"\xff\xd8\xff\xe0\0\x10JFIF" + CANARY.encode())
    assert {mark for _, mark in hits(crashed)[0]} == {"canary", "JFIF", "start of a JPEG"}


def test_control_what_is_searched_for_is_in_the_pictures(crashed, open_store):
    picture = frames.last_picture(open_store(), "gate")
    assert all(MARKS[name] in picture for name in ("canary", "JFIF", "start of a JPEG"))
