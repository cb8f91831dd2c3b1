"""The keyring: the data keys of a store, in a file and a second copy of it.

Guarantees: what `update` returned from is durable in every copy that could be reached; after a crash at any step the
newest whole copy is taken and the other is made equal to it; a damaged, mixed or foreign copy is never opened as if it
were good; where copies existed no empty one is made. Several processes may change it: each reads it anew under a lock.
A key that was destroyed is overwritten on the disk as well (supersede.py says where that helps). Does not guarantee:
against somebody who puts back an older state of *both* copies (`Seal` compares with the catalogue); that copies made
elsewhere forget.

The first copy is written before the second: it lies on the disk of the store, so whoever opens the store has the newer
one at hand, whatever became of the medium of the second.
"""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from edged.errors import EXIT_CONFIG, Corrupt, Misconfigured, Unavailable
from edged.storage import disk, sheet, supersede
from edged.storage.sheet import Ring, SiteKey, Unlocked

FILE = "keyring"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trouble:
    """Something that is wrong with the keys and is not yet a loss."""

    code: str
    text: str
    hint: str = ""


@dataclass(frozen=True)
class Copy:
    """A copy as it was found. `state`: good, missing, unreachable (its folder is missing), unreadable, damaged, foreign
    (of another site key); good ones are `unlocked`.
    """

    path: Path
    state: str
    why: str = ""
    data: bytes = b""
    generation: int = -1
    unlocked: Unlocked | None = None

    def __str__(self) -> str:
        return f"{self.path} is {self.why or self.state}"


def copies_of(data_dir: Path, copy: Path | None = None) -> tuple[Path, Path]:
    """Where the copies of a store lie: in it, and at `copy` (default: in its folder of keys)."""
    return data_dir / FILE, copy or data_dir / "keys" / FILE


def look(copies: Sequence[Path], site: SiteKey | None) -> list[Copy]:
    """Read every copy. Without the site key "good" only means that the checksum is right."""
    return [_look(path, site) for path in copies]


def trouble(copies: Sequence[Path], site_key: bytes | None = None) -> list[Trouble]:
    """What is wrong with the copies of a store that has a keyring; empty when both are whole and the same."""
    found = look(copies, None if site_key is None else SiteKey(site_key))
    bad = [c for c in found if c.state != "good"]
    if len(bad) == len(found):
        return [Trouble("keyring_lost", f"no copy of the keyring can be read: {_list(found)}", LOST)]
    listed = [Trouble(f"keyring_copy_{c.state}", str(c), _HINTS[c.state]) for c in bad]
    if not bad and found[0].data != found[1].data:
        listed.append(
            Trouble("keyring_copy_old", "the copies of the keyring are not the same", "a restart of edged repairs it")
        )
    newest = max(found, key=lambda c: c.generation)
    owed = newest.unlocked.ring.owed if newest.unlocked is not None else ()
    if listed and owed:
        listed.append(
            Trouble(
                "keys_owed", f"{len(owed)} destroyed data keys may still stand in a copy of the keyring",
                "bring the medium back: the copy is written again at the next start",
            )
        )  # fmt: skip
    if newest.unlocked is not None and len(newest.unlocked.slots) > 1:
        listed.append(
            Trouble("rotation_unfinished", "a rotation of the site key is not finished", "`edged key rotate` ends it")
        )
    return listed


