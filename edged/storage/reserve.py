"""Space that is taken beforehand and given back when the disk is full: labels, audit, rollback and erasure work then.

A file of SIZE bytes, really written (random bytes, so that no file system folds them). It is given back

    at once       when SQLite finds the disk full in a durable transaction (`Store.transaction`): the caller tries again
    beforehand    on the tick, when less than LOW is free

and taken again on the tick when SIZE + BACK is free. Guarantees: pictures never use it: `journal` makes no segment larger
while less than `Store.min_free` is free, or while the reserve is given back (`released`). Does not guarantee that it lasts.
"""

from __future__ import annotations

import logging
import os
import secrets
from contextlib import suppress
from pathlib import Path

from edged.durable import sync_folder

log = logging.getLogger(__name__)

SIZE = 16 * 10**6
LOW = 4 * 2**20
BACK = 16 * 2**20
NAME = "reserve"
_BLOCK = 2**20


def step(folder: Path, size: int = SIZE) -> bool:
    """Give it back or take it again, as the free space says; True if the reserve is whole now. 0 = there is none."""
    path = folder / NAME
    have = _size(path)
    found = os.statvfs(folder)
    free = found.f_bavail * found.f_frsize
    if have == size:
        if size and free < LOW:
            release(folder)
            return False
        return True
    if free + have < size + BACK:
        return False
    return _take(path, size)


def release(folder: Path) -> bool:
    """Give the space back to the file system; True if there was any."""
    path = folder / NAME
    if not _size(path):
        return False
    log.warning("the disk is full: %d bytes of reserve are given back", _size(path))
    with suppress(OSError):
        os.truncate(path, 0)  # kept as a sign: there should be a reserve, and is not
    return True


def released(folder: Path) -> bool:
    """There should be a reserve, and it is given back."""
    path = folder / NAME
    return path.exists() and not path.stat().st_size


def _take(path: Path, size: int) -> bool:
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as f:
            for start in range(0, size, _BLOCK):
                f.write(secrets.token_bytes(min(_BLOCK, size - start)))
            f.flush()
            os.fsync(f.fileno())
        sync_folder(path.parent)
    except OSError as e:
        log.warning("no reserve of %d bytes: %s", size, e.strerror)
        with suppress(OSError):
            os.truncate(path, 0)
        return False
    return True


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
