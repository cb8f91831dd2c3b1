"""What a stored picture costs the disk: bytes written for each byte of picture, and flushes for each object.

    sudo python -m bench.writes

Counted where the disk would count it: by the block layer (/sys/block/loopN/stat), of a loop-mounted ext4 image that
nothing else uses, from one `sync` with an emptied WAL to the next, so that the catalogue, its checkpoints and the file
system's own journal are in it. Needs root (mkfs, mount). Beside it, in the same run, the way of version 3: a file for each
object, fsync, rename, fsync of the folder, and a row.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import unchanged
from edged.clock import SystemClock
from edged.site import LINGER_S
from edged.storage import clean, frames, objects
from edged.storage.store import Store

OBJECT_BYTES = 100_000
CROP_BYTES = 9_000
GROUP = 8
FRAMES = 1600
SEGMENTS = 7  # 1600 frames fill five to seven
IMAGE_BYTES = 2**30


@dataclass(frozen=True)
class Counted:
    """Of a block device since it was made."""

    written: int  # bytes
    flushes: int

    def __sub__(self, other: Counted) -> Counted:
        return Counted(self.written - other.written, self.flushes - other.flushes)


class Disk:
    """A mounted image, and what its device counts."""

    def __init__(self, folder: Path, device: str) -> None:
        self.folder = folder
        self._stat = Path("/sys/block") / device / "stat"

    def settled(self) -> Counted:
        subprocess.run(["sync", "-f", self.folder], check=True)
        fields = self._stat.read_text().split()
        return Counted(512 * int(fields[6]), int(fields[15]))


@contextmanager
def image() -> Iterator[Disk]:
    """An ext4 file system of its own."""
    with tempfile.TemporaryDirectory() as folder:
        file, mounted = Path(folder) / "image", Path(folder) / "mounted"
        with file.open("wb") as f:
            f.truncate(IMAGE_BYTES)
        mounted.mkdir()
        subprocess.run(["mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", file], check=True)
        subprocess.run(["mount", "-o", "loop", file, mounted], check=True)
        try:
            found = subprocess.run(
                ["findmnt", "-no", "SOURCE", mounted], check=True, capture_output=True, text=True
            ).stdout.strip()
            yield Disk(mounted, Path(found).name)
        finally:
            subprocess.run(["umount", mounted], check=True)


def run() -> dict[str, Any]:
    """Write amplification and flushes per object, for each way of writing."""
    if os.geteuid() != 0:
        raise SystemExit("bench.writes mounts an image of its own: run it as root")
    picture, crop = unchanged.jpeg(OBJECT_BYTES), unchanged.crop(CROP_BYTES)
    made: dict[str, Any] = {"object_bytes": len(picture), "crop_bytes": len(crop), "frames": FRAMES}
    for name, crops, group in (
        ("100 kB, group of 8", 0, GROUP),
        ("100 kB and four crops, group of 8", 4, GROUP),
        ("100 kB, eight writers as they come", 0, 0),
        ("100 kB, one by one", 0, 1),
    ):
        with image() as disk:
            made[name] = _segments(disk, picture, crop, crops, group)
        print(name, made[name], flush=True)
    with image() as disk:
        made["100 kB, file and row (version 3)"] = _files(disk, picture)
    return made


def _segments(disk: Disk, picture: bytes, crop: bytes, crops: int, group: int) -> dict[str, Any]:
    """First use of the segments, then the same again on segments that retention let go."""
    scrubber = unchanged.Unchanged(crop)
    said: dict[str, Any] = {}
    room = SEGMENTS * (2 if crops else 1) * 32 * 2**20
    with Store.open(
        disk.folder / "site", clock=SystemClock(), site_key=bytes(32), max_bytes=room, linger_s=LINGER_S
    ) as store:
        for use in ("first use", "recycled"):
            store.rows("pragma wal_checkpoint(truncate)")
            before, flushes = disk.settled(), store.journal.flushes
            pages = _pages(store)
            _add_all(store, scrubber, picture, crops, group, use.split()[0])
            with store.journal.settled():
                pass
            grown = _pages(store) - pages
            log = store.path.with_name("edged.db-wal").stat().st_size
            store.rows("pragma wal_checkpoint(truncate)")
            spent, flushes = disk.settled() - before, store.journal.flushes - flushes
            said[use] = _figures(
                spent, FRAMES * (1 + crops), FRAMES * (len(picture) + crops * len(crop)),
                frames_a_flush=round(FRAMES / flushes, 2), catalogue_grew=grown, log_bytes=log,
            )  # fmt: skip
            ids = [row["id"] for row in store.rows("select id from object")]
            with store.transaction():
                objects.forget(store, ids)
            clean.run(store)
    return said


def _add_all(store: Store, scrubber: unchanged.Unchanged, picture: bytes, crops: int, group: int, boot: str) -> None:
    def add(n: int) -> None:
        frame = unchanged.frame(f"cam-{n % GROUP}", n // GROUP, picture, store.clock.now(), crops, boot)
        frames.add(store, frame, scrubber.scrub(frame))

    if group == 1:
        for n in range(FRAMES):
            add(n)
        return
    with ThreadPoolExecutor(GROUP) as pool:
        if not group:
            list(pool.map(add, range(FRAMES)))
            return
        journal = store.journal
        for first in range(0, FRAMES, group):
            with journal._turn:  # nobody writes until all of the group wait
                waiting = [pool.submit(add, n) for n in range(first, first + group)]
                while len(journal._waiting) < group and not any(w.done() for w in waiting):
                    store.clock.sleep(0.0002)
            for one in waiting:
                one.result()


def _files(disk: Disk, picture: bytes) -> dict[str, Any]:
    """What version 3 did for an object, without sealing."""
    conn = sqlite3.connect(disk.folder / "old.db", isolation_level=None)
    conn.executescript(
        "pragma journal_mode = wal; pragma synchronous = full;"
        "create table object (id text primary key, camera text, created real, size integer, sha256 text);"
        "create index object_created on object (created);"
    )
    for i in range(256):
        (disk.folder / f"{i:02x}").mkdir()
    conn.execute("pragma wal_checkpoint(truncate)")
    before = disk.settled()
    for n in range(FRAMES):
        name = secrets.token_hex(16)
        folder = disk.folder / name[:2]
        with (folder / f".{name}").open("wb") as f:
            f.write(picture)
            f.flush()
            os.fsync(f.fileno())
        (folder / f".{name}").rename(folder / name)
        fd = os.open(folder, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
        conn.execute(
            "insert into object values (?, 'cam', ?, ?, ?)", (name, float(n), len(picture), secrets.token_hex(32))
        )
    conn.execute("pragma wal_checkpoint(truncate)")
    said = _figures(disk.settled() - before, FRAMES, FRAMES * len(picture))
    conn.close()
    return said


def _pages(store: Store) -> int:
    return int(store.value("pragma page_count")) * int(store.value("pragma page_size"))


def _figures(spent: Counted, n: int, size: int, **more: Any) -> dict[str, Any]:
    return {
        "write_amplification": round(spent.written / size, 3), "flushes_per_object": round(spent.flushes / n, 3),
        "written_bytes": spent.written, "objects": n,
    } | more  # fmt: skip


if __name__ == "__main__":
    for name, value in run().items():
        print(name, value)
