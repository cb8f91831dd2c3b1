"""The camera's half of The Update Framework: retained metadata in, one verified target out.

Guarantees: what `verify` and `fetch` return was signed by the roles of the root that the camera was enrolled with, is
not expired, and is not older than anything this camera trusted before (python-tuf decides all of that; nothing here
does). The time that expiry is reckoned from never goes below the latest time at which a refresh succeeded, so that a
clock that fell back to 1970 makes nothing valid again; only a floor that a wrong clock set weeks ahead is left. Does
not guarantee: freshness beyond the timestamp's life.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tuf.api.exceptions import (
    BadVersionNumberError,
    DownloadError,
    DownloadHTTPError,
    ExpiredMetadataError,
    LengthOrHashMismatchError,
    RepositoryError,
    UnsignedMetadataError,
)
from tuf.api.metadata import Metadata, Root, TargetFile  # type: ignore[attr-defined]
from tuf.ngclient import FetcherInterface, Updater  # type: ignore[attr-defined]

from edged import durable
from edged.errors import Misconfigured, Refused, Unavailable

MAX_FILE = 1024 * 1024
BUILT = 1_767_225_600.0  # 2026-01-01: a clock before this is wrong
FAR_S = 21 * 86400.0  # more than twice the life of a timestamp
MAX_FILES = 300  # roots accumulate; the rest is a handful

_META, _TARGET = "mqtt://meta/", "mqtt://target/"


class Inbox:
    """The latest retained message of each metadata file, unverified and bounded."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.changes = 0

    def put(self, name: str, data: bytes) -> None:
        """Keep a file; an empty payload means that it is withdrawn. Oversized ones are dropped."""
        if len(data) > MAX_FILE or self.files.get(name) == data:
            return
        self.files.pop(name, None)
        if data:
            self.files[name] = data
            while len(self.files) > MAX_FILES:
                self.files.pop(next(iter(self.files)))
        self.changes += 1


class _Source(FetcherInterface):
    """Reads what came over the link: metadata by file name, and the one target that was assembled."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = dict(files)
        self.target = b""

    def _fetch(self, url: str) -> Iterator[bytes]:
        if url.startswith(_TARGET):
            return iter((self.target,))
        name = url.removeprefix(_META)
        if name not in self.files:
            raise DownloadHTTPError(f"{name} did not arrive", 404)
        return iter((self.files[name],))


@dataclass(frozen=True)
class Vouched:
    """One target that the site's keys vouch for, and the session that can check its bytes."""

    target: TargetFile
    session: Updater
    fetcher: _Source


class Trust:
    """What this camera trusts, kept in `folder`, starting from `root` (the bytes of root.json given at enrolment)."""

    def __init__(self, folder: Path, root: bytes, now: Callable[[], float]) -> None:
        self.folder, self.root, self._now = folder, root, now
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        logging.getLogger("tuf").setLevel(logging.ERROR)  # what matters comes as an exception

    def verify(self, inbox: Inbox, path: str) -> Vouched:
        """Refresh from the inbox and look up a target.

        Raises Unavailable while a file is missing, Refused (code untrusted) when the metadata does not verify, is
        expired or older than what was trusted before, or does not name the target.
        """
        fetcher = _Source(inbox.files)
        with _renamed():
            session = Updater(str(self.folder), _META, str(self.folder), _TARGET, fetcher, bootstrap=self.root)
            at = self._time()
            # ngclient reads the machine's clock once; ours is injected, and has a floor.
            session._trusted_set.reference_time = datetime.fromtimestamp(at, UTC)
            session.refresh()
            target = session.get_targetinfo(path)
        self._set_floor(at)
        if target is None:
            raise Refused(f"the site's keys do not vouch for {path}", code="untrusted")
        return Vouched(target, session, fetcher)

    def fetch(self, vouched: Vouched, data: bytes) -> bytes:
        """Have python-tuf check `data` against the target's signed length and hashes; returns the checked bytes."""
        vouched.fetcher.target = data
        with _renamed(), tempfile.TemporaryDirectory(dir=self.folder) as scratch:
            path = vouched.session.download_target(vouched.target, str(Path(scratch) / "target"))
            return Path(path).read_bytes()

    def _time(self) -> float:
        """The clock's time, never below the floor; but a floor that is FAR ahead was made by a wrong clock.

        Believing a clock so far behind the floor lets nothing old in: what was valid then was signed before what is
        trusted now, so its version is lower, and versions only grow.
        """
        now, floor = self._now(), self._floor()
        return now if now >= BUILT and floor - now > FAR_S else max(now, floor)

    def _floor(self) -> float:
        try:
            return float((self.folder / "time-floor").read_text())
        except (FileNotFoundError, ValueError):
            return 0.0

    def _set_floor(self, at: float) -> None:
        floor = self._floor()
        if at > floor + 3600 or at < floor:  # an hour's grain spares the flash
            durable.write(self.folder / "time-floor", b"%d\n" % int(at))


def check_root(root: bytes, source: str = "root.json") -> None:
    """Raises Misconfigured when these bytes are no root that the camera could start from."""
    try:
        metadata = Metadata[Root].from_bytes(root)
        if not isinstance(metadata.signed, Root):
            raise Misconfigured(f"{source} is not a root of trust", hint="copy keys or tuf/1.root.json from the box")
        metadata.signed.verify_delegate(Root.type, metadata.signed_bytes, metadata.signatures)
    except RepositoryError as e:
        raise Misconfigured(
            f"{source} is not a root of trust: {e}", hint="copy tuf/1.root.json of the site's directory to the camera"
        ) from e


@contextmanager
def _renamed() -> Iterator[None]:
    """python-tuf's errors as ours."""
    try:
        yield
    except DownloadHTTPError as e:
        raise Unavailable(str(e), code="incomplete") from e
    except ExpiredMetadataError as e:
        raise Refused(f"the signed metadata has expired: {e}", code="untrusted") from e
    except BadVersionNumberError as e:
        raise Refused(f"the signed metadata is older than what was trusted before: {e}", code="untrusted") from e
    except UnsignedMetadataError as e:
        raise Refused(f"the metadata is not signed by the site's keys: {e}", code="untrusted") from e
    except LengthOrHashMismatchError as e:
        raise Refused(f"the bytes are not those that were signed: {e}", code="untrusted") from e
    except (RepositoryError, DownloadError, ValueError) as e:
        raise Refused(f"the signed metadata cannot be used: {e}", code="untrusted") from e
