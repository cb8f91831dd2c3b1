"""The camera's half of The Update Framework: retained metadata in, one verified target out.

Guarantees: what `verify` and `fetch` return was signed by the roles of the root that the camera was enrolled with, is
not expired, and is not older than anything this camera trusted before (python-tuf decides all of that; nothing here
does). Delegations are not followed. The time that expiry is reckoned from is never below the time this was built, the
last metadata that was trusted, and the last receipt (`Trust._time`), so that a clock that fell back to 1970 makes
nothing valid again. Does not guarantee: freshness beyond the timestamp's life; the right time on a camera without a
clock, beyond what it was last told.
"""

from __future__ import annotations

import logging
import re
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edged import durable
from edged.errors import Refused

if TYPE_CHECKING:
    from tuf.api.metadata import TargetFile  # type: ignore[attr-defined]
    from tuf.ngclient import Updater  # type: ignore[attr-defined]

    from agent.client import Source

MAX_FILE = 1024 * 1024
BUILT = 1_767_225_600.0  # 2026-01-01: a clock before this is wrong
FAR_S = 21 * 86400.0  # three lives of a timestamp: who is so far ahead of a clock that may be right, is wrong
GRAIN_S = 3600.0  # spares the flash
MAX_FILES = 300  # roots accumulate; the rest is a handful
MAX_INBOX = 16 * 1024 * 1024

_FILE = re.compile(r"timestamp\.json|[1-9][0-9]{0,14}\.(root|snapshot|targets)\.json")


class Inbox:
    """The latest retained message of each metadata file, unverified and bounded."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.changes = 0
        self._bytes = 0

    def put(self, name: str, data: bytes) -> None:
        """Keep a file; an empty payload means that it is withdrawn. What is no metadata's name, or too large, is dropped.

        Beyond MAX_FILES or MAX_INBOX bytes the oldest go, but not the timestamp: it is the one that is sent rarely.
        """
        if len(data) > MAX_FILE or not _FILE.fullmatch(name) or self.files.get(name, b"") == data:
            return
        self._bytes += len(data) - len(self.files.pop(name, b""))
        if data:
            self.files[name] = data
        while len(self.files) > MAX_FILES or self._bytes > MAX_INBOX:
            oldest = next(n for n in self.files if n != "timestamp.json")
            self._bytes -= len(self.files.pop(oldest))
        self.changes += 1


@dataclass(frozen=True)
class Vouched:
    """One target that the site's keys vouch for, and the session that can check its bytes."""

    target: TargetFile
    session: Updater
    fetcher: Source


class Trust:
    """What this camera trusts, kept in `folder`, starting from `root` (the bytes of root.json given at enrolment)."""

    def __init__(self, folder: Path, root: bytes, now: Callable[[], float]) -> None:
        self.folder, self.root, self._now = folder, root, now
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._heard = self._noted = float(_number_in(folder / "last-receipt"))  # said, and on disk
        logging.getLogger("tuf").setLevel(logging.ERROR)  # what matters comes as an exception

    def verify(self, inbox: Inbox, path: str) -> Vouched:
        """Refresh from the inbox and look up a target.

        Raises Unavailable while a file is missing, Refused (code untrusted) when the metadata does not verify, is
        expired or older than what was trusted before, or does not name the target.
        """
        from agent import client  # loads python-tuf, which nobody needs before

        fetcher = client.Source(inbox.files)
        at = self._time()
        with client.renamed(at):
            updater = client.session(self.folder, self.root, fetcher, at)
            updater.refresh()
            target = updater.get_targetinfo(path)
        # Nothing is known of when it was signed but that no timestamp lives longer than FAR_S.
        self._set_floor(max(self._time(heard=False), updater._trusted_set.timestamp.expires.timestamp() - FAR_S))
        if target is None:
            raise Refused(f"the site's keys do not vouch for {path}", code="untrusted")
        return Vouched(target, updater, fetcher)

    def fetch(self, vouched: Vouched, data: bytes) -> bytes:
        """Have python-tuf check `data` against the target's signed length and hashes; returns the checked bytes."""
        from agent import client

        vouched.fetcher.target = data
        with client.renamed(), tempfile.TemporaryDirectory(dir=self.folder) as scratch:
            path = vouched.session.download_target(vouched.target, str(Path(scratch) / "target"))
            return Path(path).read_bytes()

    def hear(self, ts: float) -> None:
        """The box's time, from a receipt for a frame of ours: the newest counts, so that a wrong one does not stay."""
        if ts < BUILT:  # 0 = it said none; less = its clock is wrong
            return
        self._heard = ts
        if abs(ts - self._noted) > GRAIN_S:
            with suppress(OSError):  # a full disk: then it is known until the next start
                durable.write(self.folder / "last-receipt", b"%d\n" % int(ts))
            self._noted = ts

    def _time(self, *, heard: bool = True) -> float:
        """The clock's time, but never below the floors: this was built, metadata was trusted, a receipt came.

        A floor that is FAR_S ahead of a clock that may be right (a receipt where there is none) was made by a wrong
        clock or by a box in wrong hands, and is left: else one wrong day of the box would end all updates for years.
        Believing a clock so far behind a floor lets nothing old in: what was valid then was signed before what is
        trusted now, so its version is lower, and versions only grow. What can be had by lying: metadata that is still
        the newest that was trusted is taken for fresh (with the camera's clock in hand, or, where it has none, with
        the box's certificate), or for expired (with the box's certificate; until an honest receipt comes, and so that
        it ends there, what was `heard` makes no other floor).
        """
        now = self._now()
        clock = now if now >= BUILT else self._heard
        floors = (self._heard if heard else 0.0, _number_in(self.folder / "time-floor"))
        return max(now, BUILT, *(f for f in floors if not clock or f - clock <= FAR_S))

    def _set_floor(self, at: float) -> None:
        floor = _number_in(self.folder / "time-floor")
        if at > floor + GRAIN_S or at < floor:
            durable.write(self.folder / "time-floor", b"%d\n" % int(at))


def _number_in(path: Path) -> int:
    """A time that was kept, 0 when there is none that can be read."""
    try:
        return int(path.read_bytes()[:11])
    except (FileNotFoundError, ValueError):
        return 0
