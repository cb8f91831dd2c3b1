"""The writer of segments: whoever comes while a flush is under way shares the next one.

    append      1. wait for the turn; whoever has it takes along all who wait (leader and followers)
                2. answer those that were answered before; the rest are written at the next free page
                3. one fdatasync
                4. one transaction: their rows, and how far the segment is recorded
                5. each caller gets what its rows returned

Guarantees: when `append` returns, the record survives a power cut; its rows may not (they are written without a flush of
their own), and a start rebuilds them from the record (recover.py). No segment is left,
freed or written again while rows of it are owed. One process writes: a second one is Unavailable.
A flush that failed is never tried again: the segment is left for a new one, the database is opened anew, and until
`cooldown` is over callers are told Unavailable. Does not guarantee any order between callers.
"""

from __future__ import annotations

import fcntl
import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edged.errors import Corrupt, EdgedError, Unavailable
from edged.storage import disk, segment
from edged.storage.segment import Entry, Record
from edged.storage.segments import CLASSES, Class, Head, Heads, path_of

if TYPE_CHECKING:
    from edged.storage.store import Store

log = logging.getLogger(__name__)

COOLDOWN_S = (1.0, 8.0)  # after the first failure, and at most
GROUP_BYTES = 8 * 2**20
OWED = 512  # records without rows, at most


@dataclass(frozen=True)
class Place:
    """Where a record lies now."""

    segment: int
    entries: tuple[Entry, ...]


@dataclass
class Draft:
    """A record that is to be written. `known` answers it without, `rows` puts its rows (in the group's transaction)."""

    name: object  # of two drafts of one name the second is answered by `known`, after the first
    record: Record
    known: Callable[[], Any]
    rows: Callable[[Place], Any]
    of: Class = "new"
    promised: Any = None  # what `rows` will return; then they may be written later (`linger_s`)
    done: threading.Event = field(default_factory=threading.Event)
    result: Any = None
    error: BaseException | None = None


@dataclass(frozen=True)
class _Owed:
    """Durable records whose rows are still to be written."""

    segment: int
    generation: int
    of: Class
    end: int
    placed: Sequence[tuple[Draft, Place]]
    told: bool  # their callers have what was promised


