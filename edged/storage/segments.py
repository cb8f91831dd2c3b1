"""The segment files: where they lie, and which is written to next: one a class, a free one again, else a new one.

Guarantees: the last free segment is kept for what is moved, which has to be written before it can make room; no segment is left
while rows of it are owed; a new file's name is durable before anything in it counts. Does not guarantee that what is written to
one is durable: the journal flushes.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from edged.durable import sync_folder
from edged.errors import EdgedError
from edged.storage import disk, limit, segment

if TYPE_CHECKING:
    from edged.storage.store import Store

Class = Literal["new", "kept"]
CLASSES: tuple[Class, ...] = ("kept", "new")


def path_of(store: Store, number: int) -> Path:
    return store.segments_dir / f"{number:08d}.seg"


def files(store: Store) -> dict[int, Path]:
    """Every segment file by its number."""
    return {int(p.stem): p for p in sorted(store.segments_dir.glob("*.seg")) if p.stem.isdecimal()}


@dataclass
class Head:
    """A segment that is being written."""

    number: int
    generation: int
    fd: int
    end: int
    size: int  # of the file
    announced: bool  # its row says that it is open


class Heads:
    """The segments that are being written, one a class. Not thread-safe: who has the journal's turn calls.

    `settle` writes the rows that are owed; `failed` counts a failure of the disk, and returns what callers are told.
    """

    def __init__(self, store: Store, settle: Callable[[], None], failed: Callable[[EdgedError], EdgedError]) -> None:
        self._store = store
        self._settle = settle
        self._failed = failed
        self._writing: dict[Class, Head] = {}

    def get(self, of: Class) -> Head | None:
        return self._writing.get(of)

    def to_write(self, of: Class, size: int) -> Head:
        """The segment to write to."""
        head = self._writing.get(of) or self._resume(of)
        if head is not None and segment.pages(head.end) + size > max(self._store.segment_bytes, head.size):
            self._retire(head, of)
            head = None
        head = self._writing[of] = head or self._begin(of)
        return head

    def _retire(self, head: Head, of: Class) -> None:
        self._settle()  # while the segment is known to be the open one
        os.close(head.fd)
        self._writing.pop(of, None)

    def instead(self, head: Head, of: Class, end: int, size: int) -> bool:
        """Go on in a free segment that need not grow, when this one cannot; False if there is none."""
        if end <= head.size:
            return False
        free = self._free(size)
        if len(free) < (2 if of == "new" else 1):
            return False
        self._retire(head, of)
        self._writing[of] = self._again(*free[0])
        return True

    def _free(self, size: int = 0) -> list[tuple[int, int]]:
        """Number and generation of the free segments whose files have `size` bytes."""
        taken = [h.number for h in self._writing.values()]
        rows = self._store.rows("select number, generation from segment where state = 'free' order by number")
        return [
            (r[0], r[1]) for r in rows
            if r[0] not in taken and (not size or ((p := path_of(self._store, r[0])).exists() and p.stat().st_size >= size))
        ]  # fmt: skip

    def _again(self, number: int, generation: int) -> Head:
        fd = self._open(number, create=True)
        return Head(number, generation + 1, fd, 0, os.fstat(fd).st_size, False)

    def _resume(self, of: Class) -> Head | None:
        """The open segment of a run before this one; recovery has recorded all of it."""
        row = self._store.row(
            "select number, generation, recorded from segment where state = 'open' and class = ?", (of,)
        )
        if row is None:
            return None
        fd = self._open(row["number"], create=False)
        return Head(row["number"], row["generation"], fd, row["recorded"], os.fstat(fd).st_size, True)

    def _begin(self, of: Class) -> Head:
        """A free segment, else a new one. The last of all is kept for cleaning, which has to write before it can free."""
        free, may = self._free(), limit.of(self._store, self.reserve(of))
        if len(free) + may.more < (2 if of == "new" else 1):
            raise may.full()
        if free:
            return self._again(*free[0])
        disk.require_space(self._store.data_dir, self._store.segment_bytes, self.reserve(of))
        last = int(self._store.value("select coalesce(max(number), 0) from segment"))
        number = max([last, *(h.number for h in self._writing.values())]) + 1
        fd = self._open(number, create=True)
        found = next(segment.scan(fd, number), None)  # left by a run whose rows were lost and that had no receipt
        return Head(number, found.generation + 1 if found else 1, fd, 0, os.fstat(fd).st_size, False)

    def reserve(self, of: Class) -> int:
        """Bytes of the disk that are not to be touched. What is moved is moved to make room, or to erase."""
        return self._store.min_free if of == "new" else 0

    def _open(self, number: int, *, create: bool) -> int:
        path = path_of(self._store, number)
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0), 0o600)
            try:
                if create:  # also a file that is there: whoever made it may have died, or failed, before this
                    sync_folder(self._store.segments_dir)
            except BaseException:
                os.close(fd)
                raise
            return fd
        except OSError as e:
            raise self._failed(disk.renamed(e, path)) from e

    def leave(self) -> None:
        """Close them all; the next ones are looked for anew."""
        for head in self._writing.values():
            with suppress(OSError):
                os.close(head.fd)
        self._writing.clear()
