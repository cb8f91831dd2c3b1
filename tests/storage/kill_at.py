"""A program for test_crash.py: add frames and die by SIGKILL at the K-th step that touches the disk.

Usage: kill_at.py DATA_DIR; then one line "K FIRST COUNT [broken]" per run on stdin, each run in a process of its own. A run
prints the id of each frame once it has its receipt, "end" if nothing killed it, and then "over". Steps are what is asked
of the operating system for objects, and the edges of statements that write. `broken` writes the objects after the rows are
committed: the harness must notice.
"""

import hashlib
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

from edged.clock import SystemClock
from edged.storage import Store, frames
from edged.storage.journal import Journal
from edged.wire.messages import Frame, FrameHeader, Region


class Steps:
    """Counts, and dies at the K-th."""

    def __init__(self, kill_at: int) -> None:
        self.left = kill_at

    def step(self) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, real):
        def call(*args, **kwargs):
            self.step()
            result = real(*args, **kwargs)
            self.step()
            return result

        return call


def noise(name: str, size: int) -> bytes:
    return hashlib.shake_128(name.encode()).digest(size)


def picture(n: int) -> tuple[Frame, SimpleNamespace]:
    header = FrameHeader(
        id=f"boot-{n}", ts=float(n), seq=n, boot="boot", w=640, h=480, regions=(Region(x=0, y=0, w=9, h=9),) * 4
    )
    crops = tuple(noise(f"crop {i} {n}", 300) for i in range(4))
    scrubbed = SimpleNamespace(jpeg=noise(f"scrubbed {n}", 3000), width=640, height=480, crops=crops, regions={}, ms={})
    return Frame("gate", header, noise(f"raw {n}", 3000), "frame", 1.0e9), scrubbed


def play(data_dir: Path, kill_at: int, first: int, count: int, broken: bool) -> None:
    store = Store.open(data_dir, clock=SystemClock(), site_key=bytes(range(32)))
    steps = Steps(kill_at)
    for name in ("open", "write", "pwritev", "fsync", "fdatasync", "rename", "mkdir"):
        setattr(os, name, steps.around(getattr(os, name)))
    real_run = store._run
    store._run = lambda sql, params=(): (real_run if sql.startswith(("select", "pragma")) else steps.around(real_run))(
        sql, params
    )
    late: list = []
    if broken:
        flush = Journal._flush
        Journal._flush = lambda *flushed: late.append(flushed)
    for n in range(first, first + count):
        frames.add(store, *picture(n))
        for flushed in late:
            steps.step()
            flush(*flushed)
        late.clear()
        os.write = REAL_WRITE
        print(f"boot-{n}", flush=True)
        os.write = steps.around(REAL_WRITE)
    print("end", flush=True)


REAL_WRITE = os.write

if __name__ == "__main__":
    for line in sys.stdin:
        kill_at, first, count, *broken = line.split()
        pid = os.fork()
        if pid == 0:
            play(Path(sys.argv[1]), int(kill_at), int(first), int(count), bool(broken))
            os._exit(0)
        os.waitpid(pid, 0)
        print("over", flush=True)
