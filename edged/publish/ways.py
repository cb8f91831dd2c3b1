"""Shorter ways to the bytes of a release: its packed form, and deltas from what cameras run now.

Guarantees: every way was walked once, here, to the very bytes of the release; it is smaller than what it replaces by more
than it costs in signed metadata; its file is in the store before its hash is signed. Does not guarantee that there is
one: a file that is no model, a disk that is full or an old file that is gone leave fewer ways, never an error, because
the whole file always goes. A child makes them, at about one to ten seconds of CPU for each MB and each way; who calls waits.
"""

from __future__ import annotations

import hashlib
import logging
import subprocess
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from edged import packed
from edged.errors import Corrupt, EdgedError
from edged.packed import delta
from edged.packed.__main__ import files_in
from edged.publish import deliver
from edged.publish.signer import environment
from edged.storage import models
from edged.storage.store import Store
from edged.wire.messages import Way

log = logging.getLogger(__name__)

MOST_BYTES = 64 * 2**20  # of a file that has ways: what a camera takes at most
MOST_DELTAS = 3
SECONDS = 900.0  # for all ways of a release
MOST_HASHES = 1024  # of all ways of a release together: the metadata of all signed releases is to stay below 1 MiB
HASH_BYTES = 67  # of a chunk's hash in the metadata: 64 digits, quotes, a comma
WAY_BYTES = 240  # of a way without its chunks
_SUFFIXES = {"packed": ".epk", "delta": ".epd"}


def make(store: Store, data: bytes, running: Iterable[str], *, chunk: int) -> list[Way]:
    """The ways to `data`, the packed form first, whose files are in the store now.

    `running`: SHA-256 of files that cameras have, the most important first; MOST_DELTAS of those that the store has are
    tried. `chunk`: bytes. Raises nothing of its own.
    """
    found: list[Way] = []
    left, instead = MOST_HASHES, len(data)  # `instead`: bytes that a camera needs without a further way
    for form, source, way in _tried(store, data, running) if len(data) <= MOST_BYTES else ():
        digests = deliver.digests(way, chunk)
        if len(digests) > left or len(way) + WAY_BYTES + HASH_BYTES * len(digests) >= instead:
            continue
        try:
            sha256 = models.put_model(store, way, _SUFFIXES[form])
        except EdgedError as e:
            log.warning("a %s is not kept: %s", form, e)
            break
        found.append(Way(form, sha256, len(way), tuple(digests), source))  # type: ignore[arg-type]
        left -= len(digests)
        if form == "packed":
            instead = len(way)
    return found


def _tried(store: Store, data: bytes, running: Iterable[str]) -> Iterator[tuple[str, str, bytes]]:
    """(form, source, bytes), each rebuilt to the very bytes before it is given."""
    own = hashlib.sha256(data).hexdigest()
    olds: dict[str, bytes] = {}
    for source in dict.fromkeys(running):
        with _left_out(f"the delta from {source[:12]}"):
            if source != own and len(olds) < MOST_DELTAS and len(old := models.read_model(store, source)) <= MOST_BYTES:
                olds[source] = old
    made = _made(data, list(olds.values()))
    for source, way in zip(("", *olds), made, strict=False):
        with _left_out(f"the delta from {source[:12]}" if source else "the packed form"):
            if way:
                most = len(data)
                found = delta.rebuild(olds[source], way, most=most) if source else packed.unpack(way, most=most)
                if found != data:
                    raise Corrupt("it does not lead back to the release")
                yield "delta" if source else "packed", source, way


def _made(data: bytes, olds: Sequence[bytes]) -> list[bytes]:
    """The packed form and a delta from each of `olds`, b"" for what could not be made, by a child (`edged.packed.__main__`):
    seconds of Python, which would hold up the threads that answer cameras.
    """
    asked = b"".join(len(file).to_bytes(8, "little") + file for file in (data, *olds))
    command = [sys.executable, "-P", "-m", "edged.packed"]
    try:
        done = subprocess.run(
            command, input=asked, capture_output=True, timeout=SECONDS, cwd="/", env=environment(), check=False
        )
    except subprocess.TimeoutExpired as e:
        log.warning("ways took longer than %.0f s: what was not made by then is left out", SECONDS)
        return files_in(e.stdout or b"")
    except OSError as e:
        log.warning("no ways could be made: %s", e)
        return []
    for line in done.stderr.decode(errors="replace").splitlines()[-4:]:
        log.info("%s", line[:300])
    return files_in(done.stdout)


@contextmanager
def _left_out(what: str) -> Iterator[None]:
    """A way that fails is left out: the whole file always goes."""
    try:
        yield
    except EdgedError as e:
        log.info("%s is left out: %s", what, e)


def still(store: Store, signed: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Of ways that were signed before those whose files are still here. Unread: at once."""
    return [dict(way) for way in signed if models.sent_path(store, str(way["sha256"])).exists()]


def drop(store: Store, signed: Collection[str]) -> int:
    """Delete the files of ways that nobody vouches for any more; `signed`: SHA-256 of all ways that are. Returns how many.

    Safe at any time: a way can be made again from the files that it leads from and to.
    """
    dropped = 0
    for path in store.models_dir.glob("*.ep[kd]"):
        if path.stem not in signed:
            with suppress(OSError):
                path.unlink()
                dropped += 1
    return dropped