class Keyring:
    """The copies of one store and the site key that opens them. Safe to share between threads."""

    def __init__(self, site_key: bytes, copies: tuple[Path, Path]) -> None:
        self.copies = copies
        self._site = SiteKey(site_key)
        self._lock = threading.RLock()
        self._held = 0
        self._now: Unlocked | None = None
        self._seen: tuple[int, int, int] | None = None
        self._warned: set[tuple[Path, str]] = set()

    def there(self) -> bool:
        """Whether any copy is there, whole or not."""
        return any(c.state not in ("missing", "unreachable") for c in look(self.copies, None))

    def changed(self) -> bool:
        """Whether the first copy is not the one that was read last: cheap, one stat."""
        return self._seen is None or self._signature() != self._seen

    def ring(self) -> Ring:
        """What the newest good copy holds. Raises Corrupt("keyring_lost"), Misconfigured("wrong_key")."""
        with self._lock:
            if self._now is None or self.changed():
                # Before the read: a change in between is then seen again.
                seen = self._signature()
                self._now = self._newest(look(self.copies, self._site)).unlocked
                self._seen = seen
            assert self._now is not None
            return self._now.ring

    def create(self) -> Ring:
        """The first, empty one, unless another process was faster."""
        with self._writing():
            if self.there():
                return self.ring()
            body_key = secrets.token_bytes(32)
            empty = Unlocked(Ring(), (self._site.slot(body_key),), body_key)
            self._write(empty, look(self.copies, self._site), current=True)
            return self.ring()

    def update(self, change: Callable[[Ring], Ring], *, always: bool = False) -> Ring:
        """Write what `change` makes of the newest state to both copies, durably.

        When it makes nothing of it, a copy that is not as the newest is repaired, and with `always` both are written.

        Raises Unavailable("disk_full"), Corrupt("disk_failed") when the first copy cannot be written. A second one that
        cannot is logged, and reported by `trouble`. `change` gets no lock of the catalogue and must take none.
        """
        return self._rewrite(lambda now: replace(now, ring=change(now.ring)), always=always).ring

    def newest_bytes(self) -> bytes:
        """The newest good copy as it lies there."""
        return self._newest(look(self.copies, self._site)).data

    def admit(self, site_key: bytes) -> None:
        """Let another site key open the keyring, too. Raises Unavailable when a copy is not there to take it."""
        site = SiteKey(site_key)

        def with_slot(now: Unlocked) -> Unlocked:
            if any(s.mark == site.mark for s in now.slots):
                return now
            return replace(now, slots=(*now.slots, site.slot(now.body_key)))

        self._rewrite(with_slot, strict=True)

    def retire(self) -> None:
        """From now on only this keyring's own site key opens it, under a new body key."""

        def alone(now: Unlocked) -> Unlocked:
            if len(now.slots) == 1:
                return now
            body_key = secrets.token_bytes(32)
            return Unlocked(now.ring, (self._site.slot(body_key),), body_key)

        self._rewrite(alone, strict=True)

    def marks(self) -> list[bytes]:
        """The marks of the site keys that open it, the newest last."""
        self.ring()
        assert self._now is not None
        return [s.mark for s in self._now.slots]

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other writers of keys away, of other processes too."""
        with self._writing():
            yield

    def _rewrite(
        self, change: Callable[[Unlocked], Unlocked], *, strict: bool = False, always: bool = False
    ) -> Unlocked:
        with self._writing():
            found = look(self.copies, self._site)
            newest = self._newest(found)
            now = newest.unlocked
            assert now is not None
            for path in self.copies:
                with suppress(OSError):  # a copy that cannot be swept cannot be written either, and that is said
                    supersede.sweep(path)
            away = next((c for c in found if c.state in ("unreachable", "foreign")), None)
            if strict and away is not None:
                raise Unavailable(
                    f"the second copy of the keyring cannot be written: {away}", code="keyring_copy", hint="plug it in"
                )
            after = change(now)
            if after != now or always:
                same = all(c.data == newest.data for c in found)
                self._write(after, found, current=same, old=now.ring, strict=strict)
            else:
                self._now, self._seen = now, None
                for copy in found:
                    if copy.data != newest.data and self._put(copy, newest.data, must=copy.path == self.copies[0]):
                        why = copy.why or "older"
                        log.warning("keyring: %s is %s; written again from the other copy", copy.path, why)
            assert self._now is not None
            return self._now

    def _write(
        self, after: Unlocked, found: Sequence[Copy], *, current: bool, old: Ring | None = None, strict: bool = False
    ) -> None:
        ring = after.ring
        old = old or ring
        gone = {k.id for k in old.keys} - {k.id for k in ring.keys}
        owed = tuple(sorted(gone | (set() if current else set(old.owed))))
        ring = msgspec.structs.replace(ring, generation=old.generation + 1, owed=owed)
        after = replace(after, ring=ring)
        data = sheet.pack(after)
        self._now = self._seen = None  # read it again should this fail half way
        for copy in found:
            self._put(copy, data, must=strict or copy.path == self.copies[0])
        self._seen = self._signature()
        self._now = after

    def _put(self, copy: Copy, data: bytes, *, must: bool) -> bool:
        """Write a copy; a second one that is away or another site's is left alone. Whether it was written."""
        if not must and copy.state in ("unreachable", "foreign"):
            self._warn(copy, str(copy))
            return False
        try:
            supersede.write(copy.path, data)
        except OSError as e:
            if must:
                raise disk.renamed(e, copy.path) from e
            self._warn(copy, f"{copy.path} cannot be written: {e.strerror}")
            return False
        self._warned = {w for w in self._warned if w[0] != copy.path}
        return True

    def _warn(self, copy: Copy, text: str) -> None:
        if (copy.path, text) not in self._warned:
            self._warned.add((copy.path, text))
            log.warning("keyring: %s", text)

    def _newest(self, found: list[Copy]) -> Copy:
        if found[0].state == "foreign":  # the second copy of another site is only a wrong stick
            sheet.unlock(sheet.parse(found[0].data), self._site)
        good = [c for c in found if c.state == "good"]
        if good:
            for copy in found:
                if copy.state not in ("good", "missing"):
                    self._warn(copy, str(copy))
            return max(good, key=lambda c: c.generation)  # of equals the first
        for copy in found:
            if copy.state == "foreign":
                sheet.unlock(sheet.parse(copy.data), self._site)
        raise Corrupt(
            f"no copy of the keyring can be read: {_list(found)}", code="keyring_lost", hint=LOST,
            exit_code=EXIT_CONFIG,  # no restart brings a copy back
        )  # fmt: skip

    def _signature(self) -> tuple[int, int, int] | None:
        try:
            found = os.stat(self.copies[0])
        except OSError:
            return (0, 0, 0)
        return found.st_ino, found.st_mtime_ns, found.st_size

    @contextmanager
    def _writing(self) -> Iterator[None]:
        lock = self.copies[0].with_name(f".{FILE}.lock")
        with self._lock:
            if self._held:  # a second descriptor would wait for the first
                yield
                return
            try:
                folder = self.copies[1].parent
                if folder.parent == self.copies[0].parent and not folder.is_dir():  # a medium's is not ours to make
                    disk.make_dir(folder)
                    supersede.give(folder)
                fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                supersede.give(lock)
            except OSError as e:
                raise disk.renamed(e, lock) from e
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
                self._held += 1
                yield
            finally:
                self._held -= 1
                os.close(fd)