class Journal:
    """Use `Store.journal`. Thread-safe."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.folder = store.segments_dir
        self._turn = threading.Lock()
        self._waiting: list[Draft] = []
        self._waiting_lock = threading.Lock()
        self._heads = Heads(store, self._settle, self._failed)
        self._owed: list[_Owed] = []
        self._owed_names: set[object] = set()
        self._owed_since: threading.Timer | None = None
        self._broken = False
        self._failures = 0
        self._not_before = 0.0
        self.flushes = 0
        self.written = 0  # records
        self._lock_fd = os.open(self.folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            os.close(self._lock_fd)
            raise Unavailable(
                f"another process writes to {self.folder}", code="busy", hint="is a daemon running?"
            ) from e

    def append(self, draft: Draft) -> Any:
        """What `rows` (or `known`) returned; raises what they raised, Unavailable, or Corrupt."""
        return self.append_all([draft])[0]

    def append_all(self, drafts: Sequence[Draft]) -> list[Any]:
        """As `append` for several that wait together; raises the first error, when all are done."""
        with self._waiting_lock:
            self._waiting += drafts
        for draft in drafts:
            with self._turn:
                while not draft.done.is_set():  # else a leader took it along
                    self._lead()
        for draft in drafts:
            if draft.error is not None:
                raise draft.error
        return [d.result for d in drafts]

    def wait_turn(self) -> None:
        """Return as soon as a turn was to be had; a flush that hangs keeps it. Nothing is written."""
        with self._turn:
            pass

    @contextmanager
    def settled(self) -> Iterator[None]:
        """No row is owed, and nobody is told anything, until this ends. Raises as `append`."""
        with self._turn:
            self._mend()
            self._settle()
            yield

    def close(self) -> None:
        with self._turn:
            with suppress(EdgedError):  # a start rebuilds them
                self._settle()
            if self._owed_since is not None:
                self._owed_since.cancel()
            self._heads.leave()
            os.close(self._lock_fd)

    # the turn

    def _lead(self) -> None:
        with self._waiting_lock:
            group = _group(self._waiting)
        try:
            self._commit(group)
        except BaseException as e:
            for d in group:
                if d.result is None and d.error is None:
                    d.error = e
            if not isinstance(e, Exception):
                raise
        finally:
            for d in group:
                d.done.set()

    def _commit(self, group: Sequence[Draft]) -> None:
        self._mend()
        if len(self._owed_names) >= OWED or any(d.name in self._owed_names for d in group):
            self._settle()
        fresh: dict[object, Draft] = {}
        for d in group:
            try:
                d.result = d.known()
            except EdgedError as e:
                d.error = e
                continue
            if d.result is None:
                fresh.setdefault(d.name, d)
        for of in CLASSES:
            drafts = [d for d in fresh.values() if d.of == of]
            try:
                self._write(list(drafts), of)
            except EdgedError as e:  # no room for new pictures must not hold up what makes room
                for d in drafts:
                    if d.result is None and d.error is None:
                        d.error = e
                if self._broken:
                    raise
        twice = [d for d in group if d.result is None and d.error is None]  # the same came twice at once
        if twice:
            self._settle()
        for d in twice:
            d.result, d.error = d.known(), fresh[d.name].error

    def _write(self, drafts: list[Draft], of: Class) -> None:
        while drafts:
            head = self._heads.to_write(of, drafts[0].record.size)
            start = offset = segment.pages(head.end)
            pieces: list[bytes] = []
            placed: list[tuple[Draft, Place]] = []
            room = max(self._store.segment_bytes, head.size, segment.pages(drafts[0].record.size))
            while drafts and (not placed or offset + drafts[0].record.size <= room):
                d = drafts.pop(0)
                made, entries = segment.encode(d.record, head.number, head.generation, offset)
                pieces += made
                offset += d.record.size
                placed.append((d, Place(head.number, entries)))
            try:
                self._flush(head, of, start, pieces)
            except Unavailable as e:
                if e.code != "disk_full" or not self._heads.instead(head, of, offset, offset - start):
                    raise
                drafts[:0] = [d for d, _ in placed]
                continue
            head.end, head.size = offset, max(head.size, offset)
            self._record(head, of, placed)
            self.written += len(placed)
            self._failures = 0

    def _flush(self, head: Head, of: Class, start: int, pieces: list[bytes]) -> None:
        size = sum(map(len, pieces))
        if start + size > head.size:
            disk.require_space(self._store.data_dir, start + size - head.size, self._heads.reserve(of))
        try:
            disk.write_at(head.fd, start, pieces)
        except OSError as e:  # nothing was flushed: the same place may be written again
            raise self._failed(disk.renamed(e, path_of(self._store, head.number))) from e
        try:
            os.fdatasync(head.fd)
            self.flushes += 1
        except OSError as e:
            self._broken = True
            raise self._failed(disk.renamed(e, path_of(self._store, head.number))) from e

    def _record(self, head: Head, of: Class, placed: Sequence[tuple[Draft, Place]]) -> None:
        later = self._store.linger_s > 0 and all(d.promised is not None for d, _ in placed)
        self._owed.append(_Owed(head.number, head.generation, of, head.end, placed, later))
        if later:
            for d, _ in placed:
                d.result = d.promised
                self._owed_names.add(d.name)
            if self._owed_since is None:
                self._owed_since = threading.Timer(self._store.linger_s, self._linger)
                self._owed_since.daemon = True
                self._owed_since.start()
            return
        try:
            self._settle()
        except EdgedError:
            for d, _ in placed:
                d.result, d.error = None, None
            self._owed.pop()  # nobody was told of these: the same frame sent again, or a start, has them
            raise

    def _linger(self) -> None:
        with suppress(EdgedError), self._turn:  # tried again with the next group
            self._settle()

    def _settle(self) -> None:
        """The rows of what is durable, in one transaction."""
        if self._owed_since is not None:
            self._owed_since.cancel()
            self._owed_since = None
        if not self._owed:
            return
        try:
            with self._store.transaction(durable=False):
                for o in self._owed:
                    self._settle_one(o)
        except EdgedError as e:
            if isinstance(e, Corrupt):
                self._broken = True
            raise self._failed(e) from e
        for o in self._owed:
            if (head := self._heads.get(o.of)) is not None and head.number == o.segment:
                head.announced = True
        self._owed.clear()
        self._owed_names.clear()

    def _settle_one(self, o: _Owed) -> None:
        head = self._heads.get(o.of)
        state = "open" if head is not None and head.number == o.segment else "full"
        if state == "full" or not head.announced:  # type: ignore[union-attr]
            self._store.execute(
                "update segment set state = 'full' where state = 'open' and class = ? and number <> ?",
                (o.of, o.segment),
            )
        self._store.execute(
            "insert into segment (number, generation, class, state, recorded) values (?1, ?2, ?3, ?4, ?5)"
            " on conflict (number) do update set generation = ?2, class = ?3, state = ?4, recorded = ?5",
            (o.segment, o.generation, o.of, state, o.end),
        )
        for d, place in o.placed:
            try:
                with self._store.transaction(durable=False):
                    made = d.rows(place)
                    if not o.told:
                        d.result = made
            except EdgedError as e:
                if isinstance(e, Corrupt) or e.code in ("disk_full", "busy", "disk_failed"):
                    raise
                if not o.told:
                    d.error = e
                else:  # its key was destroyed meanwhile
                    log.warning("a frame that was answered has no rows: %s", e)

    # what goes wrong

    def _failed(self, e: EdgedError) -> EdgedError:
        """Count a failure of the disk; what callers are told."""
        first, most = COOLDOWN_S
        if isinstance(e, Corrupt) or e.code == "disk_failed":
            self._not_before = self._store.clock.monotonic() + min(most, first * 2**self._failures)
            self._failures = min(self._failures + 1, 10)
        if isinstance(e, Corrupt) and e.code == "disk_failed":
            log.error("%s", e)
            return Unavailable(str(e), code="disk_failed", hint=e.hint)
        return e

    def _mend(self) -> None:
        wait = self._not_before - self._store.clock.monotonic()
        if wait > 0:
            raise Unavailable(f"the disk failed; tried again in {wait:.0f} s", code="disk_failed")
        if self._broken:
            self._heads.leave()
            self._store.reopen()
            self._settle()  # before its segment can be taken for an empty one
            # What stands behind `recorded` in what was left may be on disk or not, whatever the cache says.
            self._store.execute("update segment set state = 'full' where state = 'open'")
            self._broken = False
            log.warning("the store was opened anew after a failure of the disk")


LOCK = ".lock"


def written_now(store: Store) -> bool:
    """Whether some process is the writer of this store's segments."""
    fd = os.open(store.segments_dir / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _group(waiting: list[Draft]) -> list[Draft]:
    """Take from the front what fits into one group; at least one."""
    size = n = 0
    for d in waiting:
        size += d.record.size
        if n and size > GROUP_BYTES:
            break
        n += 1
    group = waiting[:n]
    del waiting[:n]
    return group