def _look(path: Path, site: SiteKey | None) -> Copy:
    for _ in range(10):
        try:
            with path.open("rb") as file:
                data = file.read(sheet.MAX_BYTES)
                moved = os.fstat(file.fileno()).st_ino
        except FileNotFoundError:
            if path.parent.is_dir():
                return Copy(path, "missing", "not there")
            return Copy(path, "unreachable", "not reachable: its folder is not there")
        except OSError as e:
            return Copy(path, "unreadable", f"not readable: {e.strerror}")
        try:
            found = sheet.parse(data)
            break
        except ValueError as e:
            why = str(e)
        try:
            if os.stat(path).st_ino == moved:
                return Copy(path, "damaged", why, data)
        except OSError:
            pass  # superseded, and overwritten, while it was read: look again
    else:
        return Copy(path, "damaged", why, data)
    if site is None:
        return Copy(path, "good", data=data, generation=found.generation)
    try:
        return Copy(path, "good", "", data, found.generation, sheet.unlock(found, site))
    except Misconfigured:
        return Copy(path, "foreign", "of another site key", data)
    except ValueError as e:
        return Copy(path, "damaged", str(e), data)


def _list(found: Sequence[Copy]) -> str:
    return ", ".join(map(str, found))


LOST = (
    "put a whole copy at one of these places (one made by `edged key backup`, or the medium of the second copy); "
    "no empty one is made, because all that was sealed would stay sealed"
)
_HINTS = {
    "missing": "a restart of edged writes it again",
    "damaged": "a restart of edged writes it again from the other",
    "unreadable": "it must belong to the user edged runs as; or the medium fails: look at dmesg",
    "unreachable": "plug in its medium, or change storage.keyring_copy",
    "foreign": "it is another site's, or from before a rotation: move it away by hand",
}
